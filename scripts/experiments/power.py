"""How many networks and seeds the question of the study needs, from the variances of its records.

A study is simulated again and again: every network has a correlation of its own of score and gain,
around a mean, and two pairs in which as many types as a pair of the records had are drawn with it.
Gains have the error that seeds and rows leave in the records. A study finds the correlation where
the 95 % interval of its mean over networks, as `evidence.py` computes it, lies below 0.

Shape letters: T types, S seeds, I items (report rows), N networks, P pairs of a network, D draws,
X pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from outcomes import MOST_SEEDS, SEEDS, Floats, Outcome
from pages import table
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

NETWORKS = (7, 10, 15, 20, 30, 40)
TRUE = (0.0, -0.2, -0.3, -0.5)
PAIRS_OF_A_NETWORK = 2
DRAWS = 2000
LEVEL = 0.975
MOST_RHO = 0.99
"""Below 1, where the transform of Fisher has no value."""


@dataclass(frozen=True)
class Errors:
    """The error of the gains of a pair's types, as a share of their variance between types.

    `seeds` is that of a single seed, `rows` that of the report rows, which more seeds leave.
    """

    types: int
    seeds: float
    rows: float

    def total(self, seeds: int) -> float:
        """Return the share that as many seeds leave."""
        return self.seeds / seeds + self.rows


def errors_of(outcome: Outcome) -> Errors:
    """Return the error of the gains of a pair's types.

    Rows and seeds are the same for all types, so that only what differs between types counts.
    """
    gains_TSI = np.stack([outcome.arms[arm].gains_SI for arm in outcome.types()])
    apart_TSI = gains_TSI - gains_TSI.mean(axis=0)
    types, seeds, items = apart_TSI.shape
    of_seeds = float(apart_TSI.mean(axis=2).var(axis=1, ddof=1).mean())
    of_rows = float(apart_TSI.mean(axis=1).var(axis=1, ddof=1).mean()) / items
    observed = float(gains_TSI.mean(axis=(1, 2)).var(ddof=1))
    true = max(observed - of_seeds / seeds - of_rows, observed / 10)
    return Errors(types, of_seeds / true, of_rows / true)


def between_networks(used: Sequence[Outcome], rhos: Sequence[float]) -> float:
    """Return the standard deviation of the networks' correlations, by the transform of Fisher.

    A random-effects meta-analysis (Paule and Mandel) with the pairs of a network as one effect.
    """
    networks: dict[str, list[tuple[float, float]]] = {}
    for outcome, rho in zip(used, rhos, strict=True):
        error = 1 / max(1, len(outcome.types()) - 3)
        networks.setdefault(outcome.network, []).append((fisher(rho), error))
    if len(networks) < 2:
        return 0.0
    effects = [fmean(z for z, _ in found) for found in networks.values()]
    variances = [fmean(v for _, v in found) / len(found) for found in networks.values()]
    found = combine_effects(np.array(effects), np.array(variances), method_re="pm")
    return math.sqrt(max(0.0, found.tau2))


def fisher(rho: float) -> float:
    """Return the transform of a correlation."""
    return math.atanh(min(MOST_RHO, max(-MOST_RHO, rho)))


def found_shares(
    true: float, spread: float, seeds: int, known: Sequence[Errors]
) -> dict[int, float]:
    """Return the share of simulated studies whose interval lies below 0, by number of networks.

    Args:
        true: mean correlation of score and gain over networks.
        spread: standard deviation over networks of its transform.
        seeds: of every arm.
        known: errors of pairs, from which those of a simulated pair are drawn.
    """
    rng = np.random.default_rng(0)
    shape = (DRAWS, max(NETWORKS), PAIRS_OF_A_NETWORK)
    own_DN = np.tanh(rng.normal(math.atanh(true), spread, shape[:2]))
    own_DNP = np.broadcast_to(own_DN[..., None], shape)
    drawn_DNP = rng.integers(len(known), size=shape)
    rhos_DNP = np.empty(shape)
    for place, errors in enumerate(known):
        here = drawn_DNP == place
        rhos_DNP[here] = simulated(rng, own_DNP[here], errors, seeds)
    means_DN = rhos_DNP.mean(axis=2)
    return {networks: below_zero(means_DN[:, :networks]) for networks in NETWORKS}


def simulated(rng: np.random.Generator, rho_X: Floats, errors: Errors, seeds: int) -> Floats:
    """Return Spearman's correlation of scores and gains in X simulated pairs."""
    scores_XT, own_XT, error_XT = rng.standard_normal((3, len(rho_X), errors.types))
    gains_XT = rho_X[:, None] * scores_XT + np.sqrt(1 - rho_X[:, None] ** 2) * own_XT
    gains_XT += math.sqrt(errors.total(seeds)) * error_XT
    ranks_XT, others_XT = (stats.rankdata(values, axis=1) for values in (scores_XT, gains_XT))
    differences_X = ((ranks_XT - others_XT) ** 2).sum(axis=1)
    return 1 - 6 * differences_X / (errors.types * (errors.types**2 - 1))


def below_zero(means_DN: Floats) -> float:
    """Return the share of studies in which the interval of the mean over networks is below 0."""
    half_D = stats.t.ppf(LEVEL, means_DN.shape[1] - 1) * stats.sem(means_DN, axis=1)
    return float((means_DN.mean(axis=1) + half_D < 0).mean())


def power_parts(used: Sequence[Outcome], rhos: Sequence[float]) -> list[str]:
    """Return how many networks find which correlation, none where there are too few to say.

    Args:
        used: pairs of the study.
        rhos: correlation of score and gain in each.
    """
    if len({outcome.network for outcome in used}) < 3:
        return []
    known = [errors_of(outcome) for outcome in used]
    spread = between_networks(used, rhos)
    found = {
        (true, seeds): found_shares(true, spread, seeds, known)
        for true in TRUE
        for seeds in (SEEDS, MOST_SEEDS)
    }
    rows = [
        (
            str(networks),
            *(
                " and ".join(f"{found[true, seeds][networks]:.0%}" for seeds in (SEEDS, MOST_SEEDS))
                for true in TRUE
            ),
        )
        for networks in NETWORKS
    ]
    few, many = (median(each.total(seeds) for each in known) for seeds in (SEEDS, MOST_SEEDS))
    text = (
        "What a study of this kind can find: the share of simulated studies whose interval lies "
        f"below 0, by the number of networks with {PAIRS_OF_A_NETWORK} pairs each and by the true "
        f"mean correlation, with {SEEDS} and with {MOST_SEEDS} seeds an arm. The networks' own "
        f"correlations differ by a standard deviation of {spread:.2f} (of Fisher's z) in the "
        f"records. In half of the pairs seeds and rows leave an error in the gain of a type "
        f"of at most {few:.0%} of the variance between types with {SEEDS} seeds, and of at most "
        f"{many:.0%} with {MOST_SEEDS}."
    )
    head = ("networks", *(f"true rho {true:+.1f}" if true else "true rho 0" for true in TRUE))
    return [text, table(head, rows)]
