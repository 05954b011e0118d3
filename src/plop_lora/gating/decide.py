"""From the values of all items to pass, fail or not enough data. No torch.

A difference is paired by item. There is one adapter, so its error comes from the choice of items
alone, and a conclusion is meant for other items of the same kind.

Shape letters: I items, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy import special

from plop_lora.gating.check import Check, Rule, Values
from plop_lora.gating.items import Items
from plop_lora.records.gate import (
    FAIL,
    NOT_ENOUGH_DATA,
    PASS,
    CheckPlan,
    CheckResult,
    CheckVerdict,
    Measured,
)
from plop_lora.statistics import Interval

LEVEL = 0.95
"""Level of the one-sided bounds that decide."""
POWER = 0.8
LEAST = 10
"""Smallest number of independent items on which a check is decided."""
PSEUDO_ITEMS = 2
"""Number of items that are added on each side for a metric of 0 and 1; see `gain_interval`."""
_MOST = 10**9
_ROUNDS = 50

Floats = NDArray[np.float64]


def mean_interval(values_I: Floats, groups: Sequence[str]) -> Interval | None:
    """Return the mean over items with its error over groups; None for fewer than two groups.

    Source: Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 2.2 (clustered standard
    errors), with the factor G / (G - 1), which makes it the usual error where every group is one
    item.
    """
    _, index_I = np.unique(np.asarray(groups), return_inverse=True)
    count = int(index_I.max()) + 1
    if count < 2:
        return None
    mean = float(values_I.mean())
    sums_G = np.bincount(index_I, weights=values_I - mean, minlength=count)
    variance = count / (count - 1) * float((sums_G**2).sum()) / len(values_I) ** 2
    return Interval(mean, 0.0, variance, 1.0, count - 1.0)


def gain_interval(gains_I: Floats, groups: Sequence[str], *, binary: bool) -> Interval | None:
    """Return the mean gain with its interval; None for fewer than two groups.

    Where an item is right or wrong, a sample without any change has no spread, and its interval
    would have no width. Two gained and two lost items are then added, each a group of its own.

    Args:
        gains_I: Gain of every item.
        groups: Group of every item.
        binary: Whether the metric of an item is 0 or 1.

    Source: Bonett and Price, Journal of Educational and Behavioral Statistics 37 (2012), who add
    one item on each side. With two, the one-sided error also stays within 5 % where changes are as
    rare as the margin.
    """
    if binary:
        added = np.array([1.0, -1.0] * PSEUDO_ITEMS)
        gains_I = np.concatenate([gains_I, added])
        groups = [*groups, *(f"added {place}" for place in range(len(added)))]
    return mean_interval(gains_I, groups)


def noise_floor(values: Values) -> float | None:
    """Return how far the base's values move if only the batches change; None if unmeasured.

    It is the mean absolute change of an item, which the change of the mean cannot exceed.
    """
    if not values.again:
        return None
    return fmean(abs(a - b) for a, b in zip(values.base, values.again, strict=True))


def verdict_of(interval: Interval | None, groups: int, limit: float, floor: float) -> CheckVerdict:
    """Return the verdict on a gain.

    Args:
        interval: Interval of the gain.
        groups: Number of independent items.
        limit: Gain above which the check passes and below which it fails.
        floor: Noise floor, by which the bounds are widened.
    """
    if interval is None or groups < LEAST:
        return NOT_ENOUGH_DATA
    if interval.lower_bound(LEVEL) - floor > limit:
        return PASS
    if interval.upper_bound(LEVEL) + floor < limit:
        return FAIL
    return NOT_ENOUGH_DATA


def groups_needed(spread: float, distance: float) -> int | None:
    """Return the number of independent items that decide with a power of 0.8; None if none does.

    Args:
        spread: Standard deviation of the gain of an item.
        distance: Distance of the true gain from the limit, less the noise floor.

    >>> groups_needed(0.1, 0.02), groups_needed(0.1, 0.0)
    (157, None)
    """
    if distance <= 0:
        return None
    needed = float(LEAST)
    for _ in range(_ROUNDS):
        freedom = max(needed - 1, 1.0)
        reach = special.stdtrit(freedom, LEVEL) + special.stdtrit(freedom, POWER)
        found = max((float(reach) * spread / distance) ** 2, float(LEAST))
        if found > _MOST:
            return None
        if abs(found - needed) < 0.01:
            break
        needed = found
    return math.ceil(needed)


def detectable(spread: float, groups: int) -> float:
    """Return the distance from the limit that a number of items decides with a power of 0.8."""
    freedom = max(groups - 1.0, 1.0)
    reach = special.stdtrit(freedom, LEVEL) + special.stdtrit(freedom, POWER)
    return float(reach) * spread / math.sqrt(groups)


# --------------------------------------------------------------------------- one check


def decide_difference(check: Check, rule: Rule, items: Items, values: Values) -> CheckResult:
    """Decide a check by the paired difference between adapter and base.

    Args:
        check: The check, of which the name and the advice are used.
        rule: Its rule.
        items: Its items.
        values: Values of every item.
    """
    base_I, adapter_I = np.array(values.base), np.array(values.adapter)
    gains_I = rule.sign * (adapter_I - base_I)
    interval = gain_interval(gains_I, items.groups, binary=rule.binary)
    floor = noise_floor(values)
    verdict = verdict_of(interval, items.independent, rule.limit, floor or 0.0)
    needed = None
    if verdict is NOT_ENOUGH_DATA and interval is not None:
        needed = _items_needed(interval, items, rule.limit, floor or 0.0)
    bounds: tuple[float, ...] = ()
    if interval is not None:
        low = interval.lower_bound(LEVEL) - (floor or 0.0)
        high = interval.upper_bound(LEVEL) + (floor or 0.0)
        bounds = (low, high) if rule.sign > 0 else (-high, -low)
    return CheckResult(
        check=check.name,
        verdict=verdict,
        mode=rule.mode,
        metric=rule.metric,
        higher_is_better=rule.higher_is_better,
        base=_measured(base_I, items),
        adapter=_measured(adapter_I, items),
        difference=_difference(adapter_I - base_I, items, interval, rule.sign),
        level=LEVEL,
        limit=rule.sign * rule.limit,
        bound_low=bounds[0] if bounds else None,
        bound_high=bounds[1] if bounds else None,
        noise_floor=floor,
        items=len(items.rows),
        groups=items.independent,
        source=items.source,
        items_needed=needed,
        warning=_warning(rule, interval, floor or 0.0) if verdict is not FAIL else "",
        advice=check.advice if verdict is FAIL else (),
    )


def _items_needed(interval: Interval, items: Items, limit: float, floor: float) -> int | None:
    spread = interval.error * math.sqrt(items.independent)
    needed = groups_needed(spread, abs(interval.value - limit) - floor)
    return None if needed is None else math.ceil(needed * len(items.rows) / items.independent)


def _measured(values_I: Floats, items: Items) -> Measured:
    found = mean_interval(values_I, items.groups)
    if found is None:
        return Measured(float(values_I.mean()), None, None)
    return Measured(found.value, found.low, found.high)


def _difference(
    differences_I: Floats, items: Items, interval: Interval | None, sign: int
) -> Measured:
    if interval is None:
        return Measured(float(differences_I.mean()), None, None)
    ends = sorted((sign * interval.low, sign * interval.high))
    return Measured(float(differences_I.mean()), *ends)


def _warning(rule: Rule, interval: Interval | None, floor: float) -> str:
    if rule.warn is None or interval is None:
        return ""
    if interval.upper_bound(LEVEL) + floor >= rule.warn:
        return ""
    side = "below" if rule.higher_is_better else "above"
    return f"the difference is shown to lie {side} {rule.sign * rule.warn:g}"


# --------------------------------------------------------------------------- before measuring


def plan_difference(check: Check, rule: Rule, items: Items) -> CheckPlan:
    """Return what a check could decide with its items, by the assumed spread."""
    count = items.independent
    needed = groups_needed(rule.spread, rule.assumed_gain - rule.limit) or LEAST
    return CheckPlan(
        check=check.name,
        mode=rule.mode,
        metric=rule.metric,
        limit=rule.sign * rule.limit,
        items=len(items.rows),
        groups=count,
        spread=rule.spread,
        assumed=rule.sign * rule.assumed_gain,
        items_needed=math.ceil(needed * len(items.rows) / count),
        detectable=detectable(rule.spread, count),
        can_pass=_can_pass(rule, count),
        source=items.source,
    )


def _can_pass(rule: Rule, groups: int) -> bool:
    """Whether the best outcome passes: no item lost, or for an improvement every item gained."""
    if groups < LEAST:
        return False
    if not rule.binary:
        return True
    best = np.zeros(groups) if rule.limit < 0 else np.ones(groups)
    interval = gain_interval(best, [str(place) for place in range(groups)], binary=True)
    return verdict_of(interval, groups, rule.limit, 0.0) is PASS
