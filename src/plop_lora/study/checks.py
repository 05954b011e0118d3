"""What cannot be right in a study, found before the first of its trials. No torch until it runs."""

from __future__ import annotations

from collections.abc import Sequence

from plop_lora.errors import UsageError, check_installed
from plop_lora.evaluation.judged import Row
from plop_lora.evaluation.metrics import is_of_user
from plop_lora.records import TrainingSettings
from plop_lora.training.task import Task
from plop_lora.user_code import find_function

TRIED_ROWS = 4
"""Rows of a split that the user's functions are tried on."""


def check_trainer(task: Task) -> None:
    """Refuse a task whose packages are not installed; a plan can be made without.

    Raises:
        MissingExtraError: the text names the extra.
    """
    for package in task.packages:
        check_installed(package)


def compares_numbers(task: Task, training: TrainingSettings, metric: str) -> str | None:
    """Return what compares numbers in a study, None where nothing does.

    Its references must hold a number that can be read whole.
    """
    if task.samples and "number" in training.rewards:
        return "The reward `number`"
    return "The metric `numeric`" if metric == "numeric" else None


def check_dtype(training: TrainingSettings) -> None:
    """Refuse float16 on a processor, where sums of a long row overflow and most products are slow.

    Raises:
        UsageError: the text names what to take instead.
    """
    if training.dtype != "float16":
        return
    from plop_lora.models.loading import device_named

    if device_named(training.device).type == "cpu":
        raise UsageError(
            "training.dtype float16 is for a GPU, and trials run on a processor here. Take "
            "float32, bfloat16, or auto."
        )


def check_functions(
    task: Task, metric: str, training: TrainingSettings, splits: Sequence[Sequence[Row]]
) -> None:
    """Import the user's functions, and refuse those that fail on the first rows of a split.

    A plan does without: it runs nothing of the user's but a task.

    Raises:
        DataError: a function that raises, or returns what it must not.
        UsageError: no such function.
    """
    if is_of_user(metric):
        find_function(metric, "metric", task.metrics)
    for rows in splits:
        task.try_rows(training, rows[:TRIED_ROWS])
