"""Confidence sequences: intervals of a mean that hold at every number of units at once.

An interval is the estimate plus or minus a number of standard errors, its *quantile*. For a fixed
number of units that is 1.96 (two-sided, 95 %). Here the quantile depends on the number of units so
far, and the probability that the interval ever misses, over all numbers of units, is at most
`error`. So the data may be looked at as often as one likes, and the study may stop whenever an
interval allows a conclusion.

The guarantee is asymptotic: it rests on the central limit theorem, as that of the usual interval
does. It holds for units that arrive one after another, each with its final value.

Imports numpy; no torch.

Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, Annals of Statistics 52 (2024), arXiv
2103.06476, equation 9 (the interval), and its approximation of the best tuning.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def two_sided_quantile(units: ArrayLike, *, error: float, planned: float) -> Floats:
    """Return the number of standard errors on either side of an estimate.

    Args:
        units: Numbers of units so far. Where there is none, the quantile is infinite.
        error: Probability that the interval misses at any number of units.
        planned: Number of units at which the interval is to be tightest.

    Returns:
        The quantiles, in the shape of `units`.

    >>> two_sided_quantile([1000, 10_000], error=0.05, planned=10_000).round(2)
    array([3.86, 3.04])
    """
    with np.errstate(divide="ignore"):
        growth = np.asarray(units, dtype=np.float64) * _mixture_variance(error, planned)
        log = np.log(np.sqrt(1 + growth) / error)
        return np.asarray(np.sqrt(2 * (1 + 1 / growth) * log))


def one_sided_quantile(units: ArrayLike, *, error: float, planned: float) -> Floats:
    """Return the number of standard errors between an estimate and a bound on one side of it.

    Args:
        units: Numbers of units so far. Where there is none, the quantile is infinite.
        error: Probability that the bound fails at any number of units.
        planned: Number of units at which the bound is to be tightest.

    Returns:
        The quantiles, in the shape of `units`.

    Source: The mixture of equation 9, over effects of one sign. With x its statistic and Φ the
    normal distribution, it is 2·Φ(x) times the mixture over all effects; 1 - Φ(x) ≤ exp(-x²/2) / 2
    for x ≥ 0 gives the closed form.

    >>> one_sided_quantile([1000, 10_000], error=0.025, planned=10_000).round(2)
    array([3.87, 3.04])
    """
    with np.errstate(divide="ignore"):
        growth = np.asarray(units, dtype=np.float64) * _mixture_variance(2 * error, planned)
        log = np.log((1 + np.sqrt(1 + growth) / error) / 2)
        return np.asarray(np.sqrt(2 * (1 + 1 / growth) * log))


def _mixture_variance(error: float, planned: float) -> float:
    """Return ρ², the variance of the mixture, by which an interval is tightest at `planned`."""
    if not 0 < error < 1 or not planned > 0:
        raise ValueError(f"An error of {error:g} or {planned:g} planned units cannot be met.")
    width = -2 * math.log(error)
    return (width + math.log1p(width)) / planned
