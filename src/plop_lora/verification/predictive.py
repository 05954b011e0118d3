"""Whether the NFN of the arms' types goes with what the arms reached. Pure; no torch.

Arms share their types: `mlp`, `all-linear` and a constant with three types of the MLP say the same
thing three times. So the p-value comes from permuting the NFN of the types, after which every arm
has its mean anew, and not from taking arms as independent, which finds a relation far too often.

Shape letters: A arms, T types, P permutations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from plop_lora.records import Predictive

LEAST_ARMS = 4
MOST = 5_040
"""Permutations that are gone through: all of seven types, as many draws of more."""

Floats = NDArray[np.float64]


def predictive(
    types: Mapping[str, Sequence[Sequence[str]]],
    nfn: Mapping[str, float],
    outcomes: Mapping[str, float | None],
    *,
    higher: bool,
) -> Predictive:
    """Correlate the arms' mean NFN with what they reached, turned so that higher is better.

    A negative rho speaks for the score: the lower the NFN, the better the arm.

    Args:
        types: The module types of each arm, by seed.
        nfn: The NFN of each type. An arm with a type that has none is left out.
        outcomes: The mean of the metric of each arm, None where no seed finished.
        higher: Whether a higher value of the metric is better.

    Returns:
        Spearman's rho over the arms, and its two-sided p-value from permutations of the NFN of the
        types. Both are None with fewer than four arms, and where all values are the same.
    """
    arms = [
        arm
        for arm, by_seed in types.items()
        if outcomes.get(arm) is not None and all(name in nfn for names in by_seed for name in names)
    ]
    if len(arms) < LEAST_ARMS:
        return Predictive(rho=None, arms=len(arms), p=None)
    names = sorted({name for arm in arms for found in types[arm] for name in found})
    shares_AT = np.array([_shares(types[arm], names) for arm in arms])
    reached_A = np.array([outcomes[arm] for arm in arms], dtype=np.float64)
    return _permuted(
        shares_AT, np.array([nfn[name] for name in names]), reached_A if higher else -reached_A
    )


def _shares(by_seed: Sequence[Sequence[str]], names: Sequence[str]) -> list[float]:
    """Return the weight of each type in the mean NFN of an arm."""
    return [
        sum((name in found) / len(set(found)) for found in by_seed) / len(by_seed) for name in names
    ]


def _permuted(shares_AT: Floats, nfn_T: Floats, reached_A: Floats) -> Predictive:
    orders_PT = _orders(nfn_T.size)
    means_PA = nfn_T[orders_PT] @ shares_AT.T
    found_P = _spearman(means_PA, reached_A)
    rho = float(found_P[0])
    if math.isnan(rho):
        return Predictive(rho=None, arms=len(reached_A), p=None)
    reaching = np.count_nonzero(np.abs(found_P) >= abs(rho) - 1e-12)
    return Predictive(rho=rho, arms=len(reached_A), p=float(reaching / len(orders_PT)))


def _orders(types: int) -> NDArray[np.int64]:
    """Return permutations of the types, the identity first: all of few types, draws of many."""
    if math.factorial(types) <= MOST:
        return np.array(list(itertools.permutations(range(types))))
    rng = np.random.default_rng(0)
    drawn = rng.permuted(np.tile(np.arange(types), (MOST, 1)), axis=1)
    drawn[0] = np.arange(types)
    return drawn


def _spearman(values_PA: Floats, reached_A: Floats) -> Floats:
    """Return Spearman's rho of each row with the outcomes, NaN where one of them is constant."""
    # Half a second of imports, which only the end of a verification needs.
    from scipy.stats import rankdata

    ranks_PA = rankdata(np.round(values_PA, 12), axis=1)
    ranks_A = rankdata(reached_A)
    left_PA = ranks_PA - ranks_PA.mean(axis=1, keepdims=True)
    right_A = ranks_A - ranks_A.mean()
    scale_P = np.sqrt((left_PA**2).sum(axis=1) * (right_A**2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((left_PA @ right_A) / scale_P)
