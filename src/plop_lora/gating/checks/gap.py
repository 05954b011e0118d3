"""Whether an adapter widens the gap between the best and the worst group of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from plop_lora.gating.bounds import LEVEL
from plop_lora.gating.check import Check, Values
from plop_lora.gating.checks.grouping import (
    GroupRule,
    groups_of,
    labelled_values,
    labellings_of,
    too_few,
    ungrouped_notes,
)
from plop_lora.gating.decide import difference_result, noise_floor, plan_difference, with_undecided
from plop_lora.gating.evidence import Line
from plop_lora.gating.fairness import LabelledValues, grouped
from plop_lora.gating.gap import Gap, gap_of
from plop_lora.gating.items import Items
from plop_lora.gating.power import LEAST, Assumed, detectable, groups_needed
from plop_lora.records.gate import FAIL, NOT_ENOUGH_DATA, PASS, CheckPart, CheckPlan, CheckResult


def decide_gap(
    check: Check[GroupRule], rule: GroupRule, items: Items, lines: Sequence[Line]
) -> CheckResult:
    """Decide whether the adapter widens the gap between the best and the worst group."""
    return with_undecided(check, rule, items, lines, _gap_result)


def _gap_result(
    check: Check[GroupRule], rule: GroupRule, items: Items, values: Values
) -> CheckResult:
    floor = noise_floor(values)
    whole = difference_result(check, rule, items, values)
    labellings = labelled_values(rule, items, values)
    gaps: dict[str, tuple[Gap, int]] = {}
    sizes: dict[str, int] = {}
    for labelled, columns in zip(labellings, rule.labellings, strict=True):
        counts = {name: len(set(labelled.of(name)[1])) for name in labelled.names}
        enough = [name for name, count in counts.items() if count >= rule.least]
        sizes |= counts
        if len(enough) > 1:
            kept = grouped(labelled, enough)
            gaps[" & ".join(columns)] = (
                gap_of(kept, -rule.limit, binary=rule.binary, floor=floor or 0.0,
                       gaps=len(labellings)),
                len(kept.base_I),
            )  # fmt: skip
    reason = too_few(sizes, rule.least)
    nothing = replace(
        whole, metric=f"gap of {rule.metric}", higher_is_better=False, limit=-rule.limit,
        noise_floor=floor, binary=False, warning="", notes=ungrouped_notes(labellings, rule),
    )  # fmt: skip
    if not gaps:
        return replace(
            nothing, verdict=NOT_ENOUGH_DATA, reason=reason, advice=(), items_needed=None,
            bound_low=None, bound_high=None,
        )  # fmt: skip
    name, (gap, count) = min(gaps.items(), key=lambda one: _how_wide(one[1][0]))
    verdict = NOT_ENOUGH_DATA if reason and gap.verdict is PASS else gap.verdict
    return replace(
        nothing,
        verdict=verdict,
        base=gap.base,
        adapter=gap.adapter,
        difference=gap.widening,
        bound_low=gap.bound_low,
        bound_high=gap.bound_high,
        items=count,
        items_needed=gap.items_needed,
        part=name,
        parts=tuple(_gap_part(name, *one) for name, one in gaps.items()),
        chance=gap.chance,
        reason=reason if verdict is NOT_ENOUGH_DATA else "",
        advice=check.advice if verdict is FAIL else (),
    )


def _how_wide(gap: Gap) -> tuple[int, float]:
    """Return by what gaps are ordered, the worst first."""
    return (FAIL, NOT_ENOUGH_DATA, PASS).index(gap.verdict), -gap.bound_high


def _gap_part(name: str, gap: Gap, count: int) -> CheckPart:
    return CheckPart(
        name=name, items=count, groups=count, base=gap.base, adapter=gap.adapter,
        difference=gap.widening, bound_low=gap.bound_low, bound_high=gap.bound_high,
        verdict=gap.verdict, items_needed=gap.items_needed,
    )  # fmt: skip


def plan_gap(check: Check[GroupRule], rule: GroupRule, items: Items) -> CheckPlan:
    """Return what the two smallest groups could decide: a gap is a difference of two groups."""
    groups = sorted(groups_of(rule, items), key=lambda group: group.independent)
    first, second = groups[0].independent, groups[1].independent
    # The variance of a difference of two groups, as that of one group of so many items.
    alike = max(first * second // (first + second), 1)
    size = len(items.rows) / items.independent
    assumed = Assumed(gain=0.0, spread=rule.spread * _CAUTION, binary=rule.binary, size=size)
    needed = groups_needed(assumed, rule.limit) or LEAST
    factor = max(needed / alike, rule.least / first)
    return replace(
        plan_difference(check, rule, items),
        limit=-rule.limit,
        spread=rule.spread,
        metric=f"gap of {rule.metric}",
        items_needed=math.ceil(factor * len(items.rows)),
        detectable=detectable(assumed, alike, rule.limit),
        can_pass=first >= rule.least and _gap_can_pass(rule, items),
    )


_CAUTION = float(special.stdtrit(100, 1 - (1 - LEVEL) / 2) / special.stdtrit(100, LEVEL))
"""How much wider the bound of a gap is: half of its error is kept for other pairs of groups."""


def _gap_can_pass(rule: GroupRule, items: Items) -> bool:
    """Return whether an adapter that changes nothing would pass."""
    same = np.zeros(len(items.rows))
    for labels in labellings_of(rule, items.rows):
        values = LabelledValues(same, same, labels, items.groups, rule.binary)
        gap = gap_of(grouped(values, values.names), -rule.limit, binary=rule.binary, draws=1)
        if gap.verdict is not PASS:
            return False
    return True
