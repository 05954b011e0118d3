"""From the values of all items to pass, fail or not enough data. No torch.

A difference is paired by item. There is one adapter, so its error comes from the choice of items
alone, and a conclusion is meant for other items of the same kind. The bounds that decide are those
of `bounds`.

Shape letters: I items.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from plop_lora.errors import RecordError
from plop_lora.gating.bounds import LEVEL, Floats, Gain, gain_of, mean_interval, skewness_of
from plop_lora.gating.check import Check, R, Rule, Values
from plop_lora.gating.evidence import Line
from plop_lora.gating.items import Items
from plop_lora.gating.power import LEAST, Assumed, detectable, groups_needed
from plop_lora.gating.suite import Reading
from plop_lora.records.gate import (
    FAIL,
    NOT_ENOUGH_DATA,
    PASS,
    CheckPlan,
    CheckResult,
    CheckVerdict,
    Measured,
)
from plop_lora.statistics import exact_interval


def noise_floor(values: Values) -> float | None:
    """Return how far the base's values move if only the batches change; None if unmeasured.

    It is the mean absolute change of an item, which the change of the mean cannot exceed.
    """
    if not values.again:
        return None
    return fmean(abs(a - b) for a, b in zip(values.base, values.again, strict=True))


def verdict_of(gain: Gain | None, groups: int, limit: float, floor: float) -> CheckVerdict:
    """Return the verdict on a gain.

    Args:
        gain: Mean gain with its bounds.
        groups: Number of independent items.
        limit: Gain above which the check passes and below which it fails.
        floor: Noise floor, by which the bounds are widened.
    """
    if gain is None or groups < LEAST:
        return NOT_ENOUGH_DATA
    if gain.low - floor > limit:
        return PASS
    if gain.high + floor < limit:
        return FAIL
    return NOT_ENOUGH_DATA


# --------------------------------------------------------------------------- one check


OfValues = Callable[[Check[R], R, Items, Values], CheckResult]


def with_undecided(
    check: Check[R], rule: R, items: Items, lines: Sequence[Line], decide: OfValues[R]
) -> CheckResult:
    """Decide a check from what both sides showed on its items.

    An item that a judge left undecided on either side counts against the adapter where the check
    is to pass, and for it where it is to fail, so that neither follows from what nobody judged.

    Args:
        check: The check.
        rule: Its rule.
        items: Its items.
        lines: What both sides showed, in the order of the items.
        decide: Function that decides from values.

    Raises:
        RecordError: The lines have not the quantity of the rule.
    """
    base, adapter, again = (_column(lines, rule.metric, side) for side in _SIDES)
    pairs = list(zip(base, adapter, strict=True))
    undecided = sum(None in pair for pair in pairs)
    repeated = () if None in again else tuple(value for value in again if value is not None)
    if not undecided:
        return decide(check, rule, items, _values(pairs, repeated))
    worst_value, best_value = (0.0, 1.0) if rule.higher_is_better else (1.0, 0.0)
    against = _values(_filled(pairs, best_value, worst_value), ())
    favour = _values(_filled(pairs, worst_value, best_value), ())
    strict, kind = (decide(check, rule, items, values) for values in (against, favour))
    result = kind if kind.verdict is FAIL else strict
    if strict.verdict is FAIL and kind.verdict is not FAIL:
        result = dataclasses.replace(strict, verdict=NOT_ENOUGH_DATA, advice=())
    return dataclasses.replace(result, undecided=undecided)


def decide_difference(
    check: Check[Rule], rule: Rule, items: Items, lines: Sequence[Line]
) -> CheckResult:
    """Decide a check by the paired difference between adapter and base.

    Args:
        check: The check, of which the name and the advice are used.
        rule: Its rule.
        items: Its items.
        lines: What both sides showed, in the order of the items.

    Raises:
        RecordError: The lines have not the quantity of the rule.
    """
    return with_undecided(check, rule, items, lines, difference_result)


def measured_only(
    items: Items, lines: Sequence[Line], metric: str
) -> tuple[Items, Sequence[Line], int]:
    """Return the items that can be measured at all, their lines, and the number of the others.

    That is for quantities which an item has or has not, whatever the model says.
    """
    kept = [
        place for place, value in enumerate(_column(lines, metric, "base")) if value is not None
    ]
    return items.at(kept), [lines[place] for place in kept], len(lines) - len(kept)


_SIDES = ("base", "adapter", "again")
Pairs = Sequence[tuple[float | None, float | None]]


def _column(lines: Sequence[Line], quantity: str, side: str) -> list[float | None]:
    readings: list[Reading | None] = [getattr(line, side) for line in lines]
    try:
        return [None if reading is None else reading.values[quantity] for reading in readings]
    except KeyError as error:
        raise RecordError(
            f"The evidence has no value of {quantity!r} for every item. Remove it and run plop "
            "gate again to measure."
        ) from error


def _filled(pairs: Pairs, base: float, adapter: float) -> Pairs:
    return [(base if one is None else one, adapter if other is None else other)
            for one, other in pairs]  # fmt: skip


def _values(pairs: Pairs, again: tuple[float, ...]) -> Values:
    base = tuple(one for one, _ in pairs if one is not None)
    adapter = tuple(other for _, other in pairs if other is not None)
    return Values(base, adapter, again)


def after(before: CheckResult, result: CheckResult) -> CheckResult:
    """Return the result of a check that means something only where another has passed."""
    if before.verdict is PASS:
        return result
    reason = f"the check {before.check} has not passed, so the answers were not judged"
    return dataclasses.replace(
        result, verdict=NOT_ENOUGH_DATA, reason=reason, items_needed=None, advice=(), warning="",
        worst_items=(),
    )  # fmt: skip


def difference_result(check: Check[Any], rule: Rule, items: Items, values: Values) -> CheckResult:
    """Return what the paired difference between adapter and base says.

    Args:
        check: The check, of which the name and the advice are used.
        rule: Its rule.
        items: Its items.
        values: Values of every item.
    """
    base_I, adapter_I = np.array(values.base), np.array(values.adapter)
    gains_I = rule.sign * (adapter_I - base_I)
    gain = gain_of(gains_I, items.groups, binary=rule.binary)
    floor = noise_floor(values)
    verdict = verdict_of(gain, items.independent, rule.limit, floor or 0.0)
    needed = None
    if verdict is NOT_ENOUGH_DATA and gain is not None:
        needed = items_needed(
            gains_I, items.groups, rule.limit, binary=rule.binary, floor=floor or 0.0
        )
    bounds: tuple[float, ...] = ()
    if gain is not None:
        low, high = gain.low - (floor or 0.0), gain.high + (floor or 0.0)
        bounds = (low, high) if rule.sign > 0 else (-high, -low)
    return CheckResult(
        check=check.name,
        verdict=verdict,
        mode=rule.mode,
        metric=rule.metric,
        higher_is_better=rule.higher_is_better,
        base=measured_of(base_I, items, binary=rule.binary),
        adapter=measured_of(adapter_I, items, binary=rule.binary),
        difference=_difference(adapter_I - base_I, items, gain, rule.sign),
        level=LEVEL,
        limit=rule.sign * rule.limit,
        bound_low=bounds[0] if bounds else None,
        bound_high=bounds[1] if bounds else None,
        noise_floor=floor,
        items=len(items.rows),
        groups=items.independent,
        source=items.source,
        items_needed=needed,
        binary=rule.binary,
        warning=_warning(rule, gain, floor or 0.0) if verdict is not FAIL else "",
        advice=check.advice if verdict is FAIL else (),
    )


def items_needed(
    gains_I: Floats,
    clusters: Sequence[str],
    limit: float,
    *,
    binary: bool,
    floor: float,
    least: int = LEAST,
) -> int | None:
    """Return how many items would decide if the gains are what they appear to be.

    Args:
        gains_I: Gain of every item.
        clusters: Cluster of every item.
        limit: Gain above which a check passes and below which it fails.
        binary: Whether the metric of an item is 0 or 1.
        floor: Noise floor, by which the bounds are widened.
        least: Smallest number of independent items on which anything is decided.

    Returns:
        The number, or None if no number does, or there are fewer than two independent items.
    """
    found, groups = mean_interval(gains_I, clusters), len(set(clusters))
    if found is None:
        return None
    assumed = Assumed(
        gain=found.value,
        spread=found.error * math.sqrt(groups),
        skew=skewness_of(gains_I, clusters),
        binary=binary,
        size=len(gains_I) / groups,
    )
    needed = groups_needed(assumed, limit, floor)
    if needed is None:
        return None
    needed = max(needed, least, groups + 1)  # these were too few
    return math.ceil(needed * len(gains_I) / groups)


def measured_of(values_I: Floats, items: Items, *, binary: bool) -> Measured:
    """Return the mean of one side with its interval."""
    if binary:
        return Measured(*exact_interval(float(values_I.mean()), len(values_I)))
    found = mean_interval(values_I, items.groups)
    if found is None:
        return Measured(float(values_I.mean()), None, None)
    return Measured(found.value, found.low, found.high)


def _difference(differences_I: Floats, items: Items, gain: Gain | None, sign: int) -> Measured:
    if gain is None:
        return Measured(float(differences_I.mean()), None, None)
    ends = sorted(sign * end for end in gain.ends)
    return Measured(float(differences_I.mean()), *ends)


def _warning(rule: Rule, gain: Gain | None, floor: float) -> str:
    if rule.warn is None or gain is None:
        return ""
    if gain.high + floor >= rule.warn:
        return ""
    side = "below" if rule.higher_is_better else "above"
    return f"the difference is shown to lie {side} {rule.sign * rule.warn:g}"


# --------------------------------------------------------------------------- before measuring


def plan_difference(check: Check[Any], rule: Rule, items: Items) -> CheckPlan:
    """Return what a check could decide with its items, by the assumed spread."""
    count = items.independent
    assumed = Assumed(
        gain=rule.assumed_gain,
        spread=rule.spread,
        binary=rule.binary,
        size=len(items.rows) / count,
    )
    needed = groups_needed(assumed, rule.limit) or LEAST
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
        detectable=detectable(assumed, count, rule.limit),
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
    gain = gain_of(best, [str(place) for place in range(groups)], binary=True)
    return verdict_of(gain, groups, rule.limit, 0.0) is PASS
