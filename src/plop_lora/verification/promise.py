"""What a plan promises: the power of its verdict, and how many of its trials it takes. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from plop_lora.records.verification import CONFIRMED
from plop_lora.statistics import Components
from plop_lora.verification.design import LEAST_SEEDS, Design
from plop_lora.verification.power import DRAWS, Setting, detectable, simulate
from plop_lora.verification.spreads import spread_of

SEARCH_DRAWS = 100
"""A search simulates several times."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a design can be expected to do.

    Attributes:
        spread: of the difference of two arms, from which all of it follows.
        detectable: how much better one rival must be to be found in 80 % of runs, None where
            nothing is found.
        confirms: how often the shortlist is confirmed where all arms are equal, None where that
            cannot be said before the run.
        trials: share of the deciding trials that are expected to be needed.
    """

    spread: Components
    detectable: float | None
    confirms: float | None
    trials: float


def promise(design: Design, rivals: int) -> Promise:
    """Return what a design with so many rivals can be expected to do.

    Where the margin is a share alone, its value is known only in the run, so that only the spread
    is given.
    """
    study = design.study
    spread = spread_of(study, design.outcome)
    margin = design.margin.value
    if margin is None or design.looks[-1].seeds < LEAST_SEEDS:
        return Promise(spread, None, None, 1.0)
    setting = Setting(design.looks, spread, len(study.splits.report), rivals, margin)
    equal = simulate(setting, draws=DRAWS)
    most = (rivals + 1) * design.looks[-1].seeds
    return Promise(
        spread=spread,
        detectable=detectable(setting, draws=SEARCH_DRAWS),
        confirms=equal.share(CONFIRMED),
        trials=fmean(equal.trials) / most,
    )
