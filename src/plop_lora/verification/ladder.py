"""From the trials of the ladder to each arm's own learning rate. Pure; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plop_lora.records import LadderStep, TrialResult
from plop_lora.study.compare import cause_within
from plop_lora.study.rates import best_rate, chose_nothing, step_of
from plop_lora.verification.design import Design


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """The rate of every arm that has one, the ladder's steps, the causes of arms without.

    `lost` has the arms of whose ladder a trial was lost to the machine, with the cause: their rate
    was chosen among fewer than the others had. `blind` has those whose ladder gave one value and
    one loss at every rate, with what that means: it chose nothing.
    """

    best: Mapping[str, float]
    steps: tuple[LadderStep, ...]
    causes: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    lost: Mapping[str, str] = field(default_factory=dict)
    blind: Mapping[str, str] = field(default_factory=dict)


def choose_rates(design: Design, results: Sequence[TrialResult]) -> Rates:
    """Return each arm's best rate on the selection split.

    A rate whose trial failed is passed over; an arm all of whose trials failed has none. A best
    rate at an end of the ladder is noted, since a better one may lie beyond.
    """
    if len(design.rates) == 1:
        return Rates({arm.name: design.rates[0] for arm in design.arms}, (), {}, ())
    study = design.study
    best: dict[str, float] = {}
    causes: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    blind: dict[str, str] = {}
    for arm in design.arms:
        own = [result for result in results if result.arm == arm.name]
        steps = [step_of(result, study.metric) for result in own]
        losses = [result.metrics.get("loss") for result in own]
        rate = best_rate(steps, losses, higher=study.higher)
        if rate is None:
            causes[arm.name] = tuple(dict.fromkeys(step.cause or "" for step in steps))
            continue
        best[arm.name] = rate
        if chose_nothing(steps, losses):
            blind[arm.name] = _BLIND
        notes += _edge(arm.name, rate, design.rates)
    every = tuple(step_of(result, study.metric) for result in results)
    return Rates(best, every, causes, tuple(notes), _lost(results), blind)


def _lost(results: Sequence[TrialResult]) -> dict[str, str]:
    """Say of each arm which trial of its ladder the machine has ended."""
    return {result.arm: _LOST.format(rate=result.learning_rate, cause=cause_within(result))
            for result in results if result.mendable}  # fmt: skip


_BLIND = (
    "its ladder gave the same value and the same loss at every rate, so it chose nothing: give its "
    "trials more rows with ladder_share, or more steps"
)
_LOST = (
    "its ladder lost the trial at the rate {rate:g} to the machine ({cause}), so its rate was "
    "chosen among fewer; start again to run it"
)


def _edge(arm: str, rate: float, rates: Sequence[float]) -> list[str]:
    if rate == rates[-1]:
        return [f"the best rate of {arm}, {rate:g}, is the largest tried; a larger may be better"]
    if rate == rates[0]:
        return [f"the best rate of {arm}, {rate:g}, is the smallest tried; a smaller may be better"]
    return []
