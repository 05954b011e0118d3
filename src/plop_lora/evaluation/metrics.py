"""Metrics on what a model answers: one outcome a row, in the order of the rows.

Imports no torch by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation import lm_eval
from plop_lora.evaluation.judged import Judged, Prepared, Row
from plop_lora.evaluation.numbers import (
    MARK,
    last_number,
    marked_number,
    marked_numbers,
    reference_number,
)
from plop_lora.evaluation.rewards import (
    answer_of,
    as_completion,
    call_reward,
    check_references,
    checked_values,
    find_reward,
    text_of,
)
from plop_lora.records import EvaluationSettings
from plop_lora.user_code import find_function

OFTEN = 0.05
"""Share of answers that are cut, above which a note says so."""


def is_of_user(metric: str) -> bool:
    """Whether a metric is a function of the user's, written `module:function`."""
    return ":" in metric and not metric.startswith(lm_eval.PREFIX)


def judge_answers(
    metric: str,
    prepared: Prepared,
    rows: Sequence[Row],
    settings: EvaluationSettings,
    *,
    rewards: Sequence[str] = (),
    named: Sequence[str] = (),
) -> Judged:
    """Judge a model by one metric on greedily generated answers, or by a task of the harness.

    Args:
        metric: `exact`, `numeric`, `pass@1`, `lm-eval:TASK`, or `module:function`.
        prepared: The model, with its adapters at work, and its tokenizer.
        rows: Evaluation rows; a task of the harness brings its own.
        settings: Batch size, most tokens of an answer, and folder of the harness's tasks.
        rewards: Names of reward functions, of which `pass@1` takes the first.
        named: Names of the metrics that are no function of the user's, which errors suggest.

    Raises:
        DataError: A row lacks what the metric compares with.
        UsageError: There is no such function, or `pass@1` has no reward function.
        MissingExtraError: The harness is not installed.
    """
    if metric.startswith(lm_eval.PREFIX):
        return lm_eval.judge(settings, prepared, metric)
    from plop_lora.evaluation.chats import template_arguments
    from plop_lora.evaluation.generation import generate

    prompts = [prompt_of(row) for row in rows]
    references = [reference_of(row) for row in rows] if metric in COMPARISONS else None
    answers = generate(
        prepared,
        prompts,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        arguments=[template_arguments(row) for row in rows],
        references=references,
    )
    ended = [answer.ended for answer in answers]
    doubts = unfinished(ended, settings.max_new_tokens)
    notes = often_cut(ended, settings.max_new_tokens)
    texts = [answer.text for answer in answers]
    if references is not None:
        pairs = zip(texts, references, strict=True)
        values = tuple(float(COMPARISONS[metric](text, right)) for text, right in pairs)
        if metric == "numeric":
            notes += several_results(texts, references)
    elif metric == "pass@1":
        values = _passed(rewards, rows, texts, [answer.tokens for answer in answers])
    else:
        judge = find_function(metric, "metric", tuple(named))
        completions = [as_completion(p, text) for p, text in zip(prompts, texts, strict=True)]
        found = judged_by_user(metric, judge, prompts, completions, rows)
        values = tuple(value for value in found if value is not None)
    return Judged.of({metric: values}, doubts, notes, tuple(texts))


def check_answers(metric: str, rows: Sequence[Row], rewards: Sequence[str]) -> None:
    """Refuse rows that a metric on answers could not judge, before anything is generated.

    Args:
        metric: A metric that `judge_answers` takes.
        rows: Evaluation rows.
        rewards: Names of reward functions, of which `pass@1` takes the first.

    Raises:
        DataError: A row has no prompt or no reference, or the number of its reference cannot be
            read whole.
    """
    if metric in COMPARISONS:
        references = [reference_of(row) for row in rows if prompt_of(row)]
        if metric == "numeric":
            check_references(references, "The metric `numeric`")
    elif metric == "pass@1" and tuple(rewards[:1]) == ("number",):
        check_references(map(answer_of, rows), "The reward `number`")


def unfinished(ended: Sequence[bool], most: int) -> tuple[str, ...]:
    """Return a doubt about the outcome where every generated answer was cut.

    Args:
        ended: Whether each answer came to its end.
        most: Most tokens that an answer may have.
    """
    if ended and not any(ended):
        return (
            f"{len(ended)} of {len(ended)} answers are cut at max_new_tokens {most}, so what was "
            "judged are beginnings",
        )
    return ()


def often_cut(ended: Sequence[bool], most: int) -> tuple[str, ...]:
    """Return a note where more than 5 % of the generated answers were cut.

    Args:
        ended: Whether each answer came to its end.
        most: Most tokens that an answer may have.
    """
    cut = sum(not one for one in ended)
    if cut <= OFTEN * len(ended):
        return ()
    return (
        f"{cut} of {len(ended)} answers ({cut / len(ended):.0%}) are cut at max_new_tokens {most}; "
        "what comes after is not judged",
    )


def several_results(texts: Sequence[str], references: Sequence[str]) -> tuple[str, ...]:
    r"""Return a note where answers give several results after `####`, which do not agree.

    The last one is judged. A model that goes on after its answer, or answers several times, is
    then judged by something else than it would be by the first; the note says by how much.

    >>> several_results(["#### 4\n#### 5", "#### 4"], ["#### 4", "#### 4"])[0][:59]
    '1 of 2 answers give several results after ####. The last is'
    """
    judged = [
        (marked_numbers(text), reference_number(reference, "The metric `numeric`"))
        for text, reference in zip(texts, references, strict=True)
        if MARK in reference
    ]
    several = sum(len(set(numbers)) > 1 for numbers, _ in judged)
    if not several:
        return ()
    first, last = (
        sum(numbers[place : place + 1 or None] == [right] for numbers, right in judged)
        / len(judged)
        for place in (0, -1)
    )
    return (
        f"{several} of {len(texts)} answers give several results after {MARK}. The last is judged "
        f"({last:.3f} right); by the first it would be {first:.3f}",
    )


def judged_by_user(
    metric: str,
    judge: Callable[..., object],
    prompts: Sequence[object],
    completions: Sequence[object],
    rows: Sequence[Row],
) -> list[float | None]:
    """Return what a function of the user's says of answers.

    Args:
        metric: Name of the function, for errors.
        judge: The function.
        prompts: The prompts, as texts or chats.
        completions: The answer to each prompt.
        rows: Row of each prompt.

    Raises:
        DataError: The function fails, or does not return a number for each answer.
    """
    try:
        values = judge(prompts, completions, [dict(row) for row in rows])
    except Exception as error:
        raise DataError(
            f"The metric {metric!r} raised {type(error).__name__}: {error}; it was called with "
            f"{len(rows)} prompts, completions and rows."
        ) from error
    return checked_values(metric, values, completions, optional=False)


def _passed(
    rewards: Sequence[str],
    rows: Sequence[Row],
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],
) -> tuple[float, ...]:
    """Return 1 for each answer whose reward by the first reward function is 1 or more."""
    if not rewards:
        raise UsageError("pass@1 is judged by training.rewards, which names no reward function.")
    name = rewards[0]
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
        DataError: The reference has no number that can be read whole.
    """
    number = marked_number if MARK in reference else last_number
    return number(text) == reference_number(reference, "The metric `numeric`")


COMPARISONS: dict[str, Callable[[str, str], bool]] = {"exact": is_exact, "numeric": is_numeric}
"""Metrics that compare an answer with the right one."""
GENERATED = (*COMPARISONS, "pass@1")
"""Metrics on generated answers."""


# --------------------------------------------------------------------------- rows


def prompt_of(row: Row) -> object:
    """Return what a model continues: the prompt, or a chat without its last answer.

    Raises:
        DataError: The row is a text without a prompt, or its chat does not end in an answer.
    """
    if row.get("prompt") is not None:
        return row["prompt"]
    return _split_chat(row)[0]


def reference_of(row: Row) -> str:
    """Return the text of the right answer: of the completion, the chat's last message, or answer.

    Raises:
        DataError: The row has none.
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


def _split_chat(row: Row) -> tuple[list[object], list[object]]:
    messages = list(row.get("messages") or ())
    if len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise DataError(
            f"A row has no prompt to answer; it has: {', '.join(row)}. Metrics on generated "
            "answers need prompt and completion, or messages that end in one of the assistant. "
            "Use the metric loss for plain text."
        )
    return messages[:-1], messages[-1:]
