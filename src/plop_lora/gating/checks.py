"""The registry of checks: what each compares, what it needs, how it measures and decides.

A new check needs only a row here and a section of its limits in `recipe.gate`. Imports no torch:
what measures imports it when it is called.
"""

from __future__ import annotations

from collections.abc import Sequence

from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation import lm_eval
from plop_lora.evaluation.chats import columns_kept
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.evaluation.metrics import GENERATED, is_of_user
from plop_lora.gating.check import Check, Rule
from plop_lora.gating.decide import decide_difference, plan_difference
from plop_lora.gating.items import Items, general_items, task_items
from plop_lora.options import check_word
from plop_lora.recipe import GateRecipe
from plop_lora.recipe.gate import IMPROVE
from plop_lora.recipe.margin import usual_margin
from plop_lora.records.trial import GENERAL_LOSS
from plop_lora.training.task import Task
from plop_lora.training.tasks import check_metric, task_named
from plop_lora.user_code import find_function

LOSS = "loss"
_LOSS_SPREAD, _METRIC_SPREAD = 0.1, 0.3
_IMPROVEMENT = 0.05
"""Improvement beyond the margin that a plan assumes, in the unit of the metric."""


def gated_task(name: str) -> Task:
    """Return the task of a recipe.

    Raises:
        UsageError: There is no such task, or its model writes no text, so that the base has no
            answers to compare with.
    """
    task = task_named(name)
    if not (task.by_answers and task.reads_text):
        raise UsageError(
            f"plop gate cannot judge an adapter of the task {name}: the base model has no head of "
            "that task to compare with. It judges adapters of the tasks sft and grpo."
        )
    return task


# --------------------------------------------------------------------------- the task


def _task_rule(recipe: GateRecipe, task: Task) -> Rule:
    metric = task.metric_of(recipe.evaluation)
    check_metric(task, metric)
    if metric.startswith(lm_eval.PREFIX):
        raise UsageError(
            f"The metric {metric} brings its own rows, which plop gate cannot resume. Give a "
            f"metric on the rows of eval: {', '.join(task.metrics)}."
        )
    limits, is_loss = recipe.gate.task, metric == LOSS
    improve = limits.mode == IMPROVE
    usual = 0.0 if improve else usual_margin(metric)
    margin = usual if limits.margin is None else limits.margin
    binary = metric in GENERATED
    if binary and margin >= 1:
        raise UsageError(
            f"gate.task.margin is {margin:g}, which no outcome of {metric} can reach or miss: it "
            "lies between 0 and 1. Give a smaller number."
        )
    return Rule(
        mode=limits.mode,
        metric=metric,
        higher_is_better=not is_loss,
        limit=margin if improve else -margin,
        binary=binary,
        spread=limits.spread or (_LOSS_SPREAD if is_loss else _METRIC_SPREAD),
        assumed_gain=margin + _IMPROVEMENT if improve else 0.0,
    )


def _task_items(recipe: GateRecipe, task: Task) -> Items:
    """Return the evaluation rows, which the metric can judge.

    Raises:
        DataError: A row cannot be read or judged.
        UsageError: There is no such function.
    """
    from plop_lora.evaluation.metrics import check_answers

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


def _task_values(
    recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> Sequence[float]:
    from dataclasses import replace

    from plop_lora.evaluation.metrics import judge_answers

    task = gated_task(recipe.task)
    metric = task.metric_of(recipe.evaluation)
    if metric == LOSS:
        return _losses(recipe, prepared, rows, batch_size)
    settings = replace(recipe.evaluation, batch_size=batch_size)
    judged = judge_answers(
        metric, prepared, rows, settings, rewards=recipe.training.rewards, named=task.metrics
    )
    return judged.items[metric]


def _losses(
    recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> Sequence[float]:
    from plop_lora.evaluation.losses import row_losses

    return row_losses(prepared, rows, max_length=recipe.training.max_length, batch_size=batch_size)


# --------------------------------------------------------------------------- forgetting


def _forgetting_rule(recipe: GateRecipe, task: Task) -> Rule:
    limits = recipe.gate.forgetting
    return Rule(
        mode="rise",
        metric=GENERAL_LOSS,
        higher_is_better=False,
        limit=-limits.fail,
        warn=-limits.warn,
        spread=limits.spread,
    )


def _forgetting_values(
    recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> Sequence[float]:
    from plop_lora.evaluation.losses import general_losses

    found = general_losses(
        prepared, rows, max_length=recipe.training.max_length, batch_size=batch_size
    )
    return [loss.mean for loss in found]


# --------------------------------------------------------------------------- the registry


CHECKS: dict[str, Check] = {
    row.name: row
    for row in (
        Check(
            name="task",
            description="the loss or the metric on the user's evaluation rows",
            source="paired differences with clustered errors, arXiv 2411.00640, "
            "https://arxiv.org/abs/2411.00640",
            needs="evaluation rows that the adapter was not trained on",
            rule=_task_rule,
            items=_task_items,
            repeats=lambda rule: rule.metric == LOSS,
            measure=_task_values,
            decide=decide_difference,
            plan=plan_difference,
            advice=(
                "train longer, or with a larger learning rate, if the training loss still falls",
                "try an earlier checkpoint or a smaller learning rate if it had long stopped",
                "see that the rows are written as in training: the same prompt and template",
            ),
        ),
        Check(
            name="forgetting",
            description="the rise of the loss on general text, in nats per token",
            source="the anchors of PEFT's benchmark of methods: LoRA of rank 32 +0.050, rank 64 "
            "with rsLoRA +0.111, https://github.com/huggingface/peft/tree/main/method_comparison",
            needs="general text; the bundled texts are the default",
            rule=_forgetting_rule,
            items=general_items,
            repeats=lambda rule: True,
            measure=_forgetting_values,
            decide=decide_difference,
            plan=plan_difference,
            advice=(
                "try an earlier checkpoint",
                "train with a smaller learning rate",
                "choose an arm that forgets less: plop verify reports forgetting by arm",
            ),
        ),
    )
}
"""Name → row."""


def find_checks(names: Sequence[str]) -> list[Check]:
    """Return the checks of the names, in the order of the registry.

    Raises:
        UsageError: There is no such check; the message suggests the nearest name.
    """
    for name in names:
        check_word("check", name, CHECKS)
    return [check for name, check in CHECKS.items() if name in names]
