"""The registry of checks: what each compares, what it needs, and how it decides.

A new check needs only a row in one of the modules here and a section of its limits in
`recipe.limits`; what it reads is measured by a suite. Imports no torch.
"""

from __future__ import annotations

from typing import Any

from plop_lora.errors import UsageError
from plop_lora.gating.check import Check
from plop_lora.gating.checks import fairness, memorisation, safety, task
from plop_lora.gating.checks.outside import FAMILIES, made_checks
from plop_lora.options import check_word
from plop_lora.recipe import GateRecipe
from plop_lora.training.task import Task
from plop_lora.training.tasks import task_named

SAFETY, FAIRNESS = "safety", "fairness"
CHECKS: dict[str, Check[Any]] = {
    row.name: row for row in (*task.CHECKS, *safety.CHECKS, *fairness.CHECKS, *memorisation.CHECKS)
}
"""Name → row."""
GROUPS = {
    SAFETY: tuple(row.name for row in safety.CHECKS),
    FAIRNESS: tuple(row.name for row in fairness.CHECKS),
    "memorisation": tuple(row.name for row in memorisation.CHECKS),
}
"""Names that stand for several checks, of which a recipe takes those that it has the data for."""
NAMES = (*CHECKS, *(name for name in GROUPS if name not in CHECKS), *FAMILIES)
"""All names that a recipe may give."""


def find_checks(recipe: GateRecipe) -> list[Check[Any]]:
    """Return the checks of a recipe, in the order of the registry.

    Raises:
        DataError: A log that the recipe names cannot be read.
        UsageError: There is no such check; the message suggests the nearest name.
    """
    names = recipe.gate.checks
    for name in names or ():
        check_word("check", name, NAMES)
    wanted = {check.name for check in CHECKS.values() if names is None and check.wanted(recipe)}
    for name in names or ():
        wanted |= _named(name, recipe)
    families = [
        name for name in FAMILIES if (_has(recipe, name) if names is None else name in names)
    ]
    return [
        *(check for name, check in CHECKS.items() if name in wanted),
        *made_checks(recipe, families),
    ]


def _named(name: str, recipe: GateRecipe) -> set[str]:
    """Return the checks that a name stands for."""
    if name not in GROUPS:
        return {name} & CHECKS.keys()
    if name == FAIRNESS and not recipe.gate.fairness.columns:
        return {"counterfactual"}
    return {name} & CHECKS.keys() | {one for one in GROUPS[name] if CHECKS[one].wanted(recipe)}


def _has(recipe: GateRecipe, family: str) -> bool:
    section = getattr(recipe.gate, family)
    return bool(section if isinstance(section, tuple) else section.names)


def gated_task(name: str) -> Task:
    """Return the task of a recipe.

    Raises:
        UsageError: There is no such task, or its model writes no text, so that the base has no
            answers to compare with.
    """
    found = task_named(name)
    if not (found.by_answers and found.reads_text):
        raise UsageError(
            f"plop gate cannot judge an adapter of the task {name}: the base model has no head of "
            "that task to compare with. It judges adapters of the tasks sft and grpo."
        )
    return found
