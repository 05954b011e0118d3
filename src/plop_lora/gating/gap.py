"""How much an adapter widens the gap between groups of items. No torch.

The gap of a model is the largest minus the smallest mean of a group. The widening is the gap of the
adapter minus the gap of the base; it is negative where the adapter narrows the gap.

The largest of several noisy means is too large on average, and so is a gap. Where the groups of the
base are alike and those of the adapter are not, the gap of the base is overestimated by more, and
a percentile bootstrap of the widening passes too often: with one group exactly at the limit in 34 %
of simulated checks of 5 groups of 30 items, and in 57 % of those of 12. The bounds here rest on
simple contrasts instead. For a pair (g, h) of the adapter's groups and a pair (k, l) of the base's,

    widening = max over (g, h) of min over (k, l) of (a_g - a_h) - (b_k - b_l)

An upper bound of the widening is wrong only if it is wrong for the pair of the adapter's true
extremes, so only the choice of (k, l) needs a correction; for a lower bound it is that of (g, h).
With more groups both bounds become cautious, as every pair has to be shown.

Shape letters: I items, G groups, C clusters, P ordered pairs of groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from plop_lora.gating.bounds import LEVEL, PSEUDO_ITEMS
from plop_lora.records.gate import FAIL, NOT_ENOUGH_DATA, PASS, Chance, CheckVerdict, Measured
from plop_lora.statistics import POWER

DRAWS = 2_000
"""Number of permutations that the null distribution is drawn from."""
_MOST = 10**9

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class GroupedValues:
    """The values of items whose groups are all known.

    Attributes:
        base_I: Value of every item for the base.
        adapter_I: Value of every item for the adapter.
        group_I: Index of the group of every item; no index up to the largest is left out.
        cluster_I: Index of the cluster of every item, likewise. Items of one cluster are not
            independent; they may belong to several groups.
    """

    base_I: Floats
    adapter_I: Floats
    group_I: Places
    cluster_I: Places

    @property
    def groups(self) -> int:
        """The number of groups."""
        return int(self.group_I.max()) + 1


@dataclass(frozen=True, slots=True)
class Gap:
    """The gap between groups, and how much the adapter widens it.

    Attributes:
        base: Largest minus smallest mean of a group, for the base, with its 95 % interval.
        adapter: The same for the adapter.
        widening: The second minus the first, with its 95 % interval.
        bound_low: One-sided lower bound of the widening at 95 %.
        bound_high: One-sided upper bound of the widening at 95 %.
        chance: The p of a widening as large as this if gains do not depend on the group, and the
            widening that 5 % of the permutations exceed.
        verdict: Whether the widening is shown to lie below the largest one that is allowed.
        items_needed: Number of items, of all groups together, that would decide with a power of 0.8
            if the widening is what it appears to be; None if it is decided, or no number does.
    """

    base: Measured
    adapter: Measured
    widening: Measured
    bound_low: float
    bound_high: float
    chance: Chance
    verdict: CheckVerdict
    items_needed: int | None


def gap_of(
    values: GroupedValues,
    limit: float,
    *,
    binary: bool,
    floor: float = 0.0,
    gaps: int = 1,
    seed: int = 0,
    draws: int = DRAWS,
) -> Gap:
    """Return the gap with its bounds, its null distribution and the verdict.

    The verdict comes from the bounds. The null distribution says which widening chance alone
    brings about with these items, which is seldom zero.

    Args:
        values: Values of the items; at least two groups, each of at least two clusters.
        limit: Largest widening that is allowed.
        binary: Whether the value of an item is 0 or 1.
        floor: Noise floor of the mean of a group; a gap has that of two.
        gaps: Number of gaps that are tested together, for which a fail is corrected (Bonferroni).
        seed: Seed of the permutations.
        draws: Number of permutations.
    """
    base_G, adapter_G = _means(values)
    widening = float(np.ptp(adapter_G)) - float(np.ptp(base_G))
    low, high = widening_bounds(values, binary=binary)
    if gaps > 1:
        low, _ = widening_bounds(values, binary=binary, level=1 - (1 - LEVEL) / gaps)
    low, high = low - 2 * floor, high + 2 * floor
    verdict = PASS if high < limit else FAIL if low > limit else NOT_ENOUGH_DATA
    needed = None
    if verdict is NOT_ENOUGH_DATA:
        needed = _items_needed(widening, (low, high), limit, len(values.base_I))
    ends = widening_bounds(values, binary=binary, level=_TWO_SIDED)
    return Gap(
        *_gaps_of_sides(values, binary=binary),
        Measured(widening, *ends),
        low,
        high,
        _against_chance(values, widening, seed, draws),
        verdict,
        needed,
    )


_TWO_SIDED = 1 - (1 - LEVEL) / 2
"""Level of each end of an interval that is reported."""


def _means(values: GroupedValues) -> tuple[Floats, Floats]:
    counts_G = np.bincount(values.group_I)
    base_G: Floats = np.bincount(values.group_I, values.base_I) / counts_G
    adapter_G: Floats = np.bincount(values.group_I, values.adapter_I) / counts_G
    return base_G, adapter_G


def _items_needed(
    value: float, bounds: tuple[float, float], limit: float, items: int
) -> int | None:
    """Return how many items bring the nearer bound within the distance of the limit."""
    distance = abs(limit - value)
    reach = bounds[1] - value if value < limit else value - bounds[0]
    # A bound whose distance is a multiple z of the error, needs z + z(POWER) for that power.
    more = 1 + float(special.ndtri(POWER)) / float(special.ndtri(LEVEL))
    if distance == 0 or (found := items * (more * reach / distance) ** 2) > _MOST:
        return None
    return max(math.ceil(found), items + 1)


# --------------------------------------------------------------------------- bounds


def widening_bounds(
    values: GroupedValues, *, binary: bool, level: float = LEVEL
) -> tuple[float, float]:
    """Return one-sided bounds of the widening at a level, lower and upper.

    Half of what each bound may err is kept for the contrasts in which both pairs are the same, the
    difference of the gains of two groups, and half is shared by all others (a weighted Bonferroni
    correction). An adapter that changes no group more than another passes almost as soon as
    without a correction, and one that narrows the gap passes as well, with more items.

    The errors are those of clustered items; a contrast has the degrees of freedom of its smallest
    group. Where an item is right or wrong, a group without any change has no spread. For the
    errors, two items of each of the four outcomes are then added to each group, since a contrast
    of different pairs needs more than the gained and lost ones that `decide.gain_of` adds.

    Source: Berger, Technometrics 24 (1982), for the maximum over (g, h), which is an intersection
    of claims; Holm, Scandinavian Journal of Statistics 6 (1979), for unequal weights.
    """
    base_G, adapter_G = _means(values)
    groups = values.groups
    covariance, freedom_G = _covariance(_with_added_items(values) if binary else values)
    pairs_PG = _pairs(groups)
    count = len(pairs_PG)
    tail = (1 - level) / 2
    own_P, other_P = (
        np.max(np.abs(pairs_PG) * -special.stdtrit(freedom_G, share), axis=1)
        for share in (tail, tail / (count - 1))
    )
    base_P, adapter_P = pairs_PG @ base_G, pairs_PG @ adapter_G
    base_variance_P = _quadratic(pairs_PG, covariance[:groups, :groups])
    adapter_variance_P = _quadratic(pairs_PG, covariance[groups:, groups:])
    together_PP = pairs_PG @ covariance[groups:, :groups] @ pairs_PG.T
    largest, largest_P = -math.inf, np.full(count, -math.inf)
    for pair in range(count):  # a row at a time: the table of a hundred groups is large
        contrast_P = adapter_P[pair] - base_P
        variance_P = adapter_variance_P[pair] + base_variance_P - 2 * together_PP[pair]
        reach_P = np.maximum(other_P[pair], other_P)
        reach_P[pair] = own_P[pair]
        reach_P *= np.sqrt(np.maximum(variance_P, 0.0))
        largest = max(largest, float((contrast_P + reach_P).min()))
        largest_P = np.maximum(largest_P, contrast_P - reach_P)
    return float(largest_P.min()), largest


def _gaps_of_sides(values: GroupedValues, *, binary: bool) -> tuple[Measured, Measured]:
    """Return the gaps of base and adapter with their intervals.

    A gap is the largest of the differences of all pairs. Its upper end is wrong only if that of the
    true extremes is; its lower end is corrected for the number of pairs.
    """
    groups = values.groups
    covariance, freedom_G = _covariance(_with_added_items(values) if binary else values)
    pairs_PG = _pairs(groups)
    tail = 1 - _TWO_SIDED
    above_P, below_P = (
        np.max(np.abs(pairs_PG) * -special.stdtrit(freedom_G, share), axis=1)
        for share in (tail, tail / len(pairs_PG))
    )
    found = []
    for side, means_G in enumerate(_means(values)):
        own = slice(side * groups, (side + 1) * groups)
        differences_P = pairs_PG @ means_G
        errors_P = np.sqrt(np.maximum(_quadratic(pairs_PG, covariance[own, own]), 0.0))
        low = max(float((differences_P - below_P * errors_P).max()), 0.0)
        high = float((differences_P + above_P * errors_P).max())
        found.append(Measured(float(np.ptp(means_G)), low, high))
    return found[0], found[1]


def _with_added_items(values: GroupedValues) -> GroupedValues:
    """Return the values with `PSEUDO_ITEMS` of each outcome in each group: kept, lost, gained."""
    base, adapter = np.tile([[0, 0, 1, 1], [0, 1, 0, 1]], PSEUDO_ITEMS * values.groups)
    group_I = np.repeat(np.arange(values.groups), 4 * PSEUDO_ITEMS)
    cluster_I = int(values.cluster_I.max()) + 1 + np.arange(len(group_I))
    return GroupedValues(
        np.concatenate([values.base_I, base]),
        np.concatenate([values.adapter_I, adapter]),
        np.concatenate([values.group_I, group_I]),
        np.concatenate([values.cluster_I, cluster_I]),
    )


def _covariance(values: GroupedValues) -> tuple[Floats, Floats]:
    """Return the covariance of the means, those of the base first, and each group's freedom."""
    base_G, adapter_G = _means(values)
    groups = values.groups
    group_I, cluster_I = values.group_I, values.cluster_I
    counts_G = np.bincount(group_I)
    sums = np.zeros((int(cluster_I.max()) + 1, 2 * groups))
    np.add.at(sums, (cluster_I, group_I), values.base_I - base_G[group_I])
    np.add.at(sums, (cluster_I, groups + group_I), values.adapter_I - adapter_G[group_I])
    met = np.unique(np.stack([cluster_I, group_I]), axis=1)
    clusters_G = np.bincount(met[1], minlength=groups)
    scale_G = np.sqrt(clusters_G / (clusters_G - 1)) / counts_G
    sums *= np.concatenate([scale_G, scale_G])
    covariance: Floats = sums.T @ sums
    return covariance, (clusters_G - 1).astype(np.float64)


def _pairs(groups: int) -> Floats:
    """Return 1 and -1 for the groups of every ordered pair."""
    one_GG = np.eye(groups)
    pairs = one_GG[:, None, :] - one_GG[None, :, :]
    return pairs[~np.eye(groups, dtype=bool)]


def _quadratic(pairs_PG: Floats, covariance_GG: Floats) -> Floats:
    found: Floats = np.einsum("pg,gh,ph->p", pairs_PG, covariance_GG, pairs_PG, optimize=True)
    return found


# --------------------------------------------------------------------------- chance


def _against_chance(values: GroupedValues, widening: float, seed: int, draws: int) -> Chance:
    """Return the p of a widening, and the quantile of the null distribution at `LEVEL`.

    What an item is off the mean of its group for the base moves to another group together with its
    gain, and the base's means stay, so that a gap which the base has does not count as one of the
    adapter. A cluster of one group moves as a whole; within a cluster of several, items change
    places.

    Source: Freedman and Lane, Journal of Business & Economic Statistics 1 (1983).
    """
    random = np.random.default_rng(seed)
    base_G, _ = _means(values)
    rest_I = values.base_I - base_G[values.group_I]
    gains_I = values.adapter_I - values.base_I
    found = np.empty(draws)
    for draw, group_I in enumerate(_permuted(values, random, draws)):
        moved_G, gained_G = _means(GroupedValues(rest_I, gains_I, group_I, values.cluster_I))
        found[draw] = np.ptp(base_G + moved_G + gained_G) - np.ptp(base_G + moved_G)
    reached = int((found >= widening - 1e-12).sum())
    return Chance((1 + reached) / (1 + draws), float(np.quantile(found, LEVEL)))


def _permuted(values: GroupedValues, random: np.random.Generator, draws: int) -> Iterator[Places]:
    """Yield the groups of the items after permutations."""
    group_I, cluster_I = values.group_I, values.cluster_I
    met = np.unique(np.stack([cluster_I, group_I]), axis=1)
    mixed_C = np.bincount(met[0]) > 1
    mixed_I = mixed_C[cluster_I]
    group_C = np.zeros(len(mixed_C), dtype=np.intp)
    group_C[cluster_I] = group_I
    pure = np.flatnonzero(~mixed_C)
    inside = np.flatnonzero(mixed_I)
    ordered = inside[np.argsort(cluster_I[inside], kind="stable")]
    for _ in range(draws):
        drawn_C = group_C.copy()
        drawn_C[pure] = random.permutation(group_C[pure])
        drawn_I = drawn_C[cluster_I]
        shuffled = inside[np.lexsort((random.random(len(inside)), cluster_I[inside]))]
        drawn_I[ordered] = group_I[shuffled]
        yield drawn_I
