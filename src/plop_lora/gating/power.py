"""How many items decide a check, if the gains are what is assumed. No torch.

Decided means that a bound of `bounds.gain_of` lies beyond the limit, on the side of the true gain.
For metrics of 0 and 1 its chance is summed over the numbers of items gained and lost. For other
metrics the distance from the mean to the bound is taken for normal, with the variance that the
delta method gives it: the mean and the variance of a sample have the covariance of its third
moment, so that few large losses move both. `benchmarks/gate_bounds.py` compares the chances with
simulated gates.

Shape letters: N numbers of items gained and lost.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from plop_lora.gating.bounds import PSEUDO_ITEMS, Floats, reach
from plop_lora.statistics import POWER

LEAST = 10
"""Smallest number of independent items on which a check is decided."""
_MOST = 10**9
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_FAR = 1000.0
"""Distance in spreads that three items decide."""
_COUNTS, _DEVIATIONS = 121, 6.0
"""How many numbers of items are summed over, and how many standard deviations they span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What is assumed of the gains of independent items.

    Attributes:
        gain: True mean gain.
        spread: Standard deviation of the gain of an independent item; rows that share a question
            are one, with their mean.
        skew: Skewness of that gain, negative where few items lose much. It is not read where the
            metric is 0 or 1, which has that of its gain and spread.
        binary: Whether the metric of an item is 0 or 1.
        size: Mean number of rows of an independent item.
    """

    gain: float
    spread: float
    skew: float = 0.0
    binary: bool = False
    size: float = 1.0


def groups_needed(assumed: Assumed, limit: float, floor: float = 0.0) -> int | None:
    """Return the number of independent items that decide with a power of 0.8; None if none does.

    Args:
        assumed: What is assumed of the gains.
        limit: Gain above which the check passes and below which it fails.
        floor: Noise floor, by which the bounds are widened.

    >>> groups_needed(Assumed(gain=0.0, spread=0.1), -0.02)
    159
    >>> groups_needed(Assumed(gain=0.0, spread=0.2, binary=True), -0.05)
    148
    """
    if abs(assumed.gain - limit) <= floor:
        return None
    found = LEAST + bisect_left(
        range(LEAST, _MOST),
        POWER,
        key=lambda groups: decision_power(assumed, groups, limit, floor),
    )
    return None if found >= _MOST else found


def detectable(assumed: Assumed, groups: int, limit: float) -> float:
    """Return the distance from the limit that a number of items decides with a power of 0.8.

    A share cannot rise by more than 1, which is returned where that would not be decided either.

    Args:
        assumed: What is assumed of the gains; the gain itself is sought, above the limit.
        groups: Number of independent items; fewer than three count as three.
        limit: Gain above which the check passes and below which it fails.
    """
    from scipy.optimize import brentq

    def too_much(distance: float) -> float:
        there = replace(assumed, gain=limit + distance)
        return decision_power(there, max(groups, 3), limit) - POWER

    most = 1.0 - limit if assumed.binary else _FAR * assumed.spread
    return float(brentq(too_much, 0.0, most)) if too_much(most) > 0 else most


def decision_power(assumed: Assumed, groups: int, limit: float, floor: float = 0.0) -> float:
    """Return the chance that a check is decided on the side of the limit where the gain lies.

    Args:
        assumed: What is assumed of the gains.
        groups: Number of independent items, at least 3.
        limit: Gain above which the check passes and below which it fails.
        floor: Noise floor, by which the bounds are widened.
    """
    side = math.copysign(1.0, assumed.gain - limit)
    distance = side * (assumed.gain - limit) - floor
    if assumed.binary:
        return _power_of_answers(assumed, groups, limit + side * floor, side)
    if not assumed.spread:
        return float(distance > 0)
    root, skew = math.sqrt(groups), -side * assumed.skew
    by_chance = math.sqrt(6 * (groups - 2) / ((groups + 1) * (groups + 3)))
    reaches = reach(skew + by_chance * _NODES, groups, groups - 1.0)
    kurtosis = 1.5 * skew**2  # of a gamma distribution
    variances = 1 + (2 + kurtosis) * reaches**2 / (4 * groups) + skew * reaches / root
    beyond = special.ndtr((distance * root / assumed.spread - reaches) / np.sqrt(variances))
    return float(_WEIGHTS @ beyond)


def _power_of_answers(assumed: Assumed, groups: int, limit: float, side: float) -> float:
    """Return the chance of the outcomes whose bound lies beyond the limit."""
    changed = min(max(assumed.spread**2 + assumed.gain**2, abs(assumed.gain)), 1.0)
    gained, lost = (changed + assumed.gain) / 2, (changed - assumed.gain) / 2
    gained_N, lost_N = np.meshgrid(_numbers(groups, gained), _numbers(groups, lost))
    same_N = groups - gained_N - lost_N
    gained_N, lost_N, same_N = (each[same_N >= 0] for each in (gained_N, lost_N, same_N))
    logs_N: Floats = np.zeros(len(same_N))
    for number_N, chance in ((gained_N, gained), (lost_N, lost), (same_N, 1 - changed)):
        logs_N += special.xlogy(number_N, chance) - special.gammaln(number_N + 1)
    chances_N = np.exp(logs_N - logs_N.max())
    mean_N, reached_N = _bound_of_answers(gained_N, lost_N, groups, assumed.size, side)
    beyond_N = side * (mean_N - limit) > reached_N
    return float(chances_N[beyond_N].sum() / chances_N.sum())


def _numbers(groups: int, chance: float) -> Floats:
    """Return numbers of items that are likely where each of them has a chance."""
    middle = groups * chance
    reached = _DEVIATIONS * math.sqrt(middle * (1 - chance))
    low, high = max(0, math.floor(middle - reached)), min(groups, math.ceil(middle + reached) + 3)
    return np.unique(np.linspace(low, high, min(high - low + 1, _COUNTS)).round())


def _bound_of_answers(
    gained_N: Floats, lost_N: Floats, groups: int, size: float, side: float
) -> tuple[Floats, Floats]:
    """Return the mean gain and how far its bound lies from it, with the items that are added."""
    count, rows = groups + 2 * PSEUDO_ITEMS, groups * size + 2 * PSEUDO_ITEMS
    mean_N = size * (gained_N - lost_N) / rows

    def moment(power: int) -> Floats:
        found: Floats = (
            gained_N * (size * (1 - mean_N)) ** power
            + lost_N * (size * (-1 - mean_N)) ** power
            + (groups - gained_N - lost_N) * (-size * mean_N) ** power
            + PSEUDO_ITEMS * ((1 - mean_N) ** power + (-1 - mean_N) ** power)
        )
        return found / count

    error_N = count * np.sqrt(moment(2) / (count - 1)) / rows
    skew_N = moment(3) / moment(2) ** 1.5
    return mean_N, error_N * reach(-side * skew_N, count, count - 1.0)
