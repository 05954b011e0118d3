"""Suites of rows that the model is to answer or to predict: the evaluation rows, and own checks.

Imports no torch; what measures imports it when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from plop_lora.errors import DataError
from plop_lora.evaluation.chats import columns_kept
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.evaluation.metrics import check_answers, is_of_user, prompt_of
from plop_lora.gating.items import Items, rows_of, task_items
from plop_lora.gating.suite import Reading, Suite
from plop_lora.recipe import GateRecipe
from plop_lora.recipe.limits import OwnCheck
from plop_lora.training.task import Task
from plop_lora.training.tasks import task_named
from plop_lora.user_code import find_function

LOSS = "loss"


def _task_items(recipe: GateRecipe, task: Task) -> Items:
    """Return the evaluation rows, which the metric can judge.

    Raises:
        DataError: A row cannot be read or judged.
        UsageError: There is no such function.
    """
    items = task_items(recipe, task)
    metric = task.metric_of(recipe.evaluation)
    if is_of_user(metric):
        find_function(metric, "metric", task.metrics)
    try:
        if metric == LOSS:
            columns_kept(items.rows)
        else:
            check_answers(metric, items.rows, recipe.training.rewards)
    except DataError as error:
        raise DataError(f"{items.source}: {error}") from error
    return items


def _task_readings(
    recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> list[Reading]:
    from plop_lora.evaluation.losses import row_losses

    metric = task_named(recipe.task).metric_of(recipe.evaluation)
    if metric != LOSS:
        return _answered(metric, recipe, prepared, rows, batch_size)
    values = row_losses(
        prepared, rows, max_length=recipe.training.max_length, batch_size=batch_size
    )
    return [Reading({metric: value}) for value in values]


def _answered(
    metric: str, recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> list[Reading]:
    """Return what a metric says of the answers to rows."""
    from plop_lora.evaluation.metrics import judge_answers

    task = task_named(recipe.task)
    settings = replace(recipe.evaluation, batch_size=batch_size)
    found = judge_answers(
        metric, prepared, rows, settings, rewards=recipe.training.rewards, named=task.metrics
    )
    return [
        Reading({metric: value}, answer)
        for value, answer in zip(found.items[metric], found.answers, strict=True)
    ]


def _task_settings(recipe: GateRecipe, task: Task) -> Mapping[str, object]:
    return {"metric": task.metric_of(recipe.evaluation), "rewards": list(recipe.training.rewards)}


TASK = Suite(
    name="task",
    items=_task_items,
    measure=_task_readings,
    repeats=lambda recipe, task: True,
    settings=_task_settings,
)
"""The evaluation rows, judged by the metric of the recipe."""


# --------------------------------------------------------------------------- checks of the user's


def own_suite(own: OwnCheck, name: str) -> Suite:
    """Return the suite of a check of the user's: rows whose answers a function judges.

    Args:
        own: What the recipe says of the check.
        name: Name of the suite.
    """

    def items(recipe: GateRecipe, task: Task) -> Items:
        find_function(own.function, "check", ())
        found = task_items(recipe, task) if own.rows is None else rows_of(recipe, task, own.rows)
        try:
            for row in found.rows:
                prompt_of(row)
        except DataError as error:
            raise DataError(f"{found.source}: {error}") from error
        return found

    def readings(
        recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
    ) -> list[Reading]:
        return _answered(own.function, recipe, prepared, rows, batch_size)

    return Suite(
        name=name,
        items=items,
        measure=readings,
        repeats=lambda recipe, task: True,
        settings=lambda recipe, task: {"function": own.function},
    )
