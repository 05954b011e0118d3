"""The rate ladder: short trials at several learning rates, of which the best is taken. No torch.

Its trials take a share of the rows, and as much of the steps where these are fixed, and are judged
on the selection split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plop_lora.records import LadderStep, TrialResult
from plop_lora.study.compare import cause_of, value_of
from plop_lora.study.study import Study

LEAST_ROWS = 16


@dataclass(frozen=True, slots=True)
class Length:
    """How much of the data a trial of the ladder sees; `steps` is None where rows say it."""

    rows: int
    steps: int | None


def shortened(study: Study, share: float) -> Length:
    """Return the length of the trials of a ladder on a share of the training rows.

    Steps that the recipe fixes do not follow the rows, so they are cut to the same share: a ladder
    is to cost no more than that.
    """
    rows = len(study.splits.train)
    steps = study.training.steps
    return Length(
        rows=min(rows, max(LEAST_ROWS, round(share * rows))),
        steps=None if steps is None else max(1, round(steps * share)),
    )


def rounded(rate: float, digits: int = 3) -> float:
    """Return a rate in some digits: no trial can tell more of them apart.

    >>> rounded(0.000123456)
    0.000123
    """
    return float(f"{rate:.{digits}g}")


def step_of(result: TrialResult, metric: str) -> LadderStep:
    """Return what a trial of the ladder says of its rate."""
    return LadderStep(
        arm=result.arm,
        learning_rate=result.learning_rate,
        value=value_of(result, metric),
        cause=cause_of(result, metric),
    )


def best_rate(
    steps: Sequence[LadderStep], losses: Sequence[float | None], *, higher: bool
) -> float | None:
    """Return the best rate of one ladder, None where no trial has a value.

    Shares of right answers on few rows are often equal where the loss is not, so of equal rates
    the one of lower loss is taken; where that is not known either, the smaller one.

    Args:
        steps: one a rate.
        losses: held-out loss of each, None where it is not known.
        higher: whether a higher value is better.
    """
    sign = 1.0 if higher else -1.0
    tried = [
        (sign * step.value, -(loss or 0.0), -step.learning_rate)
        for step, loss in zip(steps, losses, strict=True)
        if step.value is not None
    ]
    return -max(tried)[2] if tried else None


def chose_nothing(steps: Sequence[LadderStep], losses: Sequence[float | None]) -> bool:
    """Whether a ladder of several rates gave the same value and the same loss at each of them."""
    tried = [
        (step.value, loss or 0.0)
        for step, loss in zip(steps, losses, strict=True)
        if step.value is not None
    ]
    return len(tried) > 1 and len(set(tried)) == 1
