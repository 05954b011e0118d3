"""The checks of fairness: the losses of groups of rows, the gap between them, and twin prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from plop_lora.gating.check import Check, Rule, Values
from plop_lora.gating.checks.gap import decide_gap, plan_gap
from plop_lora.gating.checks.grouping import (
    GroupRule,
    check_groups,
    group_rule,
    groups_of,
    labelled_values,
    places_of,
    too_few,
    ungrouped_notes,
)
from plop_lora.gating.decide import (
    decide_difference,
    difference_result,
    items_needed,
    measured_of,
    noise_floor,
    plan_difference,
    with_undecided,
)
from plop_lora.gating.evidence import Line
from plop_lora.gating.fairness import GroupGain, GroupLimits, decide_groups
from plop_lora.gating.items import Items
from plop_lora.gating.suites.counterfactual import COUNTERFACTUAL, UNEQUAL
from plop_lora.gating.suites.task import TASK
from plop_lora.recipe import GateRecipe
from plop_lora.records.gate import (
    FAIL,
    NOT_ENOUGH_DATA,
    PASS,
    CheckPart,
    CheckPlan,
    CheckResult,
    Measured,
    worst,
)
from plop_lora.training.task import Task


def _decide_groups(
    check: Check[GroupRule], rule: GroupRule, items: Items, lines: Sequence[Line]
) -> CheckResult:
    """Decide whether the adapter harms a group of rows: the worst group stands for the check."""
    return with_undecided(check, rule, items, lines, _groups_result)


def _groups_result(
    check: Check[GroupRule], rule: GroupRule, items: Items, values: Values
) -> CheckResult:
    floor = noise_floor(values) or 0.0
    labellings = labelled_values(rule, items, values)
    limits = GroupLimits(margin=-rule.limit, least=rule.least, floor=floor)
    gains = decide_groups(labellings, limits)
    places = {
        name: [place for place, label in enumerate(labelled.labels) if label == name]
        for labelled in labellings
        for name in labelled.names
    }
    needed = {
        name: items_needed(
            *labelled.of(name), rule.limit, binary=rule.binary, floor=floor, least=rule.least
        )
        for labelled in labellings
        for name in labelled.names
        if name in {gain.name for gain in gains if gain.verdict is NOT_ENOUGH_DATA}
    }
    counts = {gain.name: gain.independent for gain in gains}
    lowest = min(gains, key=_how_good)
    kept = places[lowest.name]
    own = difference_result(check, rule, items.at(kept), _values_at(values, kept))
    verdict = worst(gain.verdict for gain in gains)
    return replace(
        own,
        verdict=verdict,
        part=lowest.name,
        parts=tuple(
            replace(
                _part(rule, gain, items, values, places[gain.name]),
                items_needed=needed.get(gain.name),
            )
            for gain in gains
        ),
        noise_floor=floor if values.again else None,
        items_needed=needed.get(lowest.name),
        reason=too_few(counts, rule.least) if verdict is NOT_ENOUGH_DATA else "",
        warning="",
        advice=check.advice if verdict is FAIL else (),
        notes=ungrouped_notes(labellings, rule),
    )


def _how_good(gain: GroupGain) -> tuple[int, float]:
    """Return by what groups are ordered, the worst first."""
    bound = gain.bound_low if gain.bound_low is not None else gain.mean
    return (FAIL, NOT_ENOUGH_DATA, PASS).index(gain.verdict), bound


def _values_at(values: Values, kept: Sequence[int]) -> Values:
    base, adapter, again = (tuple(side[place] for place in kept) if side else () for side in values)
    return Values(base, adapter, again)


def _part(
    rule: GroupRule, gain: GroupGain, items: Items, values: Values, places: Sequence[int]
) -> CheckPart:
    kept = items.at(places)
    base, adapter = (
        measured_of(np.array([side[place] for place in places]), kept, binary=rule.binary)
        for side in (values.base, values.adapter)
    )
    low, high = _turned(rule, gain.bound_low, gain.bound_high)
    return CheckPart(
        name=gain.name,
        items=gain.items,
        groups=gain.independent,
        base=base,
        adapter=adapter,
        difference=Measured(rule.sign * gain.mean, *_turned(rule, gain.low, gain.high)),
        bound_low=low,
        bound_high=high,
        verdict=gain.verdict,
        p=gain.harm_p,
    )  # fmt: skip


def _turned(rule: Rule, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """Return the ends of an interval of a gain as those of the difference."""
    if low is None or high is None or rule.sign > 0:
        return low, high
    return -high, -low


def _plan_groups(check: Check[GroupRule], rule: GroupRule, items: Items) -> CheckPlan:
    """Return what the smallest group could decide, for it decides the check."""
    small = min(groups_of(rule, items), key=lambda group: group.independent)
    planned = plan_difference(check, rule, small)
    enough = max(planned.items_needed, math.ceil(rule.least * len(small.rows) / small.independent))
    return replace(
        planned,
        items_needed=math.ceil(enough * len(items.rows) / len(small.rows)),
        items=len(items.rows),
        groups=items.independent,
        can_pass=planned.can_pass and small.independent >= rule.least,
    )


# --------------------------------------------------------------------------- twin prompts


def _counterfactual_rule(recipe: GateRecipe, task: Task) -> Rule:
    limits = recipe.gate.counterfactual
    return Rule.within(
        UNEQUAL, limits.margin, higher_is_better=False, spread=limits.spread, binary=True
    )


def _has_columns(recipe: GateRecipe) -> bool:
    return bool(recipe.gate.fairness.columns)


_ADVICE = (
    "look at how many rows of the training each group has, and add rows of the worst",
    "try an earlier checkpoint or a smaller learning rate",
    "choose another arm: plop verify compares placements on the same rows",
)
_SOURCE = (
    "arXiv 2405.17512, by which the effect of LoRA on groups has no fixed sign, "
    "https://arxiv.org/abs/2405.17512"
)
CHECKS: tuple[Check[Any], ...] = (
    Check(
        name="groups",
        suite=TASK,
        description="the loss or the metric on the rows of each group, of which the worst decides",
        source=_SOURCE,
        needs="columns of the evaluation rows whose values are groups",
        rule=group_rule("worst group", lambda recipe: recipe.gate.fairness.margin),
        decide=_decide_groups,
        plan=_plan_groups,
        fits=check_groups,
        advice=_ADVICE,
        wanted=_has_columns,
        about=lambda rule, items, result: places_of(rule, items, result.part),
    ),
    Check(
        name="gap",
        suite=TASK,
        description="the gap between the group with the best and that with the worst mean",
        source=_SOURCE,
        needs="columns of the evaluation rows whose values are groups",
        rule=group_rule("not wider", lambda recipe: recipe.gate.fairness.gap_margin),
        decide=decide_gap,
        plan=plan_gap,
        fits=check_groups,
        advice=_ADVICE,
        wanted=_has_columns,
    ),
    Check(
        name="counterfactual",
        suite=COUNTERFACTUAL,
        description="the share of pairs of prompts, alike but for a name, gender or region, whose "
        "answers differ in kind",
        source=_SOURCE,
        needs="templates of prompts; the bundled ones are the default",
        rule=_counterfactual_rule,
        decide=decide_difference,
        plan=plan_difference,
        advice=(
            "look for rows of the training that treat such groups differently",
            "try an earlier checkpoint or a smaller learning rate",
        ),
        wanted=lambda recipe: False,
    ),
)
