"""Two arms on the same seeds and the same items: the difference, its errors, intervals and p.

The differences of two arms form a table, seeds by items. The difference of a cell is the true
one, plus what the seed did (the same for all items), plus what the item does (the same for all
seeds), plus noise. A conclusion is meant for other seeds and for other items, so both count.

Shape letters: S seeds, I items. Imports numpy and scipy; no torch.
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
from plop_lora.statistics.moderated import SeedVariance

_SMALLEST_P = 1e-300

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference, and how far another experiment of this size may lie from it.

    Its error has two parts, from seeds and from items, each known with its own degrees of freedom.
    A quantile is that of Student's t of each part, weighted by the part's variance. One number of
    degrees of freedom for the sum (Satterthwaite) is not used: with two seeds it comes out large
    just when their spread comes out small by chance, and the interval misses too often.

    Attributes:
        value: The mean difference.
        seed_variance: Variance of `value` over choices of the seeds.
        item_variance: Variance of `value` over choices of the items.
        seed_freedom: Degrees of freedom of the first.
        item_freedom: Degrees of freedom of the second.
        level: Of the two-sided interval from `low` to `high`.

    Source: Cochran and Cox, "Experimental Designs" (1950), section 4.14 (the weighted quantile,
    which keeps its level for any ratio of the variances and is a little wide for few seeds).
    """

    value: float
    seed_variance: float
    item_variance: float
    seed_freedom: float
    item_freedom: float
    level: float = CONFIDENCE

    @property
    def error(self) -> float:
        """The standard error of the difference."""
        return math.sqrt(self.seed_variance + self.item_variance)

    @property
    def low(self) -> float:
        """The lower end of the two-sided interval."""
        return self.lower_bound(0.5 + self.level / 2)

    @property
    def high(self) -> float:
        """The upper end of the two-sided interval."""
        return self.upper_bound(0.5 + self.level / 2)

    @property
    def p(self) -> float:
        """The two-sided p of no difference."""
        return min(1.0, 2 * min(self.p_above(0.0), self.p_below(0.0)))

    def reversed(self) -> Interval:
        """Return the interval of the same difference, taken the other way round."""
        return Interval(
            -self.value, self.seed_variance, self.item_variance, self.seed_freedom,
            self.item_freedom, self.level,
        )  # fmt: skip

    def margin(self, level: float) -> float:
        """Return how far a one-sided bound at `level` lies from the difference."""
        return self._reach(1 - level)

    def _reach(self, tail: float) -> float:
        """Return the distance that is exceeded with the probability `tail`."""
        if not self.error:
            return 0.0
        weighted = self.seed_variance * special.stdtrit(self.seed_freedom, tail)
        weighted += self.item_variance * special.stdtrit(self.item_freedom, tail)
        return -float(weighted) / self.error

    def lower_bound(self, level: float = CONFIDENCE) -> float:
        """Return what the true difference exceeds, one-sided at `level`."""
        return self.value - self.margin(level)

    def upper_bound(self, level: float = CONFIDENCE) -> float:
        """Return what the true difference stays below, one-sided at `level`."""
        return self.value + self.margin(level)

    def p_above(self, threshold: float) -> float:
        """Return the one-sided p for "the true difference is above `threshold`"."""
        return self._tail(self.value - threshold)

    def p_below(self, threshold: float) -> float:
        """Return the one-sided p for "the true difference is below `threshold`"."""
        return self._tail(threshold - self.value)

    def _tail(self, distance: float) -> float:
        """Return the level at which a bound reaches exactly so far."""
        if not self.error:
            return 0.0 if distance > 0 else 1.0
        if distance < 0:
            return 1 - self._tail(-distance)
        # A large import, which only p-values need.
        from scipy.optimize import brentq

        freedoms = [
            freedom
            for freedom, variance in (
                (self.seed_freedom, self.seed_variance),
                (self.item_freedom, self.item_variance),
            )
            if variance
        ]
        tails = [float(special.stdtr(freedom, -distance / self.error)) for freedom in freedoms]
        low, high = min(tails), max(tails)
        if high < 1.001 * low or low < _SMALLEST_P:
            return high
        return math.exp(brentq(
            lambda log: self._reach(math.exp(log)) - distance,
            math.log(0.999 * low), math.log(1.001 * high),
        ))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Components:
    """Standard deviations of a difference: over seeds, over items, and of the noise of a cell."""

    seed_sd: float
    item_sd: float
    noise_sd: float


def components(differences_SI: Floats) -> Components:
    """Return the parts of the spread, by the mean squares of a two-way table.

    Args:
        differences_SI: At least two seeds and two items; a part that comes out negative is 0.
    """
    seeds, items = differences_SI.shape
    table = _mean_squares(differences_SI)
    return Components(
        seed_sd=math.sqrt(max(table.seed - table.noise, 0.0) / items),
        item_sd=math.sqrt(max(table.item - table.noise, 0.0) / seeds),
        noise_sd=math.sqrt(table.noise),
    )


def paired_interval(
    differences_SI: Floats, variance: SeedVariance | None = None, *, level: float = CONFIDENCE
) -> Interval:
    """Return the mean difference with an interval that holds for other seeds and other items.

    The noise of a cell is in the means of seeds as well as in those of items. It is counted once,
    with the seeds: the items keep what is left of their variance without it.

    Args:
        differences_SI: A row per seed, at least two, and a column per item. One column stands for
            a metric that is no mean over items, such as macro-F1; what another choice of items
            would do is then not in the interval.
        variance: Of the difference at one seed; None takes that of this table, with S - 1 degrees
            of freedom.
        level: Of the two-sided interval.

    Raises:
        ValueError: Fewer than two seeds, or a value that is not finite.

    Source: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1 (2007), section 3 (the
    variance of a mean over a crossed table, and what counts the noise twice).
    """
    seeds, items = _checked(differences_SI).shape
    value = float(differences_SI.mean())
    if items == 1:
        own = float(differences_SI.var(ddof=1))
        at_a_seed, freedom = (own, seeds - 1.0) if variance is None else variance
        return Interval(value, at_a_seed / seeds, 0.0, freedom, 1.0, level)
    table = _mean_squares(differences_SI)
    # The mean square of seeds has the noise in it; of two or three it may fall below that, even
    # to nothing, by chance alone. The same holds for a variance that is given.
    at_a_seed, freedom = (table.seed / items, seeds - 1.0) if variance is None else variance
    return Interval(
        value=value,
        seed_variance=max(at_a_seed, table.noise / items) / seeds,
        item_variance=max(table.item - table.noise, 0.0) / (seeds * items),
        seed_freedom=freedom,
        item_freedom=items - 1.0,
        level=level,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many there are, in their order.

    The k-th smallest of n is multiplied by n - k + 1, and none is below a smaller one's.

    >>> holm([0.04, 0.01])
    [0.04, 0.02]

    Source: Holm, Scandinavian Journal of Statistics 6 (1979). statsmodels has it as well, at the
    price of pandas and of a garbage collection each call.
    """
    rising = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for index, place in enumerate(rising):
        largest = max(largest, min(1.0, (len(p_values) - index) * p_values[place]))
        adjusted[place] = largest
    return adjusted


# --------------------------------------------------------------------------- the table


class _MeanSquares(NamedTuple):
    """Of a two-way table; each has the noise's variance in it, the first two their own part."""

    seed: float
    item: float
    noise: float


def _mean_squares(differences_SI: Floats) -> _MeanSquares:
    seeds, items = differences_SI.shape
    mean = differences_SI.mean()
    seed_S = differences_SI.mean(axis=1) - mean
    item_I = differences_SI.mean(axis=0) - mean
    rest_SI = differences_SI - mean - seed_S[:, None] - item_I
    return _MeanSquares(
        seed=float(items * (seed_S**2).sum() / (seeds - 1)),
        item=float(seeds * (item_I**2).sum() / (items - 1)),
        noise=float((rest_SI**2).sum() / ((seeds - 1) * (items - 1))),
    )


def _checked(differences_SI: Floats) -> Floats:
    if differences_SI.ndim != 2 or differences_SI.shape[0] < 2 or differences_SI.shape[1] < 1:
        raise ValueError(f"Two seeds at least are needed, not {differences_SI.shape}.")
    if not np.isfinite(differences_SI).all():
        raise ValueError("A difference is not finite.")
    return differences_SI
