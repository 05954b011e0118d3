"""The tasks by name, and those of the user's own. Imports no torch."""

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
"""Those that come along."""


def task_named(name: str) -> Task:
    """Return the task of a name: one of `TASKS`, or the user's own as `module:NAME`.

    The module is imported, as that of a reward function is.

    Raises:
        UsageError: there is no such task, or what has the name is none.
    """
    if name in TASKS:
        return TASKS[name]
    if ":" not in name:
        raise UsageError(
            f"There is no task {name!r}.{nearest(name, TASKS)} Allowed: {', '.join(TASKS)}, or a "
            "task of yours as module:NAME."
        )
    found = find_object(name, "task", tuple(TASKS), lambda value: isinstance(value, Task))
    assert isinstance(found, Task), "find_object has looked"
    return replace(found, name=name)  # a spec has to lead back to it


def metric_of(spec: TrialSpec) -> str:
    """Return the metric that a trial is judged by: its task's own where the spec names none."""
    return task_named(spec.task).metric_of(spec.evaluation)


def check_metric(task: Task, metric: str) -> None:
    """Refuse a metric that a task cannot be judged by; no function of the user's is imported.

    Raises:
        MissingExtraError: it needs lm-evaluation-harness, which is not installed.
        UsageError: no such metric, or one of another task.
    """
    if metric in task.metrics:
        return
    others = [other.name for other in TASKS.values() if metric in other.metrics]
    allowed = ", ".join(task.metrics)
    if task.by_answers:
        allowed += ", lm-eval:TASK, or a function of yours as module:function"
    if others or ":" not in metric or not task.by_answers:
        of = ", ".join(others)
        reason = f"is for the task {of}, not for {task.name}" if others else "is unknown"
        raise UsageError(
            f"The metric {metric!r} {reason}.{nearest(metric, task.metrics)} Allowed for "
            f"{task.name}: {allowed}."
        )
    if metric.startswith(lm_eval.PREFIX):
        if metric == lm_eval.PREFIX:
            raise UsageError("lm-eval: needs the name of a task behind it, such as lm-eval:gsm8k.")
        check_installed("lm_eval")


def check_judged(task: Task, spec: TrialSpec, rows: Sequence[Row], source: str) -> None:
    """Refuse what the evaluation would meet after the training: rows and a metric that do not fit.

    Args:
        task: of the trial.
        spec: names the metric.
        rows: evaluation rows.
        source: where they come from, for the text of the error.

    Raises:
        DataError: a row has no prompt or reference, or one whose number cannot be read whole.
        UsageError: a metric that the task cannot be judged by, or no such function.
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
