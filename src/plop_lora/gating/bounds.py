"""The mean gain over items, its one-sided bounds, and the p of a loss. No torch.

A few items that lose much more than the others make the bound of Student's t pass too often: the
sample then shows fewer of them than there are, and with them too small a spread. Each bound is
therefore the wider one of that of Student's t and that of Hall's transformation, which reads the
skewness of the sample. The skewness of a few items is itself too small, because it cannot exceed
the root of their number. It is read as `SKEW_FACTOR` times its value where it points in the
direction of the bound, and as larger by one standard error, sqrt(6 / count), in any case.

How often these bounds miss is simulated in `benchmarks/gate.py`. What no bound can see are losses
of a kind that the sample does not contain.

Source: Hall, Journal of the Royal Statistical Society B 54 (1992), the transformation g_2. How the
skewness is read is ours, chosen by that simulation.

Shape letters: I items, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from plop_lora.statistics import Interval

LEVEL = 0.95
"""Level of the one-sided bounds that decide."""
PSEUDO_ITEMS = 2
"""Number of items that are added on each side for a metric of 0 and 1; see `gain_of`."""
SKEW_FACTOR = 1.5
"""Factor by which a skewness in the direction of a bound is read as larger."""

Floats = NDArray[np.float64]


def mean_interval(values_I: Floats, groups: Sequence[str]) -> Interval | None:
    """Return the mean over items with its error over groups; None for fewer than two groups.

    Source: Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 2.2 (clustered standard
    errors), with the factor G / (G - 1), which makes it the usual error where every group is one
    item.
    """
    return _interval(values_I, _group_sums(values_I, groups))


def _interval(values_I: Floats, sums_G: Floats) -> Interval | None:
    count = len(sums_G)
    if count < 2:
        return None
    variance = count / (count - 1) * float((sums_G**2).sum()) / len(values_I) ** 2
    return Interval(float(values_I.mean()), 0.0, variance, 1.0, count - 1.0)


def _group_sums(values_I: Floats, groups: Sequence[str]) -> Floats:
    """Return the sum over each group of how far its items lie from the mean of all."""
    _, index_I = np.unique(np.asarray(groups), return_inverse=True)
    sums_G: Floats = np.bincount(index_I, values_I - values_I.mean()).astype(np.float64)
    return sums_G


def skewness_of(values_I: Floats, groups: Sequence[str]) -> float:
    """Return the skewness of the groups' part in the mean; 0 where all groups are alike."""
    return _skewness(_group_sums(values_I, groups))


def _skewness(sums_G: Floats) -> float:
    moment = float((sums_G**2).mean())
    return float((sums_G**3).mean()) / moment**1.5 if moment else 0.0


@dataclass(frozen=True, slots=True)
class Gain:
    """The mean gain of an adapter over its base.

    Attributes:
        interval: Mean with its error.
        low: One-sided lower bound at `LEVEL`.
        high: One-sided upper bound at `LEVEL`.
        ends: Ends of the two-sided interval at `LEVEL`, which reads the skewness as the bounds do.
    """

    interval: Interval
    low: float
    high: float
    ends: tuple[float, float]


def gain_of(gains_I: Floats, groups: Sequence[str], *, binary: bool) -> Gain | None:
    """Return the mean gain with its bounds; None for fewer than two groups.

    Where an item is right or wrong, a sample without any change has no spread, and its interval
    would have no width. Two gained and two lost items are then added, each a group of its own.

    Args:
        gains_I: Gain of every item.
        groups: Group of every item.
        binary: Whether the metric of an item is 0 or 1.

    Source: Bonett and Price, Journal of Educational and Behavioral Statistics 37 (2012), who add
    one item on each side; with two, fewer unchanged answers than about 3 / margin do not pass.
    """
    found = _read(gains_I, groups, binary=binary)
    if found is None:
        return None
    interval, skew, count = found

    def bound(side: int, level: float) -> float:
        reached = float(reach(side * skew, count, interval.item_freedom, level))
        return interval.value + side * interval.error * reached

    two_sided = (1 + LEVEL) / 2
    return Gain(
        interval,
        bound(-1, LEVEL),
        bound(1, LEVEL),
        (bound(-1, two_sided), bound(1, two_sided)),
    )


def loss_p(gains_I: Floats, groups: Sequence[str], limit: float, *, binary: bool) -> float:
    """Return the p of "the mean gain is not below the limit".

    It is below 1 - `LEVEL` exactly where the upper bound of `gain_of` lies below the limit. A
    smaller level may be asked of it, such as that of Holm's step-down over many groups of items.

    Args:
        gains_I: Gain of every item.
        groups: Group of every item.
        limit: Mean gain that is compared with.
        binary: Whether the metric of an item is 0 or 1.

    Raises:
        ValueError: There are fewer than two groups, which have no error.
    """
    found = _read(gains_I, groups, binary=binary)
    if found is None:
        raise ValueError("The p of a loss needs at least two groups of items.")
    interval, skew, count = found
    if not interval.error:
        return 0.0 if interval.value < limit else 1.0
    t = (interval.value - limit) / interval.error
    read = float(_skewness_read(skew, count)) / math.sqrt(count)
    tilt = read * t / 3
    transformed = t * (1 + tilt + tilt**2 / 3) + read / 6
    return float(special.stdtr(interval.item_freedom, max(t, transformed)))


def _read(
    gains_I: Floats, groups: Sequence[str], *, binary: bool
) -> tuple[Interval, float, int] | None:
    """Return the mean with its error, the skewness and the number of groups."""
    if binary:
        added = np.array([1.0, -1.0] * PSEUDO_ITEMS)
        gains_I = np.concatenate([gains_I, added])
        groups = [*groups, *(f"added {place}" for place in range(len(added)))]
    sums_G = _group_sums(gains_I, groups)
    interval = _interval(gains_I, sums_G)
    return None if interval is None else (interval, _skewness(sums_G), len(sums_G))


def reach(skew: float | Floats, count: int, freedom: float, level: float = LEVEL) -> Floats:
    """Return how many standard errors a bound lies beyond the mean.

    Args:
        skew: Skewness of the groups, positive where their longer tail lies in the direction of the
            bound; of one sample, or of many.
        count: Number of groups.
        freedom: Degrees of freedom of the standard error.
        level: Level of the bound.
    """
    read = _skewness_read(skew, count) / math.sqrt(count)
    t = float(special.stdtrit(freedom, level))
    root = np.cbrt(1 - read * (t + read / 6))
    undone = 3 * (t + read / 6) / (1 + root + root**2)
    found: Floats = np.maximum(undone, t)
    return found


def _skewness_read(skew: float | Floats, count: int) -> Floats:
    """Return the skewness that a bound reads. Where it would be negative, Student's t is wider."""
    larger = np.where(np.asarray(skew) > 0, SKEW_FACTOR * np.asarray(skew), skew)
    found: Floats = np.maximum(larger + math.sqrt(6 / count), 0.0)
    return found
