"""The built-in tasks by name, and user-defined tasks. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from plop_lora.errors import DataError, UsageError, check_installed, nearest
from plop_lora.evaluation import lm_eval
from plop_lora.evaluation.judged import Row
from plop_lora.evaluation.metrics import check_answers, is_of_user
from plop_lora.records import TrialSpec
from plop_lora.training.task import Task
from plop_lora.training.tasks.classify import CLASSIFY
from plop_lora.training.tasks.grpo import GRPO
from plop_lora.training.tasks.sft import SFT
from plop_lora.user_code import find_function, find_object

TASKS = {task.name: task for task in (SFT, CLASSIFY, GRPO)}
"""The built-in tasks."""


def task_named(name: str) -> Task:
    """Return a task by name: one of `TASKS`, or a user-defined task given as `module:NAME`.

    The module is imported in the same way as that of a reward function.

    Raises:
        UsageError: There is no such task, or the object of that name is not a task.
    """
    if name in TASKS:
        return TASKS[name]
    if ":" not in name:
        raise UsageError(
            f"There is no task {name!r}.{nearest(name, TASKS)} Allowed: {', '.join(TASKS)}, or a "
            "task of your own, written as module:NAME."
        )
    found = find_object(name, "task", tuple(TASKS), lambda value: isinstance(value, Task))
    assert isinstance(found, Task), "find_object has looked"
    return replace(found, name=name)  # a spec has to lead back to it


def metric_of(spec: TrialSpec) -> str:
    """Return the metric of a trial, which is the default of its task if the spec names none."""
    return task_named(spec.task).metric_of(spec.evaluation)


def check_metric(task: Task, metric: str) -> None:
    """Check that a task supports a metric, without importing a user-defined function.

    Raises:
        MissingExtraError: The metric needs lm-evaluation-harness, which is not installed.
        UsageError: There is no such metric, or it belongs to another task.
    """
    if metric in task.metrics:
        return
    others = [other.name for other in TASKS.values() if metric in other.metrics]
    allowed = ", ".join(task.metrics)
    if task.by_answers:
        allowed += ", lm-eval:TASK, or a function of your own, written as module:function"
    if others or ":" not in metric or not task.by_answers:
        of = ", ".join(others)
        reason = f"is for the task {of}, not for {task.name}" if others else "is unknown"
        raise UsageError(
            f"The metric {metric!r} {reason}.{nearest(metric, task.metrics)} Allowed for "
            f"{task.name}: {allowed}."
        )
    if metric.startswith(lm_eval.PREFIX):
        if metric == lm_eval.PREFIX:
            raise UsageError(
                "The metric lm-eval: must be followed by a task, such as lm-eval:gsm8k."
            )
        check_installed("lm_eval")


def check_judged(task: Task, spec: TrialSpec, rows: Sequence[Row], source: str) -> None:
    """Check before the training that the metric can be computed on the evaluation rows.

    Args:
        task: Task of the trial.
        spec: Specification of the trial, which names the metric.
        rows: Evaluation rows.
        source: Where the rows come from, for the text of errors.

    Raises:
        DataError: A row has no prompt or reference, or a reference whose number cannot be read.
        UsageError: The task does not support the metric, or there is no such function.
    """
    metric = task.metric_of(spec.evaluation)
    check_metric(task, metric)
    if is_of_user(metric):
        find_function(metric, "metric", task.metrics)
    if task.by_answers:
        try:
            check_answers(metric, rows, spec.training.rewards)
        except DataError as error:
            raise DataError(f"{source}: {error}") from error
