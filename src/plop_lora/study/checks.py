"""What cannot be right in a study, found before the first of its trials. No torch until it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plop_lora.errors import ModelError, UsageError, check_installed
from plop_lora.models.folders import model_name
from plop_lora.recipe import FinetuneRecipe
from plop_lora.records import Scores, TrainingSettings
from plop_lora.records.trial import CLASSIFY, GRPO
from plop_lora.study.splits import Splits

REWARD_ROWS = 4


def check_task_fits(task: str, metric: str, rewards: Sequence[str]) -> None:
    """Refuse a metric that a task cannot be judged by, and rewards that are missing or unknown.

    Raises:
        UsageError: no such task or metric, or a metric of another task; no reward where the task
            needs one, or a name that no reward has.
        MissingExtraError: the metric needs a library that is not installed.
    """
    from plop_lora.training.evaluate import check_metric
    from plop_lora.training.rewards import check_named as check_rewards_named

    check_metric(task, metric)
    if task == GRPO and not rewards:
        raise UsageError(
            "The task grpo needs rewards. Give --rewards number, format or module:function."
        )
    check_rewards_named(rewards)


def check_trainer(task: str) -> None:
    """Refuse a task whose trainer is not installed; a plan can be made without.

    Raises:
        MissingExtraError: the text names the extra.
    """
    if task != CLASSIFY:
        check_installed("trl")


def check_model(scores: Scores, task: str, name: str | None) -> None:
    """Refuse a task that the scored model cannot be trained for.

    Args:
        scores: of the model, or of one like it.
        task: of the recipe.
        name: of the model that is trained, None for the scored one.

    Raises:
        ModelError: it writes no text, or it reads none.
    """
    model = scores.model
    if name is not None:
        model_name(name)
    if task == CLASSIFY:
        config = model.config or {}
        if model.config is not None and "vocab_size" not in {**config, **_text_part(config)}:
            raise ModelError(
                f"{model.name} ({model.architecture}) reads no text, so it cannot classify any."
            )
        return
    writes = model.task_type == "CAUSAL_LM" or model.architecture.endswith(
        "ForConditionalGeneration"
    )
    if not writes or model.task_type == "SEQ_2_SEQ_LM":
        raise ModelError(
            f"{model.name} ({model.architecture}) is not a causal language model, which "
            f"{task} trains. For a classifier take --task classify."
        )


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    part = config.get("text_config")
    return part if isinstance(part, dict) else {}


def reader_of_numbers(recipe: FinetuneRecipe) -> str | None:
    """Return what compares numbers in a study, None where nothing does.

    Its references must hold a number that can be read whole.
    """
    if recipe.task == GRPO and "number" in recipe.training.rewards:
        return "The reward `number`"
    return "The metric `numeric`" if recipe.evaluation.metric == "numeric" else None


def check_dtype(training: TrainingSettings) -> None:
    """Refuse float16 on a processor, where sums of a long row overflow and most products are slow.

    Raises:
        UsageError: the text names what to take instead.
    """
    if training.dtype != "float16":
        return
    from plop_lora.scoring.loading import device_named

    if device_named(training.device).type == "cpu":
        raise UsageError(
            "training.dtype float16 is for a GPU, and trials run on a processor here. Take "
            "float32, bfloat16, or auto."
        )


def check_functions(task: str, metric: str, rewards: Sequence[str], splits: Splits) -> None:
    """Import the user's functions, and refuse rewards that fail on the first rows of a split.

    A plan does without: it runs nothing of the user's.

    Raises:
        DataError: a function that raises, or returns what it must not.
        UsageError: no such function.
    """
    from plop_lora.training.evaluate import find_metric

    find_metric(task, metric)
    if task == GRPO:
        from plop_lora.training.rewards import try_rewards

        for rows in (splits.train, splits.report):
            try_rewards(rewards, rows[:REWARD_ROWS])


def check_groups_of(task: str, training: TrainingSettings, rows: int) -> None:
    """Refuse batches of completions without whole groups; `rows` has the shortest trial.

    Raises:
        DataError: fewer rows than a step takes.
        UsageError: a number of generations that does not divide the completions of a step.
    """
    if task == GRPO:
        from plop_lora.training.grpo import check_groups

        check_groups(training, rows)
