"""The items on which an adapter did worst: a few for a record, without any text. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from plop_lora.gating.check import Check, Rule
from plop_lora.gating.evidence import Line
from plop_lora.gating.items import Items
from plop_lora.gating.suite import Derived
from plop_lora.records import CheckResult, WorstItem
from plop_lora.records.gate import PASS

MOST = 10
"""The most items of a check that a record holds."""


def with_worst_items(
    check: Check[Any], rule: Rule, items: Items, lines: Sequence[Line], result: CheckResult
) -> CheckResult:
    """Return a result with the items that lost most, unless it passes without a warning.

    Items that did not get worse are never among them. Where a judge left items undecided, those
    come last.

    Args:
        check: The check.
        rule: Its rule.
        items: The items that it reads.
        lines: What both sides showed, in the order of the items.
        result: What it decided.
    """
    if result.verdict is PASS and not result.warning:
        return result
    found = [_item(check, rule, items, lines, place) for place in check.about(rule, items, result)]
    gains = [(rule.sign * item.difference, item) for item in found if item.difference is not None]
    # The order is stable, so that equal losses stay in the order of the items.
    lost = [item for gain, item in sorted(gains, key=lambda one: one[0]) if gain < 0]
    undecided = [item for item in found if item.difference is None] if result.undecided else []
    return dataclasses.replace(result, worst_items=tuple([*lost, *undecided][:MOST]))


def _item(
    check: Check[Any], rule: Rule, items: Items, lines: Sequence[Line], place: int
) -> WorstItem:
    line, measure = lines[place], check.suite.measure
    answered = measure.answers_of if isinstance(measure, Derived) else None
    return WorstItem(
        name=items.names[place],
        item=line.item,
        suite=line.suite if answered is None else answered.name,
        index=line.index,
        base=line.base.values[rule.metric],
        adapter=line.adapter.values[rule.metric],
    )
