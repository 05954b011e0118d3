"""The rate ladder: trials at several learning rates, of which the best is taken. No torch.

Short trials take a share of the rows, and as much of the steps where these are fixed; all are
judged on the selection split. Rates are compared row by row by the held-out loss, whatever metric
decides in the end: on a few rows the loss tells two rates apart long before a share of right
answers does. A task that learns from rewards has no such loss, and goes by its metric.

Shape letter: I items, the rows of the selection split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plop_lora.records import LadderStep, TrialResult
from plop_lora.records.trial import higher_is_better
from plop_lora.study.compare import cause_of, value_of
from plop_lora.study.study import Study

LEAST_ROWS = 16
ERRORS = 1.96
"""Standard errors that a difference must exceed to count: two-sided 95 %."""
SURE_ERRORS = 3.0
"""Standard errors by which a trial must have left the untrained model: a ladder has dozens of
trials, and none of them may count as one that has learned by chance."""
LOSS = "loss"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Length:
    """How much of the data a trial of the ladder sees; `steps` is None where rows say it."""

    rows: int
    steps: int | None


def shortened(study: Study, share: float) -> Length:
    """Return the length of the short trials of a ladder, on a share of the training rows.

    Steps that the recipe fixes do not follow the rows, so they are cut to the same share: a ladder
    is to cost no more than that.
    """
    rows = len(study.splits.train)
    steps = study.training.steps
    return Length(
        rows=min(rows, max(LEAST_ROWS, round(share * rows))),
        steps=None if steps is None else max(1, round(steps * share)),
    )


# --------------------------------------------------------------------------- one trial


@dataclass(frozen=True, slots=True, eq=False)
class Rung:
    """What one trial of a ladder says of its rate.

    Attributes:
        rate: learning rate of the adapters.
        value: mean of the criterion, turned so that lower is better; None where the trial failed.
        items_I: the same for each row, None for a criterion that is no mean over rows.
        gain: how far the trial is below the untrained model, None where that is not known.
        error: standard error of the gain over rows.
    """

    rate: float
    value: float | None
    items_I: Floats | None = None
    gain: float | None = None
    error: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether the trial ended with a value."""
        return self.value is not None

    @property
    def is_informative(self) -> bool:
        """Whether the trial has left the level of the untrained model by more than its error.

        A trial of which that cannot be said, for want of rows, counts as informative.
        """
        return self.is_known and (self.gain is None or abs(self.gain) > SURE_ERRORS * self.error)

    @property
    def has_learned(self) -> bool:
        """Whether it is below the untrained model by more than its error."""
        return self.is_informative and (self.gain is None or self.gain > 0)


def criterion_of(study: Study, results: Sequence[TrialResult]) -> str:
    """Return what rates are chosen by: the held-out loss where the trials have it."""
    done = [result for result in results if result.done]
    by_loss = not study.task.samples and all(LOSS in result.metrics for result in done)
    return LOSS if by_loss else study.metric


def rung_of(result: TrialResult, criterion: str, untrained: TrialResult | None = None) -> Rung:
    """Return what a trial says of its rate, beside the untrained model on the same rows."""
    sign = -1.0 if higher_is_better(criterion) else 1.0
    value, items_I = value_of(result, criterion), _items(result, criterion)
    if value is None:
        return Rung(result.learning_rate, None)
    if items_I is not None:
        items_I = sign * items_I
    before_I = None if untrained is None else _items(untrained, criterion)
    if items_I is None or before_I is None or before_I.shape != items_I.shape:
        return Rung(result.learning_rate, sign * value, items_I)
    gain, error = mean_and_error(sign * before_I - items_I)
    return Rung(result.learning_rate, sign * value, items_I, gain, error)


def _items(result: TrialResult, criterion: str) -> Floats | None:
    items = result.items.get(criterion) if result.done else None
    return np.asarray(items, dtype=np.float64) if items and len(items) > 1 else None


def mean_and_error(values_I: Floats) -> tuple[float, float]:
    """Return the mean of rows and its standard error, of two rows at least."""
    return float(values_I.mean()), float(values_I.std(ddof=1)) / math.sqrt(values_I.size)


def step_of(result: TrialResult, metric: str, rung: Rung, *, full: bool = False) -> LadderStep:
    """Return the line of the record for a trial of the ladder."""
    return LadderStep(
        arm=result.arm,
        learning_rate=result.learning_rate,
        value=value_of(result, metric),
        cause=cause_of(result, metric),
        loss=result.metrics.get(LOSS) if result.done else None,
        full=full,
        informative=rung.is_informative if rung.is_known else None,
    )


# --------------------------------------------------------------------------- one ladder


def leading(rungs: Sequence[Rung]) -> tuple[Rung, ...]:
    """Return the best rung and those that the rows cannot tell from it, the best first.

    Rungs that have learned go before those that have not. Where none has, every rung that is not
    worse than the untrained model is returned, since nothing tells them apart; the largest rate is
    then the first: a trial that has not moved asks for a larger one.
    """
    known = [rung for rung in rungs if rung.is_known]
    learned = [rung for rung in known if rung.has_learned]
    if known and not learned:
        still = [rung for rung in known if not rung.is_informative]
        return tuple(sorted(still, key=lambda rung: -rung.rate)) or (_best(known),)
    if not learned:
        return ()
    best = _best(learned)
    alike = [rung for rung in learned if rung is not best and not _is_behind(rung, best)]
    return (best, *sorted(alike, key=lambda rung: rung.rate))


def _best(rungs: Sequence[Rung]) -> Rung:
    return min(rungs, key=lambda rung: (rung.value or 0.0, rung.rate))


def _is_behind(rung: Rung, best: Rung) -> bool:
    """Whether the rows say that a rung is worse than the best; without rows its value does."""
    if rung.items_I is None or best.items_I is None or rung.items_I.shape != best.items_I.shape:
        return rung.value != best.value
    behind, error = mean_and_error(rung.items_I - best.items_I)
    return behind > ERRORS * error


def best_rate(
    steps: Sequence[LadderStep], losses: Sequence[float | None], *, higher: bool
) -> float | None:
    """Return the best rate of one ladder by its losses, None where no trial has a value.

    Where a loss is not known all go by their values; of equal rates the smaller one is taken.

    Args:
        steps: one a rate.
        losses: held-out loss of each, None where it is not known.
        higher: whether a higher value is better.
    """
    tried = [
        (step, loss) for step, loss in zip(steps, losses, strict=True) if step.value is not None
    ]
    if not tried:
        return None
    if all(loss is not None for _, loss in tried):
        return min(tried, key=lambda pair: (pair[1], pair[0].learning_rate))[0].learning_rate
    sign = -1.0 if higher else 1.0
    return min(
        (sign * step.value, step.learning_rate) for step, _ in tried if step.value is not None
    )[1]
