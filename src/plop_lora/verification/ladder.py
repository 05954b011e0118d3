"""From the trials of the ladder to each arm's own learning rate. Pure; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plop_lora.records import LadderStep, TrialResult
from plop_lora.verification.plan import Study


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


def value_of(result: TrialResult, metric: str) -> float | None:
    """Return a trial's value of a metric, None where it failed or has no finite one."""
    value = result.metrics.get(metric) if result.done else None
    return value if value is not None and math.isfinite(value) else None


def cause_of(result: TrialResult, metric: str) -> str | None:
    """Return why a trial has no value, None where it has one."""
    if value_of(result, metric) is not None:
        return None
    return result.cause or f"it ended without a finite {metric}"


def choose_rates(study: Study, results: Sequence[TrialResult]) -> Rates:
    """Return each arm's best rate on the selection split; of equal ones the one of lower loss.

    Shares of right answers on few rows are often equal where the loss is not; where that is not
    known either, the smaller rate counts. A rate whose trial failed is passed over; an arm all of
    whose trials failed has none. A best rate at an end of the ladder is noted, since a better one
    may lie beyond.
    """
    if len(study.rates) == 1:
        return Rates({arm.name: study.rates[0] for arm in study.arms}, (), {}, ())
    sign = 1.0 if study.higher else -1.0
    steps = tuple(
        LadderStep(
            arm=result.arm,
            learning_rate=result.learning_rate,
            value=value_of(result, study.metric),
            cause=cause_of(result, study.metric),
        )
        for result in results
    )
    best: dict[str, float] = {}
    causes: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    blind: dict[str, str] = {}
    for arm in study.arms:
        own = [step for step in steps if step.arm == arm.name]
        tried = [
            (sign * step.value, -result.metrics.get("loss", 0.0), -step.learning_rate)
            for step, result in zip(steps, results, strict=True)
            if step.arm == arm.name and step.value is not None
        ]
        if not tried:
            causes[arm.name] = tuple(dict.fromkeys(step.cause or "" for step in own))
            continue
        best[arm.name] = -max(tried)[2]
        if len(tried) > 1 and len({outcome[:2] for outcome in tried}) == 1:
            blind[arm.name] = _BLIND
        notes += _edge(arm.name, best[arm.name], study.rates)
    return Rates(best, steps, causes, tuple(notes), _lost(results), blind)


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


def cause_within(result: TrialResult) -> str:
    """Return the cause of a failed trial as a part of a sentence."""
    return (result.cause or "no cause given").rstrip(".")


def _edge(arm: str, rate: float, rates: Sequence[float]) -> list[str]:
    if rate == rates[-1]:
        return [f"the best rate of {arm}, {rate:g}, is the largest tried; a larger may be better"]
    if rate == rates[0]:
        return [f"the best rate of {arm}, {rate:g}, is the smallest tried; a smaller may be better"]
    return []
