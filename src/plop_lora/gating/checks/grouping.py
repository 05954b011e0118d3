"""Rows of an evaluation by group: the rule that the checks of groups share, and the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plop_lora.errors import DataError, UsageError, nearest
from plop_lora.evaluation.judged import Row
from plop_lora.gating.check import Rule, Values
from plop_lora.gating.checks.task import task_rule
from plop_lora.gating.fairness import LabelledValues
from plop_lora.gating.items import Items
from plop_lora.recipe import GateRecipe
from plop_lora.training.task import Task

Columns = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRule(Rule):
    """The rule of a check on groups of rows.

    Attributes:
        labellings: Ways to group rows, each by one column or by several that are crossed.
        least: Smallest number of independent rows on which a group is decided.
    """

    labellings: tuple[Columns, ...]
    least: int


def group_rule(mode: str, margin: Callable[[GateRecipe], float]) -> Callable[..., GroupRule]:
    """Return the function that makes the rule of a check on groups."""

    def rule(recipe: GateRecipe, task: Task) -> GroupRule:
        limits, own = recipe.gate.fairness, task_rule(recipe, task)
        if not limits.columns:
            raise UsageError(
                "The checks groups and gap need columns whose values are groups. Name them with "
                "gate.fairness.columns, or take the check counterfactual, which needs none."
            )
        for name in (name for names in limits.intersections for name in names):
            if name not in limits.columns:
                raise UsageError(
                    f"gate.fairness.intersections names the column {name!r}, which is not among "
                    f"gate.fairness.columns ({', '.join(limits.columns)})."
                    f"{nearest(name, limits.columns)}"
                )
        return GroupRule(
            mode=mode,
            metric=own.metric,
            higher_is_better=own.higher_is_better,
            limit=-margin(recipe),
            binary=own.binary,
            spread=limits.spread or own.spread,
            labellings=(*((name,) for name in limits.columns), *limits.intersections),
            least=limits.least,
        )

    return rule


# --------------------------------------------------------------------------- values by group


def labels_of(rows: Sequence[Row], columns: Columns, *, alone: bool) -> list[str | None]:
    """Return the group of every row; None for a row without a value.

    Args:
        rows: Rows of the evaluation.
        columns: Columns whose values make a group together.
        alone: Whether this is the only way to group, so that a value alone names a group.

    Raises:
        DataError: No row has one of the columns, or the rows have fewer than two groups.

    >>> labels_of([{"sex": "f"}, {"sex": "m"}, {"sex": None}], ("sex",), alone=False)
    ['sex=f', 'sex=m', None]
    """
    for column in columns:
        if not any(column in row for row in rows):
            known = list(dict.fromkeys(name for row in rows for name in row))
            raise DataError(
                f"No evaluation row has the column {column!r} of gate.fairness."
                f"{nearest(column, known)} There are: {', '.join(known)}."
            )
    found = [_label(row, columns, alone=alone) for row in rows]
    if len(names := {label for label in found if label is not None}) < 2:
        count = "no group" if not names else f"only the group {next(iter(names))!r}"
        raise DataError(
            f"By {' & '.join(columns)} the evaluation rows have {count}, and fairness compares at "
            "least two. Name another column with gate.fairness.columns."
        )
    return found


def _label(row: Row, columns: Columns, *, alone: bool) -> str | None:
    values = [row.get(column) for column in columns]
    if any(value is None or value == "" for value in values):
        return None
    if alone and len(columns) == 1:
        return str(values[0])
    return " & ".join(f"{name}={value}" for name, value in zip(columns, values, strict=True))


def labelled_values(rule: GroupRule, items: Items, values: Values) -> list[LabelledValues]:
    """Return the values of all items with their groups, turned so that more is better."""
    base_I, adapter_I = (rule.sign * np.array(side) for side in (values.base, values.adapter))
    return [
        LabelledValues(base_I, adapter_I, labels, items.groups, rule.binary)
        for labels in labellings_of(rule, items.rows)
    ]


def labellings_of(rule: GroupRule, rows: Sequence[Row]) -> list[list[str | None]]:
    """Return the group of every row, once for each way to group them."""
    alone = len(rule.labellings) == 1
    return [labels_of(rows, columns, alone=alone) for columns in rule.labellings]


def check_groups(rule: GroupRule, items: Items) -> None:
    """Refuse rows that have no groups.

    Raises:
        DataError: No row has one of the columns, or the rows have fewer than two groups.
    """
    labellings_of(rule, items.rows)


def groups_of(rule: GroupRule, items: Items) -> list[Items]:
    """Return the items of every group."""
    found = []
    for labels in labellings_of(rule, items.rows):
        for name in {label for label in labels if label is not None}:
            found.append(items.at([n for n, label in enumerate(labels) if label == name]))
    return found


def places_of(rule: GroupRule, items: Items, name: str) -> list[int]:
    """Return the indices of the items of a group."""
    labellings = labellings_of(rule, items.rows)
    return [n for n in range(len(items.rows)) if any(labels[n] == name for labels in labellings)]


def too_few(counts: Mapping[str, int], least: int) -> str:
    """Say which groups have too few independent items; nothing where all have enough."""
    small = [f"{name} ({count})" for name, count in counts.items() if count < least]
    return f"fewer than {least} independent items of {', '.join(small)}" if small else ""


def ungrouped_notes(labellings: Sequence[LabelledValues], rule: GroupRule) -> tuple[str, ...]:
    """Return a note for each way to group that leaves items out."""
    notes = []
    for labelled, columns in zip(labellings, rule.labellings, strict=True):
        if count := sum(label is None for label in labelled.labels):
            notes.append(f"{count:,} items without {' & '.join(columns)} count in no group")
    return tuple(notes)
