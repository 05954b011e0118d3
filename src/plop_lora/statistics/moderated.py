"""Variances over seeds, moderated by those of all arms of a study.

Two or three seeds say little of an arm's own variance: with one or two degrees of freedom the
critical value of a corrected comparison lies beyond nine standard errors. Arms that are trained
on the same rows vary alike, so the variance of each is a weighted mean of its own and of the mean
over arms, and has more degrees of freedom. The weight of that mean follows from how much the
arms' variances differ beyond chance (empirical Bayes).

Where arms do differ, that is too small for a noisy arm. Two measures keep the family-wise error
(`benchmarks/seed_variance.py` simulates it): the weight is bounded, and the reference, whose
noise is in every comparison, never gets less than its own variance.

Shape letters: A arms, R rivals, S seeds. Imports numpy and scipy; no torch.

Source: Smyth, "Linear Models and Empirical Bayes Methods for Assessing Differential Expression in
Microarray Experiments", Statistical Applications in Genetics and Molecular Biology 3 (2004),
section 6.2 (moments of log variances). Different here: the two measures above, the arithmetic mean
over arms as the prior variance, which noisy arms raise, and a bound on the prior degrees of
freedom in place of infinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

LEAST_ARMS = 4
"""With three, half of what an arm's variance is estimated from would be that of the others."""
_SMALLEST = 1e-5
"""Of the mean variance: what a variance counts as at least where its logarithm is taken."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SeedVariances:
    """Variances over seeds of two arms that are compared.

    Attributes:
        reference: variance of the reference's mean over rows, from seed to seed.
        rival: the same of the rival.
        freedom: degrees of freedom of each of the two.
    """

    reference: float
    rival: float
    freedom: float

    @property
    def total(self) -> float:
        """Variance of the difference of the two arms at one seed."""
        return self.reference + self.rival


def moderated_variances(differences_RS: Floats) -> tuple[SeedVariances, ...] | None:
    """Return the seed variances of a reference and of each rival, moderated over all of them.

    The effect of a seed that all arms share is removed first, so the reference is given by its
    differences from the rivals alone. The differences' own variances are not moderated: all of
    them contain the reference's, and would look more alike than the arms are.

    Args:
        differences_RS: Reference minus rival, a row per rival, a column per seed.

    Returns:
        One for each rival; None with fewer than `LEAST_ARMS` arms, whose variances can hardly be
        told apart.

    Raises:
        ValueError: Fewer than two seeds, or a value that is not finite.
    """
    rivals, seeds = differences_RS.shape
    if seeds < 2 or not np.isfinite(differences_RS).all():
        raise ValueError(f"Two finite values at least are needed for each rival, not {seeds}.")
    if rivals + 1 < LEAST_ARMS:
        return None
    own_A = _own_variances(differences_RS)
    own_freedom = seeds - 1
    prior_freedom = _prior_freedom(own_A, own_freedom)
    freedom = own_freedom + prior_freedom
    moderated_A = (own_freedom * own_A + prior_freedom * own_A.mean()) / freedom
    reference = float(max(moderated_A[0], own_A[0]))
    return tuple(SeedVariances(reference, float(rival), freedom) for rival in moderated_A[1:])


def _own_variances(differences_RS: Floats) -> Floats:
    """Return each arm's variance without the effect that a seed has on all, the reference first.

    Where all arms vary alike each is unbiased with S - 1 degrees of freedom; where they do not,
    the mean over arms is, and each arm's is drawn to it by 1 / (A - 1).
    """
    rivals, seeds = differences_RS.shape
    values_AS = np.vstack([np.zeros(seeds), -differences_RS])
    effects_AS = values_AS - values_AS.mean(axis=1, keepdims=True)
    residuals_AS = effects_AS - effects_AS.mean(axis=0)
    return np.asarray((residuals_AS**2).sum(axis=1) / ((seeds - 1) * rivals / (rivals + 1)))


def _prior_freedom(own_A: Floats, own_freedom: int) -> float:
    """Return how many degrees of freedom the mean over arms is worth to each arm.

    At most half of those that the other arms have. Variances that are known no better than here
    look alike by chance where they are not, and without the bound the worth would be infinite.
    """
    most = (own_A.size - 2) * own_freedom / 2
    floor = _SMALLEST * own_A.mean()
    if not floor:
        return most
    logs_A = np.log(np.maximum(own_A, floor))
    excess = float(logs_A.var(ddof=1) - special.polygamma(1, own_freedom / 2))
    if excess <= special.polygamma(1, most / 2):
        return most
    # A large import, which only a study of arms that differ needs.
    from scipy.optimize import brentq

    # The trigamma function of x is above 1 / x², so the root lies between these two.
    half = brentq(lambda x: special.polygamma(1, x) - excess, excess**-0.5, most / 2)
    return 2 * float(half)
