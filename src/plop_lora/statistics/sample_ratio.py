"""Sample-ratio mismatch: whether as many units are in each arm as the split says.

Units are assigned at random, so their numbers scatter about the split. Numbers that lie further
away show that units were lost or added in some arms more than in others: by a crash, a redirect,
a filter, a bug in the log. The arms are then not comparable, whatever their metrics say.

Imports numpy and scipy; no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

CONCENTRATION = 1000
"""Of the prior of a mismatch around the split; large values expect small mismatches. Of 100, 1,000
and 10,000 this one finds most in simulations with 10,000 and 100,000 units (docs/ab-design.md)."""


def chi_square_p(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Return Pearson's p of the split, for data that are looked at once.

    Args:
        counts: Number of units in each arm.
        shares: Share of each arm in the split; they add up to 1.

    >>> round(chi_square_p([5000, 5200], [0.5, 0.5]), 4)
    0.0477
    """
    counts_A = np.asarray(counts, dtype=np.float64)
    expected_A = counts_A.sum() * np.asarray(shares)
    if not counts_A.sum():
        return 1.0
    statistic = ((counts_A - expected_A) ** 2 / expected_A).sum()
    return float(special.chdtrc(len(counts_A) - 1, statistic))


def sequential_split_p(counts: ArrayLike, shares: Sequence[float]) -> float:
    """Return a p of the split that holds however often the data are looked at.

    It is the inverse of the Bayes factor of a Dirichlet-multinomial distribution around the split
    against the split itself. The probability that it ever falls to a value, at any number of
    units, is at most that value. It may rise again later; the smallest value so far holds as well.

    Args:
        counts: Number of units in each arm.
        shares: Share of each arm in the split; they add up to 1.

    Source: Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data", NeurIPS 2022,
    arXiv 2011.03567.

    >>> round(sequential_split_p([5000, 5400], [0.5, 0.5]), 4)
    0.003
    """
    counts_A = np.asarray(counts, dtype=np.float64)
    shares_A = np.asarray(shares)
    prior_A = CONCENTRATION * shares_A
    log_factor = (
        special.gammaln(CONCENTRATION)
        - special.gammaln(CONCENTRATION + counts_A.sum())
        + (special.gammaln(prior_A + counts_A) - special.gammaln(prior_A)).sum()
        - (counts_A * np.log(shares_A)).sum()
    )
    return float(np.exp(-max(log_factor, 0.0)))
