"""Variances over seeds, moderated by those of all arms of a study.

Two or three seeds say little of an arm's own variance: with one or two degrees of freedom the
critical value of a corrected comparison lies beyond nine standard errors. Arms that are trained
on the same rows vary alike, so the variance of each is a weighted mean of its own and of the mean
over arms, and has more degrees of freedom. The weight of that mean follows from how much the
arms' variances differ beyond chance (empirical Bayes).

Where arms do differ, that is too small for a noisy arm. There are two estimates, for two kinds of
claims (`benchmarks/verdicts.py` simulates the errors of both):

- *moderated*, for claims about the best of many rivals, which are corrected for their number. The
  weight is bounded, and the reference, whose noise is in every comparison, never gets less than
  its own variance.
- *cautious*, for claims that hold for every single rival, however noisy it is. The mean over arms
  counts as half a degree of freedom, and no arm gets less than its own variance.

Functions take further dimensions in front, for simulations of many studies at once. Shape letters:
A arms, R rivals, S seeds. Imports numpy and scipy; no torch.

Source: Smyth, "Linear Models and Empirical Bayes Methods for Assessing Differential Expression in
Microarray Experiments", Statistical Applications in Genetics and Molecular Biology 3 (2004),
section 6.2 (moments of log variances). Different here: the measures above, the arithmetic mean
over arms as the prior variance, which noisy arms raise, and a bound on the prior degrees of
freedom in place of infinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

LEAST_ARMS = 4
"""With three, half of what an arm's variance is estimated from would be that of the others."""
CAUTIOUS_FREEDOM = 0.5
"""Degrees of freedom that the mean over arms is worth to a cautious variance. With one, a rival
four times as noisy as the others is called non-inferior in up to 7.6 % where 5 % is promised."""
_SMALLEST = 1e-5
"""Of the mean variance: what a variance counts as at least where its logarithm is taken."""
_NEWTON_STEPS = 50

Floats = NDArray[np.float64]


class SeedVariance(NamedTuple):
    """Variance of a difference at one seed, and how well it is known."""

    value: float
    freedom: float


@dataclass(frozen=True, slots=True, eq=False)
class ArmVariances:
    """Variances over seeds of arms, each with the effect removed that a seed has on all arms.

    Attributes:
        values_A: Variance of each arm's mean over rows, from seed to seed.
        freedom_A: Degrees of freedom of each.
    """

    values_A: Floats
    freedom_A: Floats


@dataclass(frozen=True, slots=True, eq=False)
class SeedVariances:
    """Variances of the difference of a reference and its rivals at one seed.

    Attributes:
        moderated_R: For claims that are corrected for the number of rivals.
        freedom_R: Degrees of freedom of each of these.
        cautious_R: For claims that hold for every single rival.
        cautious_freedom_R: Degrees of freedom of each of these.
    """

    moderated_R: Floats
    freedom_R: Floats
    cautious_R: Floats
    cautious_freedom_R: Floats

    def of(self, *place: int) -> tuple[SeedVariance, SeedVariance]:
        """Return the moderated and the cautious variance of one rival."""
        return (
            SeedVariance(float(self.moderated_R[place]), float(self.freedom_R[place])),
            SeedVariance(float(self.cautious_R[place]), float(self.cautious_freedom_R[place])),
        )


def arm_variances(differences_RS: Floats) -> ArmVariances:
    """Return each arm's variance without the effect that a seed has on all, the reference first.

    Where all arms vary alike each is unbiased with S - 1 degrees of freedom; where they do not,
    the mean over arms is, and each arm's is drawn to it by 1 / A.

    Args:
        differences_RS: Reference minus rival, a row per rival, a column per seed.

    Raises:
        ValueError: Fewer than two seeds, or a value that is not finite.
    """
    *batch, rivals, seeds = differences_RS.shape
    if seeds < 2 or not np.isfinite(differences_RS).all():
        raise ValueError(f"Two finite values at least are needed for each rival, not {seeds}.")
    values_AS = np.concatenate([np.zeros((*batch, 1, seeds)), -differences_RS], axis=-2)
    effects_AS = values_AS - values_AS.mean(axis=-1, keepdims=True)
    residuals_AS = effects_AS - effects_AS.mean(axis=-2, keepdims=True)
    values_A = (residuals_AS**2).sum(axis=-1) / ((seeds - 1) * rivals / (rivals + 1))
    return ArmVariances(values_A, np.full(values_A.shape, seeds - 1.0))


def seed_variances(
    differences_RS: Floats, others: ArmVariances | None = None
) -> SeedVariances | None:
    """Return the seed variances of rivals' differences, moderated over all arms.

    The differences' own variances are not moderated: all of them contain the reference's, and
    would look more alike than the arms are. So the reference is given by its differences from the
    rivals alone.

    Args:
        differences_RS: Reference minus rival, a row per rival, a column per seed.
        others: Variances of arms that have other numbers of seeds. They count in the mean.

    Returns:
        In the order of the rivals; None with fewer than `LEAST_ARMS` arms, whose variances can
        hardly be told apart.

    Raises:
        ValueError: Fewer than two seeds, or a value that is not finite.
    """
    own = arm_variances(differences_RS)
    everyone = own if others is None else _together(own, others)
    if everyone.values_A.shape[-1] < LEAST_ARMS:
        return None
    prior = everyone.values_A.mean(axis=-1, keepdims=True)
    worth = _prior_freedom(everyone)[..., None]
    moderated_A, freedom_A = _weighted(own, prior, worth)
    moderated_A[..., 0] = np.maximum(moderated_A[..., 0], own.values_A[..., 0])
    cautious_A, cautious_freedom_A = _weighted(own, prior, np.minimum(worth, CAUTIOUS_FREEDOM))
    cautious_A = np.maximum(cautious_A, own.values_A)
    return SeedVariances(
        moderated_R=moderated_A[..., :1] + moderated_A[..., 1:],
        freedom_R=freedom_A[..., 1:],
        cautious_R=cautious_A[..., :1] + cautious_A[..., 1:],
        cautious_freedom_R=cautious_freedom_A[..., 1:],
    )


def _together(own: ArmVariances, others: ArmVariances) -> ArmVariances:
    return ArmVariances(
        np.concatenate([own.values_A, others.values_A], axis=-1),
        np.concatenate([own.freedom_A, others.freedom_A], axis=-1),
    )


def _weighted(own: ArmVariances, prior: Floats, worth: Floats) -> tuple[Floats, Floats]:
    """Return the mean of own and prior variances by degrees of freedom, and their sum."""
    freedom_A = own.freedom_A + worth
    return (own.freedom_A * own.values_A + worth * prior) / freedom_A, freedom_A


def _prior_freedom(arms: ArmVariances) -> Floats:
    """Return how many degrees of freedom the mean over arms is worth to each arm.

    At most half of those that the other arms have. Variances that are known no better than here
    look alike by chance where they are not, and without the bound the worth would be infinite.
    """
    values_A, freedom_A = arms.values_A, arms.freedom_A
    count = values_A.shape[-1]
    most = freedom_A.mean(axis=-1) * (count - 2) / 2
    floor = _SMALLEST * values_A.mean(axis=-1, keepdims=True)
    # Where no arm has any spread at all, all are alike.
    logs_A = np.log(np.maximum(values_A, np.where(floor > 0, floor, 1.0)))
    logs_A = logs_A - special.digamma(freedom_A / 2) + np.log(freedom_A / 2)
    excess = logs_A.var(axis=-1, ddof=1) - special.polygamma(1, freedom_A / 2).mean(axis=-1)
    least = special.polygamma(1, most / 2)
    return np.asarray(2 * _inverse_trigamma(np.maximum(excess, least)))


def _inverse_trigamma(values: Floats) -> Floats:
    """Return where the trigamma function has these values, by Newton's method.

    The reciprocal of the function is convex and nearly linear, so from below the steps rise to
    the root (Smyth, appendix).
    """
    found = 0.5 + 1 / values
    for _ in range(_NEWTON_STEPS):
        value = special.polygamma(1, found)
        step = value * (1 - value / values) / special.polygamma(2, found)
        found = found + step
        if np.all(np.abs(step) < 1e-10 * found):
            break
    return np.asarray(found)
