"""Judge a trained model on the evaluation rows: one outcome a row, in the order of the rows.

`check_metric`, `prompt_of` and `reference_of` import no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from plop_lora.errors import DataError, UsageError, check_installed, nearest
from plop_lora.records import TrialSpec
from plop_lora.records.trial import CLASSIFY, GENERAL_LOSS, GRPO, SFT
from plop_lora.training import harness
from plop_lora.training.learning import unfinished
from plop_lora.training.numbers import MARK, last_number, marked_number, reference_number
from plop_lora.training.rewards import (
    answer_of,
    as_completion,
    call_reward,
    check_references,
    checked_values,
    find_function,
    find_reward,
    text_of,
)
from plop_lora.training.task import Judged, Prepared, Row, check_task, metric_of

METRICS = {
    SFT: ("loss", "exact", "numeric"),
    GRPO: ("pass@1", "exact", "numeric"),
    CLASSIFY: ("accuracy", "macro-f1"),
}
"""Metrics of each task by name; sft and grpo also take `lm-eval:TASK` and `module:function`."""


def check_metric(task: str, metric: str) -> None:
    """Refuse a metric that a task cannot be judged by; no function of the user's is imported.

    Raises:
        MissingExtraError: it needs lm-evaluation-harness, which is not installed.
        UsageError: no such metric, or one of another task.
    """
    check_task(task)
    if metric in METRICS[task]:
        return
    others = [name for name, metrics in METRICS.items() if metric in metrics]
    allowed = ", ".join(METRICS[task])
    if task != CLASSIFY:
        allowed += ", lm-eval:TASK, or a function of yours as module:function"
    if others or ":" not in metric or task == CLASSIFY:
        reason = f"is for the task {', '.join(others)}, not for {task}" if others else "is unknown"
        raise UsageError(
            f"The metric {metric!r} {reason}.{nearest(metric, METRICS[task])} Allowed for {task}: "
            f"{allowed}."
        )
    if metric.startswith(harness.PREFIX):
        if metric == harness.PREFIX:
            raise UsageError("lm-eval: needs the name of a task behind it, such as lm-eval:gsm8k.")
        check_installed("lm_eval")


def find_metric(task: str, metric: str) -> None:
    """Import the function that a metric names, where it names one of the user's.

    Raises:
        UsageError: no such function.
    """
    if ":" in metric and not metric.startswith(harness.PREFIX):
        find_function(metric, "metric", METRICS[task])


def check_judged(spec: TrialSpec, rows: Sequence[Row], source: str) -> None:
    """Refuse what the evaluation would meet after the training: rows and a metric that do not fit.

    Args:
        spec: names the metric.
        rows: evaluation rows.
        source: where they come from, for the text of the error.

    Raises:
        DataError: a row has no prompt or reference, or one whose number cannot be read whole.
        UsageError: a metric that the task cannot be judged by, or no such function.
    """
    metric = metric_of(spec.task, spec.evaluation)
    check_metric(spec.task, metric)
    find_metric(spec.task, metric)
    by_number = metric == "pass@1" and spec.training.rewards[:1] == ("number",)
    try:
        if metric in COMPARISONS:
            references = [reference_of(row) for row in rows if prompt_of(row)]
            if metric == "numeric":
                check_references(references, "The metric `numeric`")
        elif by_number:
            check_references(map(answer_of, rows), "The reward `number`")
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def evaluate(
    spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], *, general: Sequence[Row] = ()
) -> Judged:
    """Judge a model by the metric of its trial.

    For `sft` there is always the held-out loss as well: `metrics["loss"]` is the mean over rows
    of each row's mean over its tokens, in nats. On general text the loss is `general-loss`.

    Args:
        spec: names the metric, the batch size and the length of answers.
        prepared: the trained model and its tokenizer.
        rows: evaluation rows.
        general: texts that are none of the task's, for the same loss there.

    Raises:
        DataError: no rows, or one without what the metric compares with.
        MeasurementError: a loss that is not finite.
        UsageError: a metric that the task cannot be judged by.
    """
    if not rows:
        raise DataError("There are no evaluation rows to judge by. Give a file with some.")
    if spec.task == CLASSIFY:
        judge = importlib.import_module("plop_lora.training.classify").judge
        judged: Judged = judge(spec, prepared, rows)
        return judged
    metric = metric_of(spec.task, spec.evaluation)
    check_metric(spec.task, metric)
    items: dict[str, tuple[float, ...]] = {}
    doubts: tuple[str, ...] = ()
    if spec.task == SFT:
        items["loss"] = _loss(spec, prepared, rows)
    if metric.startswith(harness.PREFIX):
        items.update(harness.judge(spec, prepared, metric).items)
    elif metric != "loss":
        items[metric], doubts = _by_answers(spec, prepared, rows, metric)
    if general:
        items[GENERAL_LOSS] = _loss(spec, prepared, general)
    means = {name: sum(values) / len(values) for name, values in items.items()}
    return Judged(items, means, doubts)


def _loss(spec: TrialSpec, prepared: Prepared, rows: Sequence[Row]) -> tuple[float, ...]:
    from plop_lora.training.losses import row_losses
    from plop_lora.training.sft import columns_kept

    columns_kept(rows)
    losses = row_losses(
        prepared,
        rows,
        max_length=spec.training.max_length,
        batch_size=spec.evaluation.batch_size,
    )
    return tuple(losses)


# --------------------------------------------------------------------------- generated answers


def _by_answers(
    spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], metric: str
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the outcome of every row by a metric on greedily generated answers, and doubts."""
    from plop_lora.training.chats import template_arguments
    from plop_lora.training.generation import generate

    prompts = [prompt_of(row) for row in rows]
    references = [reference_of(row) for row in rows] if metric in COMPARISONS else None
    most = spec.evaluation.max_new_tokens
    answers = generate(
        prepared,
        prompts,
        batch_size=spec.evaluation.batch_size,
        max_new_tokens=most,
        arguments=[template_arguments(row) for row in rows],
        references=references,
    )
    doubts = unfinished([answer.ended for answer in answers], most)
    texts = [answer.text for answer in answers]
    if references is not None:
        pairs = zip(texts, references, strict=True)
        return tuple(float(COMPARISONS[metric](text, right)) for text, right in pairs), doubts
    if metric == "pass@1":
        return _passed(spec, rows, texts, [answer.tokens for answer in answers]), doubts
    judge = find_function(metric, "metric", METRICS[spec.task])
    completions = [as_completion(p, text) for p, text in zip(prompts, texts, strict=True)]
    values = _judged_by_user(metric, judge, prompts, completions, rows)
    return tuple(value for value in values if value is not None), doubts


def _judged_by_user(
    metric: str,
    judge: Callable[..., Any],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    rows: Sequence[Row],
) -> list[float | None]:
    try:
        values = judge(prompts, completions, [dict(row) for row in rows])
    except Exception as error:
        raise DataError(
            f"The metric {metric!r} raised {type(error).__name__}: {error}; it was called with "
            f"{len(rows)} prompts, completions and rows."
        ) from error
    return checked_values(metric, values, completions, optional=False)


def _passed(
    spec: TrialSpec, rows: Sequence[Row], texts: Sequence[str], tokens: Sequence[Sequence[int]]
) -> tuple[float, ...]:
    """Return 1 for each answer whose reward by the first reward function is 1 or more."""
    if not spec.training.rewards:
        raise UsageError("pass@1 is judged by training.rewards, which names no reward function.")
    name = spec.training.rewards[0]
    values = call_reward(find_reward(name), rows, texts, tokens)
    for number, value in enumerate(values, start=1):
        if value is None:
            raise DataError(
                f"The reward function {name!r} gives None for evaluation row {number}. pass@1 is "
                "judged by the first of training.rewards; put one first that applies to every row."
            )
    return tuple(float(value is not None and value >= 1) for value in values)


def is_exact(text: str, reference: str) -> bool:
    """Whether an answer is the reference, apart from space around it."""
    return text.strip() == reference.strip()


def is_numeric(text: str, reference: str) -> bool:
    r"""Whether an answer has the reference's number.

    Both are the number after the last `####`, or, where the reference has no such mark, the last
    number of the text.

    >>> is_numeric("3 + 4 = 7\n#### 7.0", "#### 7"), is_numeric("It is 7.", "#### 7")
    (True, False)
    >>> is_numeric("It is 1,000.", "1000")
    True

    Raises:
        DataError: the reference has no number that can be read whole.
    """
    number = marked_number if MARK in reference else last_number
    return number(text) == reference_number(reference, "The metric `numeric`")


COMPARISONS: dict[str, Callable[[str, str], bool]] = {"exact": is_exact, "numeric": is_numeric}
"""Metrics that compare an answer with the right one."""


# --------------------------------------------------------------------------- rows


def prompt_of(row: Row) -> Any:
    """Return what a model continues: the prompt, or a chat without its last answer.

    Raises:
        DataError: the row is a text without a prompt, or its chat does not end in an answer.
    """
    if row.get("prompt") is not None:
        return row["prompt"]
    return _split_chat(row)[0]


def reference_of(row: Row) -> str:
    """Return the text of the right answer: of the completion, the chat's last message, or answer.

    Raises:
        DataError: the row has none.
    """
    if row.get("prompt") is None:
        return text_of(_split_chat(row)[1])
    completion = row.get("completion")
    reference = answer_of(row) if completion is None else text_of(completion)
    if reference is None:
        raise DataError(
            f"A row has no reference answer; it has: {', '.join(row)}. Give a completion, or a "
            "column named answer or solution."
        )
    return reference


def _split_chat(row: Row) -> tuple[list[Any], list[Any]]:
    messages = list(row.get("messages") or ())
    if len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise DataError(
            f"A row has no prompt to answer; it has: {', '.join(row)}. Metrics on generated "
            "answers need prompt and completion, or messages that end in one of the assistant. "
            "Use the metric loss for plain text."
        )
    return messages[:-1], messages[-1:]
