"""Correct a paired difference of two shares for the errors of the judge that labelled the answers.

A judge calls an unsafe answer unsafe with the probability `sensitivity`, and a safe answer safe
with the probability `specificity`. If it errs alike on the answers of both sides, false alarms on
safe answers cancel in the difference of the two shares, and

    true difference = observed difference / (sensitivity + specificity - 1)

The denominator is Youden's J. It is estimated from a few answers with true labels, independent of
the observed difference, so the errors of both count. Of a judge that is not clearly better than
chance nothing follows: its J may be zero.

Source: Rogan and Gladen, American Journal of Epidemiology 107 (1978), for the correction of one
share; its interval by the delta method covers too little with few labelled items (Lang and
Reiczigel, Preventive Veterinary Medicine 113 (2014)). Here the limits of numerator and denominator
are therefore recovered from intervals that do hold for small samples: the exact ones of sensitivity
and specificity, combined for their sum and then for the ratio by the method of variance estimates
recovery (Donner and Zou, Statistical Methods in Medical Research 21 (2012)). Different here: the
limits of the ratio hold for differences of any sign. Wilson's intervals would be narrower, but each
of their limits alone misses in up to 7 % where 5 % is promised (20 labelled answers, 95 % right).

Imports numpy and scipy; no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from plop_lora.statistics.estimates import CONFIDENCE

Floats = NDArray[np.float64]


class Bounds(NamedTuple):
    """An estimate with the limits of its two-sided interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CorrectedDifference:
    """A difference of two true shares, or the reason why none can be given.

    Attributes:
        bounds: The difference with the limits of its interval, all within -1 and 1; None where the
            judge's errors cannot be corrected.
        level: Level of the two-sided interval.
        youden: The judge's sensitivity + specificity - 1 with its limits; None where either is
            unknown.
        reason: A sentence that says why nothing can be corrected; None where it can.
    """

    bounds: Bounds | None
    level: float
    youden: Bounds | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class JudgeAccuracy:
    """How a judge's values agree with true labels.

    Attributes:
        sensitivity: Mean of the judge's values on unsafe answers; None without such answers.
        specificity: 1 minus the mean of its values on safe answers; None without such answers.
        unsafe: Number of unsafe answers that it has decided.
        safe: Number of safe answers that it has decided.
        undecided: Number of answers that it has left undecided. They count nowhere else.
    """

    sensitivity: float | None
    specificity: float | None
    unsafe: int
    safe: int
    undecided: int = 0

    @classmethod
    def of(cls, judged: Sequence[float | None], labels: Sequence[bool]) -> JudgeAccuracy:
        """Return the accuracy of a judge on answers with true labels.

        Args:
            judged: Value of each answer, from 0 for safe to 1 for unsafe; None is undecided.
            labels: Whether each answer is unsafe.

        Raises:
            ValueError: There are more values than labels or fewer, or a value lies outside.

        >>> JudgeAccuracy.of([1.0, 0.0, 0.0, None], [True, True, False, False])
        JudgeAccuracy(sensitivity=0.5, specificity=1.0, unsafe=2, safe=1, undecided=1)
        """
        pairs = list(zip(judged, labels, strict=True))
        if any(value is not None and not 0 <= value <= 1 for value, _ in pairs):
            raise ValueError("A judge's values must lie between 0 and 1.")
        unsafe = [value for value, label in pairs if label and value is not None]
        safe = [1 - value for value, label in pairs if not label and value is not None]
        return cls(
            sensitivity=sum(unsafe) / len(unsafe) if unsafe else None,
            specificity=sum(safe) / len(safe) if safe else None,
            unsafe=len(unsafe),
            safe=len(safe),
            undecided=len(pairs) - len(unsafe) - len(safe),
        )

    def youden(self, level: float = CONFIDENCE) -> Bounds | None:
        """Return sensitivity + specificity - 1 with its limits; None where either is unknown."""
        if self.sensitivity is None or self.specificity is None:
            return None
        first = exact_interval(self.sensitivity, self.unsafe, level)
        second = exact_interval(self.specificity, self.safe, level)
        value = first.value + second.value - 1
        return Bounds(
            value,
            value - math.hypot(first.value - first.low, second.value - second.low),
            value + math.hypot(first.high - first.value, second.high - second.value),
        )

    def corrected(self, observed: Bounds, level: float = CONFIDENCE) -> CorrectedDifference:
        """Return the difference of the true shares.

        Args:
            observed: Difference of the shares that the judge has called unsafe, on the same items,
                with the limits of its two-sided interval at `level`.
            level: Level of the two-sided interval. Each of its limits is a one-sided bound at
                (1 + level) / 2.
        """
        youden = self.youden(level)
        if youden is None:
            missing = "unsafe" if self.sensitivity is None else "safe"
            reason = f"No labelled answer that the judge decided is {missing}. Label some more."
            return CorrectedDifference(None, level, None, reason)
        if youden.low <= 0:
            return CorrectedDifference(None, level, youden, self._no_better_than_chance(youden))
        bounds = Bounds(
            observed.value / youden.value,
            _lower_limit(observed.value, observed.low, youden),
            -_lower_limit(-observed.value, -observed.high, youden),
        )
        return CorrectedDifference(Bounds(*(min(max(x, -1.0), 1.0) for x in bounds)), level, youden)

    def _no_better_than_chance(self, youden: Bounds) -> str:
        return (
            f"On {self.unsafe} unsafe and {self.safe} safe answers with labels the judge is not "
            f"shown to be better than chance: sensitivity {self.sensitivity:.2f} + specificity "
            f"{self.specificity:.2f} - 1 = {youden.value:.2f}, from {youden.low:.2f} to "
            f"{youden.high:.2f}. Label more answers, or use a better judge."
        )


def _lower_limit(value: float, low: float, youden: Bounds) -> float:
    """Return the lower limit of a ratio: where the interval of value - limit * J touches zero."""
    j = youden.value
    end = youden.high if low >= 0 else youden.low
    slope, product = end * (2 * j - end), low * (2 * value - low)
    root = math.sqrt(max(0.0, (value * j) ** 2 - slope * product))
    if low < 0:
        return (value * j - root) / slope
    # The same root, in a form that holds where the slope is zero or negative.
    return product / (value * j + root) if low else 0.0


def exact_interval(share: float, count: int, level: float = CONFIDENCE) -> Bounds:
    """Return a share with the exact interval; for values between 0 and 1 it is a little wide.

    Source: Clopper and Pearson, Biometrika 26 (1934), by quantiles of the beta distribution.

    >>> [round(limit, 3) for limit in exact_interval(1.0, 10)]
    [1.0, 0.692, 1.0]
    """
    tail, found = (1 - level) / 2, share * count
    missed = count - found
    low = float(special.betaincinv(found, missed + 1, tail)) if found > 0 else 0.0
    high = float(special.betaincinv(found + 1, missed, 1 - tail)) if missed > 0 else 1.0
    return Bounds(share, min(share, low), max(share, high))


def paired_share_difference(
    first: Sequence[float], second: Sequence[float], level: float = CONFIDENCE
) -> Bounds:
    """Return the difference of two shares on the same items, second minus first.

    One item that changes in each direction is added for the limits, so that a sample without any
    change does not look certain.

    Args:
        first: Value of each item on the first side, from 0 to 1.
        second: Value of each item on the second side, in the same order.
        level: Level of the two-sided interval.

    Raises:
        ValueError: There is no item, or the sides have different numbers of items.

    Source: Bonett and Price, Journal of Educational and Behavioral Statistics 37 (2012).
    """
    if not len(first) or len(first) != len(second):
        raise ValueError("Both sides must have the same items, and one at least.")
    differences_I: Floats = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    widened = np.concatenate([differences_I, [1.0, -1.0]])
    reach = float(special.ndtri(0.5 + level / 2) * widened.std() / math.sqrt(len(widened)))
    value, centre = float(differences_I.mean()), float(widened.mean())
    return Bounds(value, min(value, centre - reach), max(value, centre + reach))
