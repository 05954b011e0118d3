"""The design of a verification: which trials decide, at which rates and seeds.

A design is a study with its arms. From it come the trials of the ladder (`ladder`) and those of
the confirmation: every arm at its own best rate, every seed, all rows, judged on the report split.
No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plop_lora.indicators.signal import Signal
from plop_lora.placement import PLOP
from plop_lora.recipe import VerifyDesign
from plop_lora.records import (
    TrialSpec,
)
from plop_lora.records.trial import CONFIRM, UNTRAINED
from plop_lora.study.rates import Length, shortened
from plop_lora.study.splits import REPORT
from plop_lora.study.study import Study
from plop_lora.study.usual_rate import rounded
from plop_lora.verification.arm_rules import COMPULSORY, DEFAULT_ARMS
from plop_lora.verification.arms import Arm, make_arms

UNTRAINED_MODEL = "untrained model"
QUICK_SEEDS = 2
LEAST_SEEDS = 2
"""One seed has no spread, so nothing can be told from it."""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """A study with its arms, and how they are compared.

    Attributes:
        study: what all trials have in common.
        arms: the shortlist first.
        rates: learning rates with which the ladder begins, rising.
        widen: how many rungs may be added at each end of the ladder.
        seeds: of the confirmation; the ladder runs on the first.
        margin: loss of the metric that is accepted.
        ladder: how much a short trial of the ladder sees.
        quick: whether this is a smoke test.
        notes: what a reader should know.
    """

    study: Study
    arms: tuple[Arm, ...]
    rates: tuple[float, ...]
    widen: int
    seeds: tuple[int, ...]
    margin: float
    ladder: Length
    quick: bool
    notes: tuple[str, ...]

    @property
    def takes_all_rows(self) -> bool:
        """Whether the short trials of the ladder are as long as those that decide."""
        return self.ladder.rows >= len(self.study.splits.train)


def arm_names(wanted: VerifyDesign) -> tuple[str, ...]:
    """Return the arms that are asked for, the shortlist first, the strongest rival among them.

    Those of no design of its own may be fewer in the end: a rule may find nothing in a model.
    """
    return tuple(dict.fromkeys((PLOP, *(wanted.arms or DEFAULT_ARMS), COMPULSORY)))


def make_design(
    study: Study,
    wanted: VerifyDesign,
    *,
    signals: Mapping[str, Signal] | None = None,
    names: Sequence[str] | None = None,
) -> Design:
    """Make the arms of a study, and fill in what is left open of how they are compared.

    Args:
        study: what the trials have in common.
        wanted: arms, rates, seeds and margin, as the user wrote them.
        signals: of the arms that need one, by selector.
        names: the arms; by default those that are wanted.

    Raises:
        UsageError: an unknown arm, a budget that an arm cannot meet.
    """
    count = QUICK_SEEDS if wanted.quick else wanted.seeds
    seeds = tuple(range(study.seed, study.seed + count))
    arms = make_arms(
        wanted.arms if names is None else names,
        study.scores,
        budget=study.budget,
        top=study.top,
        seeds=seeds,
        signals=signals,
        largest_rank=study.task.largest_rank,
    )
    rates = _rates(study, wanted)
    notes: tuple[str, ...] = ()
    if len(rates) == 1:
        notes = ("all arms train at one learning rate, which favours those that it suits",)
    return Design(
        study=study,
        arms=arms,
        rates=rates,
        widen=0 if wanted.learning_rates is not None else wanted.widen,
        seeds=seeds,
        margin=study.usual_margin if wanted.margin is None else wanted.margin,
        ladder=shortened(study, wanted.ladder_share),
        quick=wanted.quick,
        notes=notes,
    )


def _rates(study: Study, wanted: VerifyDesign) -> tuple[float, ...]:
    if wanted.learning_rates is not None:
        return wanted.learning_rates
    return tuple(rounded(study.usual_rate * factor, 6) for factor in wanted.ladder)


# --------------------------------------------------------------------------- trials


def confirm_specs(design: Design, rates: Mapping[str, float]) -> tuple[TrialSpec, ...]:
    """Return the trials of the report, by arm and seed, of every arm that has a rate."""
    return tuple(
        design.study.trial_spec(
            arm.name, placement, learning_rate=rates[arm.name], seed=seed, phase=CONFIRM,
            judged_on=REPORT,
        )
        for arm in design.arms
        if arm.name in rates
        for placement, seed in zip(arm.placements, design.seeds, strict=True)
    )  # fmt: skip


def untrained_spec(design: Design, judged_on: str) -> TrialSpec:
    """Return the trial that judges the model as it was, on a split.

    It takes one step at a learning rate of 0. The adapters of the shortlist start without effect,
    and keep it; so what is judged is the untrained model, by the same way as every arm.
    """
    study = design.study
    rows = study.training.batch_size * study.training.accumulation
    return study.trial_spec(
        UNTRAINED_MODEL, design.arms[0].placements[0], learning_rate=0.0, seed=design.seeds[0],
        phase=UNTRAINED, judged_on=judged_on, rows=min(len(study.splits.train), rows), steps=1,
    )  # fmt: skip
