"""Two arms on the same seeds and the same items: intervals, p-values, power.

The differences of two arms form a table, seeds by items. The difference of a cell is the true
one, plus what the seed did (the same for all items), plus what the item does (the same for all
seeds), plus noise. A conclusion is meant for other seeds and for other items, so both count.

Shape letters: S seeds, I items, D draws. Imports numpy and scipy; no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from plop_lora.statistics.estimates import CONFIDENCE
from plop_lora.statistics.moderated import SeedVariances

DRAWS = 10_000
POWER = 0.8
MOST_SEEDS = 50
MOST_ITEMS = 10**7
_CELLS_AT_ONCE = 2**22

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """A difference, and how far another experiment of this size may lie from it.

    Attributes:
        value: the mean difference.
        low: lower end of the two-sided interval at `level`.
        high: its upper end.
        p: two-sided, of no difference.
        level: of the interval.
        deviations_D: what estimates deviate by, sorted; every bound and p comes from these.
    """

    value: float
    low: float
    high: float
    p: float
    level: float
    deviations_D: Floats

    def reversed(self) -> Interval:
        """Return the interval of the same difference, taken the other way round."""
        return Interval(
            -self.value, -self.high, -self.low, self.p, self.level, -self.deviations_D[::-1]
        )

    def lower_bound(self, level: float = CONFIDENCE) -> float:
        """Return what the true difference exceeds, one-sided at `level`."""
        return self.value + float(np.quantile(self.deviations_D, 1 - level))

    def p_above(self, threshold: float) -> float:
        """Return the one-sided p for "the true difference is above `threshold`"."""
        reaching = np.count_nonzero(self.value + self.deviations_D <= threshold)
        return float(1 + reaching) / (1 + self.deviations_D.size)

    def p_below(self, threshold: float) -> float:
        """Return the one-sided p for "the true difference is below `threshold`"."""
        reaching = np.count_nonzero(self.value + self.deviations_D >= threshold)
        return float(1 + reaching) / (1 + self.deviations_D.size)


@dataclass(frozen=True, slots=True)
class Components:
    """Standard deviations of a difference: over seeds, over items, and of the noise of a cell."""

    seed_sd: float
    item_sd: float
    noise_sd: float


def components(differences_SI: Floats) -> Components:
    """Return the parts of the spread, by the mean squares of a two-way table.

    Args:
        differences_SI: at least two seeds and two items; a part that comes out negative is 0.
    """
    seeds, items = differences_SI.shape
    table = _mean_squares(differences_SI)
    return Components(
        seed_sd=math.sqrt(max(table.seed - table.noise, 0.0) / items),
        item_sd=math.sqrt(max(table.item - table.noise, 0.0) / seeds),
        noise_sd=math.sqrt(table.noise),
    )


def paired_bootstrap(
    differences_SI: Floats,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = CONFIDENCE,
    variances: SeedVariances | None = None,
) -> Interval:
    """Return the mean difference with an interval that holds for other seeds and other items.

    Seeds and items are drawn apart from each other (crossed), and what each draw does is added.
    A plain bootstrap of a few seeds is too narrow twice. It understates their variance by
    (S - 1) / S, so the deviations are widened by sqrt(S / (S - 1)), items likewise. And its tails
    are those of a normal distribution at best (with two seeds it takes three values), so the
    effect of the seeds is drawn from Student's t of S - 1 degrees of freedom, and that of the
    items, which are resampled, is divided by an independent sqrt(chi²/(I - 1)). One number of
    degrees of freedom for the sum (Satterthwaite) is not used: with two seeds it comes out large
    just when their spread comes out small by chance, and the interval misses too often.

    The noise of a cell is in the means of seeds as well as in those of items. It is counted once:
    the items' deviations are shrunk to what is left of their variance without it.

    Args:
        differences_SI: a row per seed, a column per item, at least two of each.
        draws: of the bootstrap; p-values are not below 1 / (draws + 1).
        seed: of the draws.
        level: of the two-sided interval.
        variances: Seed variances of the two arms, each drawn with its own t; None takes the
            variance of these differences, with S - 1 degrees of freedom.

    Raises:
        ValueError: fewer than two seeds or items, or a value that is not finite.

    Source: Hesterberg, "What Teachers Should Know About the Bootstrap", arXiv 1411.5279 (the
    two corrections; there by other percentiles, here by wider draws, since two seeds would need
    a percentile beyond any number of draws); Owen, "The pigeonhole bootstrap", Annals of Applied
    Statistics 1 (2007) (crossed resampling, and why it counts the noise too often); Robinson,
    Annals of Statistics 4 (1976) (each part with its own t: the Behrens-Fisher solution, which
    holds its level).
    """
    seeds, items = _checked(differences_SI, 2).shape
    rng = np.random.default_rng(seed)
    table = _mean_squares(differences_SI)
    # The mean square of seeds has the noise in it; of two or three it may fall below that, even
    # to nothing, by chance alone.
    if variances is None:
        error_of_seeds = math.sqrt(max(table.seed, table.noise) / (seeds * items))
        deviations_D = error_of_seeds * rng.standard_t(seeds - 1, draws)
    else:
        least = table.noise / items
        deviations_D = _seed_deviations(variances, seeds, draws, rng, least=least)
    kept = 1 - table.noise / table.item if table.item > table.noise else 0.0
    if kept:
        item_I = differences_SI.mean(axis=0) - differences_SI.mean()
        scale_D = math.sqrt(kept * items) / np.sqrt(rng.chisquare(items - 1, draws))
        deviations_D += scale_D * _resampled_means(item_I, draws, rng)
    return _interval(float(differences_SI.mean()), deviations_D, level)


def paired_t(
    differences_S: Floats,
    *,
    level: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
    variances: SeedVariances | None = None,
) -> Interval:
    """Return the mean difference with Student's t over seeds.

    For metrics that are no mean over items (macro-F1, aggregates of a harness): what another
    choice of items would do is not in it.

    Args:
        differences_S: One for each seed, at least two.
        level: Of the two-sided interval.
        draws: How many values stand for the distribution.
        seed: Of the draws, which only given variances need.
        variances: As in `paired_bootstrap`.

    Raises:
        ValueError: fewer than two seeds, or a value that is not finite.
    """
    seeds = _checked(differences_S, 1).size
    if variances is not None:
        rng = np.random.default_rng(seed)
        deviations_D = _seed_deviations(variances, seeds, draws, rng)
        return _interval(float(differences_S.mean()), deviations_D, level)
    error = float(differences_S.std(ddof=1)) / math.sqrt(seeds)
    places_D = (np.arange(draws) + 0.5) / draws
    return _interval(
        float(differences_S.mean()), error * special.stdtrit(seeds - 1, places_D), level
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


# --------------------------------------------------------------------------- planning


def detectable(
    seeds: int,
    items: int | None,
    seed_sd: float,
    item_sd: float,
    level: float = CONFIDENCE,
    power: float = POWER,
    *,
    noise_sd: float = 0.0,
) -> float:
    """Return the true difference that a two-sided test at `level` finds with `power`.

    Args:
        seeds: that both arms have.
        items: that all seeds share; None for a metric without items.
        seed_sd: of the difference of two arms over seeds.
        item_sd: of an item's difference, the part that comes back with every seed.
        level: 1 minus the risk of a false alarm.
        power: 1 minus the risk of missing it.
        noise_sd: of a cell, the part that comes back with neither.

    Returns:
        In the units of the metric; infinite with fewer than two seeds.

    >>> detectable(1, 500, 0.01, 0.3)
    inf
    """
    if seeds < 2:
        return math.inf
    by_seed = (seed_sd**2 + (noise_sd**2 / items if items else 0.0)) / seeds
    by_item = item_sd**2 / items if items else 0.0
    variance = by_seed + by_item
    if variance == 0:
        return 0.0
    # What the interval of `paired_bootstrap` has for a quantile (Cochran and Cox, 1950): each
    # part's own t, weighted by its variance.
    tail = 0.5 + level / 2
    critical = by_seed * special.stdtrit(seeds - 1, tail)
    critical += by_item * special.stdtrit(max(1, (items or 2) - 1), tail)
    return _noncentrality(float(critical / variance), tail, power) * math.sqrt(variance)


def seeds_needed(
    effect: float,
    items: int | None,
    seed_sd: float,
    item_sd: float,
    level: float = CONFIDENCE,
    power: float = POWER,
    *,
    noise_sd: float = 0.0,
    most: int = MOST_SEEDS,
) -> int | None:
    """Return the fewest seeds at which `effect` is detectable, None where it takes over `most`."""

    def enough(seeds: int) -> bool:
        found = detectable(seeds, items, seed_sd, item_sd, level, power, noise_sd=noise_sd)
        return found <= abs(effect)

    return _smallest(enough, 2, most)


def items_needed(
    effect: float,
    seeds: int,
    seed_sd: float,
    item_sd: float,
    level: float = CONFIDENCE,
    power: float = POWER,
    *,
    noise_sd: float = 0.0,
    most: int = MOST_ITEMS,
) -> int | None:
    """Return the fewest items at which `effect` is detectable, None where it takes over `most`.

    Where the seeds alone differ by too much no number of items is enough.
    """

    def enough(items: int) -> bool:
        found = detectable(seeds, items, seed_sd, item_sd, level, power, noise_sd=noise_sd)
        return found <= abs(effect)

    return _smallest(enough, 2, most)


def _smallest(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """Return the smallest number that is enough, where all larger ones are as well."""
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _noncentrality(critical: float, tail: float, power: float) -> float:
    """Return the true difference in standard errors that passes a critical value with `power`."""
    freedom = float(special.stdtridf(tail, critical))
    if not freedom < 1000:
        return critical + float(special.ndtri(power))
    return float(special.nctdtrinc(freedom, 1 - power, critical))


# --------------------------------------------------------------------------- the table


@dataclass(frozen=True, slots=True)
class _MeanSquares:
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


def _seed_deviations(
    variances: SeedVariances,
    seeds: int,
    draws: int,
    rng: np.random.Generator,
    *,
    least: float = 0.0,
) -> Floats:
    """Return what other seeds would add to the mean difference, each arm with its own t.

    Args:
        variances: Of the two arms.
        seeds: That the means are taken over.
        draws: How many.
        rng: Their source.
        least: Variance that a seed's difference has in any case, from the noise of its cells.
    """
    # What is missing to the least is shared, so that both stay above their own variance.
    missing = max(0.0, least - variances.total) / 2
    reference, rival = (
        math.sqrt((variance + missing) / seeds) * rng.standard_t(variances.freedom, draws)
        for variance in (variances.reference, variances.rival)
    )
    return np.asarray(reference + rival)


def _resampled_means(values_I: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Return the means of resamples, a block of draws at a time to bound the memory."""
    size = values_I.size
    block = max(1, _CELLS_AT_ONCE // size)
    return np.concatenate(
        [
            values_I[rng.integers(0, size, (min(block, draws - start), size))].mean(axis=1)
            for start in range(0, draws, block)
        ]
    )


def _interval(value: float, deviations_D: Floats, level: float) -> Interval:
    deviations_D = np.sort(deviations_D)
    low, high = np.quantile(deviations_D, [0.5 - level / 2, 0.5 + level / 2])
    bare = Interval(value, value + float(low), value + float(high), 1.0, level, deviations_D)
    p = min(1.0, 2 * min(bare.p_above(0.0), bare.p_below(0.0)))
    return Interval(value, bare.low, bare.high, p, level, deviations_D)


def _checked(differences: Floats, dimensions: int) -> Floats:
    if differences.ndim != dimensions or min(differences.shape, default=0) < 2:
        raise ValueError(f"Two seeds at least are needed, not {differences.shape}.")
    if not np.isfinite(differences).all():
        raise ValueError("A difference is not finite.")
    return differences
