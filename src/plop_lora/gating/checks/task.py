"""The checks of the task and of forgetting: what the adapter gained, and what it cost."""

from __future__ import annotations

from typing import Any

from plop_lora.errors import UsageError
from plop_lora.evaluation import lm_eval
from plop_lora.evaluation.metrics import GENERATED
from plop_lora.gating.check import Check, Rule
from plop_lora.gating.decide import decide_difference, plan_difference
from plop_lora.gating.suites.general import GENERAL
from plop_lora.gating.suites.task import LOSS, TASK
from plop_lora.recipe import GateRecipe
from plop_lora.recipe.limits import IMPROVE
from plop_lora.recipe.margin import usual_margin
from plop_lora.records.trial import GENERAL_LOSS
from plop_lora.training.task import Task
from plop_lora.training.tasks import check_metric

_LOSS_SPREAD, _METRIC_SPREAD = 0.1, 0.3
_IMPROVEMENT = 0.05
"""Improvement beyond the margin that a plan assumes, in the unit of the metric."""


def task_rule(recipe: GateRecipe, task: Task) -> Rule:
    """Return the rule of the check of the task.

    Raises:
        UsageError: The metric or the margin cannot work.
    """
    metric = task.metric_of(recipe.evaluation)
    check_metric(task, metric)
    if metric.startswith(lm_eval.PREFIX):
        raise UsageError(
            f"The metric {metric} brings its own rows, so that it is no metric on those of eval: "
            f"{', '.join(task.metrics)} are. Run the task beside them with gate.harness.names."
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


CHECKS: tuple[Check[Any], ...] = (
    Check(
        name="task",
        suite=TASK,
        description="the loss or the metric on the user's evaluation rows",
        source="paired differences with clustered errors, arXiv 2411.00640, "
        "https://arxiv.org/abs/2411.00640",
        needs="evaluation rows that the adapter was not trained on",
        rule=task_rule,
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
        suite=GENERAL,
        description="the rise of the loss on general text, in nats per token",
        source="the anchors of PEFT's benchmark of methods: LoRA of rank 32 +0.050, rank 64 "
        "with rsLoRA +0.111, https://github.com/huggingface/peft/tree/main/method_comparison",
        needs="general text; the bundled texts are the default",
        rule=_forgetting_rule,
        decide=decide_difference,
        plan=plan_difference,
        advice=(
            "try an earlier checkpoint",
            "train with a smaller learning rate",
            "choose an arm that forgets less: plop verify reports forgetting by arm",
        ),
    ),
)
