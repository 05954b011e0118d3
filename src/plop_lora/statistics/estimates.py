"""Intervals and comparisons over sequences, from the sums and counts that `Scores` keeps.

A type's score is the mean over its sites of a token-weighted mean, that is, of a ratio of sums.
Its uncertainty over sequences follows from the linearised ratio (the delta method): each sequence
has an *influence*, the amount by which it changes the score, and the standard error of the score
is that of the mean influence. Two scores on the same sequences are compared by the differences of
their influences, that is, paired by sequence.

Shape letters: N sites, S sequences. Imports numpy and scipy; no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from plop_lora.records import DECIDED, UNDECIDED, GapVerdict, IndicatorScores, Measurements

CONFIDENCE = 0.95
POWER = 0.8
"""The chance with which a plan, or a number of further seeds or rows, is enough."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A value with the influence of each sequence on it.

    Attributes:
        value: The estimate.
        influence_S: Influence of each sequence, with mean zero.
    """

    value: float
    influence_S: Floats

    def interval(self) -> tuple[float | None, float | None]:
        """Return the 95 % t-interval, or (None, None) with fewer than two sequences."""
        half_width = _half_width(self.influence_S)
        if half_width is None:
            return None, None
        return self.value - half_width, self.value + half_width


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two scores with its 95 % interval.

    Attributes:
        value: Second score minus the first.
        low: Lower bound, or None with fewer than two sequences.
        high: Upper bound, or None with fewer than two sequences.
    """

    value: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> GapVerdict:
        """`decided` if the interval excludes zero, else `undecided, score more data`."""
        if self.low is None or self.high is None:
            return UNDECIDED
        return DECIDED if self.low > 0 or self.high < 0 else UNDECIDED


def type_estimate(measurements: Measurements, site_indices: Sequence[int]) -> Estimate:
    """Return the mean NFN of the sites at `site_indices`, with its influences.

    Args:
        measurements: Sums and counts per site and sequence.
        site_indices: Indices of the sites in `measurements`; at least one.

    Returns:
        The unweighted mean over sites of Σ sums / Σ counts. A lower value means less aligned.
    """
    return ratio_estimate(*sums_and_counts(measurements, site_indices))


def sums_and_counts(
    measurements: Measurements, site_indices: Sequence[int]
) -> tuple[Floats, Floats]:
    """Return the sums and the counts [N, S] of some sites."""
    sums_NS = np.array([measurements.sums[index] for index in site_indices], dtype=np.float64)
    counts_NS = np.array(
        [measurements.counts[measurements.count_row[index]] for index in site_indices],
        dtype=np.float64,
    )
    return sums_NS, counts_NS


def indicator_estimate(
    measurements: Measurements, indicator: IndicatorScores, site_indices: Sequence[int]
) -> Estimate | None:
    """Return the mean of a further indicator over the sites at `site_indices`, with its influences.

    Args:
        measurements: Measurements with the counts by which the sums are divided.
        indicator: Recorded values of the indicator.
        site_indices: Indices of the sites; at least one.

    Returns:
        The mean over the sites that have a value, or None if none has. The influences of an
        indicator that is independent of the data are zero.
    """
    seen = [index for index in site_indices if indicator.values[index] is not None]
    if not seen:
        return None
    if indicator.sums:
        return type_estimate(replace(measurements, sums=indicator.sums), seen)
    known = [value for index in seen if (value := indicator.values[index]) is not None]
    return Estimate(fmean(known), np.zeros(len(measurements.sequence_ids)))


def ratio_estimate(sums_NS: Floats, counts_NS: Floats) -> Estimate:
    """Return the mean over rows of Σ sums / Σ counts, with the influence of each column.

    >>> ratio_estimate(np.array([[2.0, 4.0]]), np.array([[1.0, 1.0]])).value
    3.0
    """
    means_N, influence_NS = _ratios(sums_NS, counts_NS)
    return Estimate(float(means_N.mean()), influence_NS.mean(axis=0))


def log_ratio_difference(second: tuple[Floats, Floats], first: tuple[Floats, Floats]) -> Estimate:
    """Return the mean over rows of log(Σ sums / Σ counts) of `second` minus that of `first`.

    The rows are the same in both, the columns are two independent samples of texts. The influences
    are those of both samples, one after the other, in units that give the mean influence the
    variance s²/n + s'²/n' of the difference. Two differences of the same samples are paired by
    text. The t-interval takes the degrees of freedom of the pooled sample; Welch's are fewer.

    Args:
        second: Sums and counts [N, S], positive in every row.
        first: Sums and counts [N, S'] of the same rows.

    Returns:
        The estimate. It has a single influence, and so no interval, if a sample has one column.

    >>> ones = np.ones((1, 2))
    >>> found = log_ratio_difference((np.array([[2.0, 2.0]]), ones), (ones, ones))
    >>> round(found.value, 3), len(found.influence_S)
    (0.693, 4)
    """
    parts, value = [], 0.0
    sizes = [second[0].shape[1], first[0].shape[1]]
    total = sum(sizes)
    for sign, size, (sums_NS, counts_NS) in zip((1, -1), sizes, (second, first), strict=True):
        means_N, influence_NS = _ratios(sums_NS, counts_NS)
        value += sign * float(np.log(means_N).mean())
        relative_S = (influence_NS / means_N[:, None]).mean(axis=0)
        if size > 1:
            unbiased = math.sqrt(size / (size - 1) * (total - 1) / total)
            parts.append(sign * relative_S * total / size * unbiased)
    return Estimate(value, np.concatenate(parts) if len(parts) == 2 else np.zeros(1))


def _ratios(sums_NS: Floats, counts_NS: Floats) -> tuple[Floats, Floats]:
    """Return Σ sums / Σ counts of each row, [N], and the influence of each column on it, [N, S]."""
    sequences = sums_NS.shape[1]
    means_N = sums_NS.sum(axis=1) / counts_NS.sum(axis=1)
    residuals_NS = sums_NS - means_N[:, None] * counts_NS
    return means_N, residuals_NS * sequences / counts_NS.sum(axis=1, keepdims=True)


def paired_difference(second: Estimate, first: Estimate) -> Difference:
    """Return `second - first`, both measured on the same sequences in the same order."""
    value = second.value - first.value
    half_width = _half_width(second.influence_S - first.influence_S)
    return _difference(value, half_width)


def unpaired_difference(second: Estimate, first: Estimate) -> Difference:
    """Return `second - first` for independent samples, with Welch's degrees of freedom."""
    value = second.value - first.value
    found = welch(second, first)
    if found is None:
        return _difference(value, None)
    quantile = _t_quantile(found.freedom) if found.variance else 0.0
    return _difference(value, float(quantile * np.sqrt(found.variance)))


class Welch(NamedTuple):
    """A difference of two independent estimates.

    Attributes:
        value: Second estimate minus the first.
        variance: Variance of the difference.
        freedom: Degrees of freedom of the variance; infinite where the variance is 0.
    """

    value: float
    variance: float
    freedom: float


def welch(second: Estimate, first: Estimate) -> Welch | None:
    """Return `second - first` of independent samples; None with fewer than two in either.

    Source: Welch, Biometrika 34 (1947).

    >>> samples = (np.array([4.0, 6.0, 8.0]), np.array([1.0, 2.0, 3.0]))
    >>> found = welch(*map(mean_estimate, samples))
    >>> found.value, round(found.variance, 3), round(found.freedom, 2)
    (4.0, 1.667, 2.94)
    """
    sizes = np.array([first.influence_S.size, second.influence_S.size])
    if sizes.min() < 2:
        return None
    variances = np.array([first.influence_S.var(ddof=1), second.influence_S.var(ddof=1)]) / sizes
    total = float(variances.sum())
    freedom = total**2 / float((variances**2 / (sizes - 1)).sum()) if total else math.inf
    return Welch(second.value - first.value, total, freedom)


def mean_estimate(values_S: Floats) -> Estimate:
    """Return the mean of a sample, with the influence of each of its values."""
    mean = float(values_S.mean())
    return Estimate(mean, values_S - mean)


def sequential_margin(sequences: int, level: float, *, expected: int) -> float:
    """Return the margin of a one-sided bound on a mean that holds at every number of sequences.

    The probability that the mean is ever below `estimate - margin * standard deviation` is at most
    `level`: exactly for normal data with unknown variance, asymptotically for other data. The
    bound is the asymptotic confidence sequence with a mixture over positive
    effects, in units of standard deviations to account for the estimated variance. With many
    sequences it equals theirs; with few it is wider, like Student's t.

    Args:
        sequences: Number of sequences so far. If it is too small for the level, the margin is
            infinite.
        level: One-sided probability of an error.
        expected: Number of sequences at which the bound is tightest.

    Returns:
        The margin in standard deviations of a single sequence.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, arXiv 2103.06476 (the sequence, and how
    to tune it); Wang, Ramdas, arXiv 2310.03722 (time-uniform t). The mixture over positive
    effects is at least twice the one over all less 1 / sqrt(1 + n·ρ²), which gives a closed form.

    >>> round(sequential_margin(40, 0.05, expected=40) * 40**0.5, 2)
    2.89
    """
    if sequences < 2:
        return math.inf
    growth = 1 + sequences * _mixture_variance(level, expected)
    bound = ((1 + math.sqrt(growth) / level) / 2) ** (2 / sequences)
    if bound >= growth:
        return math.inf
    return math.sqrt((sequences - 1) * (bound - 1) / (1 - bound / growth) / sequences)


def _mixture_variance(level: float, expected: int) -> float:
    """Return ρ², the variance of the mixture over effects (for a two-sided level of 2·level)."""
    width = -2 * math.log(2 * level)
    return (width + math.log(width) + 1) / expected


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Kendall's tau-b of two lists of scores, or None where it is undefined."""
    if len(first) < 2:
        return None
    # This import takes half a second, and only comparisons need it.
    from scipy import stats

    tau = float(stats.kendalltau(first, second).statistic)
    return None if np.isnan(tau) else tau


def _half_width(influence_S: Floats) -> float | None:
    size = influence_S.size
    if size < 2:
        return None
    return float(_t_quantile(size - 1) * influence_S.std(ddof=1) / np.sqrt(size))


def _t_quantile(freedom: float) -> float:
    return float(special.stdtrit(freedom, 0.5 + CONFIDENCE / 2))


def _difference(value: float, half_width: float | None) -> Difference:
    if half_width is None:
        return Difference(value, None, None)
    return Difference(value, value - half_width, value + half_width)


def at_most(count: int, level: float = CONFIDENCE) -> float:
    """Return the largest share that 0 of a number of items leaves possible, at a level.

    Args:
        count: Number of items, of which none showed what is counted.
        level: Level of the one-sided bound.

    Source: Clopper and Pearson, Biometrika 26 (1934), which is about 3 / count at 95 %.

    >>> round(at_most(100), 4)
    0.0295
    """
    return float(1 - (1 - level) ** (1 / count))
