"""Spearman's rank correlation of two lists, with a bootstrap interval over their pairs.

Shape letters: N pairs, R resamples. Imports numpy alone, since `plop score` calls it and importing
scipy.stats takes half a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plop_lora.statistics.choices import percentile_interval

LEAST_PAIRS = 4
"""Pairs below which there is no interval: their resamples hold too few different ones."""
RESAMPLES = 1000
_ELEMENTS = 2_000_000
"""Largest number of values that are ranked at a time."""


class RankCorrelation(NamedTuple):
    """Spearman's rank correlation with its 95 % interval, whose bounds may be None."""

    value: float
    low: float | None
    high: float | None


def rank_correlation(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0
) -> RankCorrelation | None:
    """Return Spearman's rank correlation of two lists of numbers.

    Args:
        first: Numbers, finite.
        second: The number that belongs to each of them.
        seed: Seed of the resamples.

    Returns:
        The correlation, with the percentile interval of a bootstrap in which the two numbers of a
        pair stay together. The interval is None below `LEAST_PAIRS` pairs. None is returned below
        two pairs, and where all numbers of a list are equal.

    Source: Spearman, American Journal of Psychology 15 (1904), for the correlation; Efron, Annals
    of Statistics 7 (1979), for the bootstrap.

    >>> rank_correlation([1.0, 2.0, 3.0], [10.0, 40.0, 20.0]).value
    0.5
    """
    pairs_2N = np.array([first, second], dtype=np.float64)
    found_R = _correlations(pairs_2N[:, None])
    if not found_R.size or np.isnan(found_R[0]):
        return None
    value = float(found_R[0])
    if pairs_2N.shape[1] < LEAST_PAIRS:
        return RankCorrelation(value, None, None)
    found = percentile_interval(_resampled(pairs_2N, seed))
    if found is None:
        return RankCorrelation(value, None, None)
    low, high = found
    return RankCorrelation(value, min(low, value), max(high, value))


def _resampled(pairs_2N: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return the correlation of each resample; a resample of equal numbers has none (NaN)."""
    size = pairs_2N.shape[1]
    rng = np.random.default_rng(seed)
    step = max(1, _ELEMENTS // size)
    parts = []
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        parts.append(_correlations(pairs_2N[:, rng.integers(0, size, (rows, size))]))
    return np.concatenate(parts)


def _correlations(pairs_2RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation of the ranks of each row, [R]; NaN where it is undefined."""
    if pairs_2RN.shape[-1] < 2:
        return np.full(pairs_2RN.shape[1], np.nan)
    ranks_2RN = np.array([_ranks(values_RN) for values_RN in pairs_2RN])
    ranks_2RN = ranks_2RN - ranks_2RN.mean(axis=-1, keepdims=True)
    first_RN, second_RN = ranks_2RN
    spread_R = np.sqrt((first_RN**2).sum(axis=-1) * (second_RN**2).sum(axis=-1))
    products_R = (first_RN * second_RN).sum(axis=-1)
    found_R: NDArray[np.float64] = np.divide(
        products_R, spread_R, out=np.full(len(spread_R), np.nan), where=spread_R > 0
    )
    return found_R


def _ranks(values_RN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of each row from 1; equal values share the mean of their ranks."""
    return np.array([
        (np.searchsorted(ordered, row, "left") + np.searchsorted(ordered, row, "right") + 1) / 2
        for ordered, row in zip(np.sort(values_RN, axis=-1), values_RN, strict=True)
    ])  # fmt: skip
