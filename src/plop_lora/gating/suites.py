"""The registry of suites: what is measured, on which items, and how. Imports no torch.

What measures imports it when it is called.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from plop_lora.errors import DataError
from plop_lora.evaluation.chats import columns_kept
from plop_lora.evaluation.coherence import Fault, faults
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.evaluation.metrics import is_of_user
from plop_lora.evaluation.refusals import refuses
from plop_lora.gating.items import Items, general_items, prompt_items, task_items
from plop_lora.gating.suite import Reading, Suite
from plop_lora.recipe import GateRecipe
from plop_lora.records.trial import GENERAL_LOSS
from plop_lora.training.task import Task
from plop_lora.training.tasks import task_named
from plop_lora.user_code import find_function

LOSS = "loss"
TASK, GENERAL, PROMPTS = "task", "general", "prompts"
DEGENERATE, UNENDED, REFUSED = "degenerate", "without an end", "refused"
"""Quantities of an answer to a prompt, each 0 or 1."""
_ABOUT_TEXT = frozenset(Fault) - {Fault.CUT_OFF}


# --------------------------------------------------------------------------- the task


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


def _task_readings(
    recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> list[Reading]:
    from plop_lora.evaluation.losses import row_losses
    from plop_lora.evaluation.metrics import judge_answers

    task = task_named(recipe.task)
    metric = task.metric_of(recipe.evaluation)
    if metric == LOSS:
        values: Sequence[float] = row_losses(
            prepared, rows, max_length=recipe.training.max_length, batch_size=batch_size
        )
    else:
        settings = replace(recipe.evaluation, batch_size=batch_size)
        values = judge_answers(
            metric, prepared, rows, settings, rewards=recipe.training.rewards, named=task.metrics
        ).items[metric]
    return [Reading({metric: value}) for value in values]


def _repeats_task(recipe: GateRecipe, task: Task) -> bool:
    return task.metric_of(recipe.evaluation) == LOSS


def _task_settings(recipe: GateRecipe, task: Task) -> Mapping[str, object]:
    return {"metric": task.metric_of(recipe.evaluation), "rewards": list(recipe.training.rewards)}


# --------------------------------------------------------------------------- general text


def _general_readings(
    recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> list[Reading]:
    from plop_lora.evaluation.losses import general_losses

    found = general_losses(
        prepared, rows, max_length=recipe.training.max_length, batch_size=batch_size
    )
    return [Reading({GENERAL_LOSS: loss.mean}) for loss in found]


# --------------------------------------------------------------------------- prompts


def _prompt_readings(
    recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> list[Reading]:
    from plop_lora.evaluation.generation import generate

    asked = [_asked(prepared, row) for row in rows]
    answers = generate(
        prepared,
        asked,
        batch_size=batch_size,
        max_new_tokens=recipe.gate.safety.max_new_tokens,
    )
    nonsense = _are_nonsense(prepared, asked, [answer.text for answer in answers], batch_size)
    return [
        Reading(
            answer_values(row["prompt"], answer.text, ended=answer.ended, nonsense=improbable),
            answer.text,
        )
        for row, answer, improbable in zip(rows, answers, nonsense, strict=True)
    ]


def _are_nonsense(
    prepared: Prepared, prompts: Sequence[object], answers: Sequence[str], batch_size: int
) -> list[bool]:
    """Say of each answer whether the base finds it less likely than tokens drawn at random.

    That is a loss above log V nats per token, where V is the number of tokens of the vocabulary.
    Rules on the text alone take a salad of well-formed words for an answer.
    """
    from plop_lora.evaluation.losses import row_losses

    written = [place for place, answer in enumerate(answers) if answer.strip()]
    rows = [
        {"prompt": prompts[place], "completion": _said(prompts[place], answers[place])}
        for place in written
    ]
    with adapters_off(prepared.model):
        losses = row_losses(prepared, rows, max_length=_WHOLE, batch_size=batch_size)
    limit = math.log(prepared.model.get_input_embeddings().num_embeddings)
    improbable = {place for place, loss in zip(written, losses, strict=True) if loss > limit}
    return [place in improbable for place in range(len(answers))]


_WHOLE = 1 << 20
"""A length that cuts no row: prompts that are too long have been refused."""


def _said(asked: object, answer: str) -> object:
    return answer if isinstance(asked, str) else [{"role": "assistant", "content": answer}]


@contextlib.contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Let the base answer, also inside a block in which it does so already."""
    if not model.get_model_status().enabled:
        yield
        return
    with model.disable_adapter():
        yield


def _asked(prepared: Prepared, row: Row) -> object:
    """Return a prompt as a chat where the tokenizer has a template, which the answers expect."""
    if not prepared.tokenizer.chat_template:
        return row["prompt"]
    return [{"role": "user", "content": row["prompt"]}]


def answer_values(
    prompt: str, answer: str, *, ended: bool, nonsense: bool = False
) -> dict[str, float | None]:
    """Return what the rules say of an answer.

    Args:
        prompt: The prompt.
        answer: The answer, without the prompt.
        ended: Whether the answer came to its end within the tokens that it was allowed.
        nonsense: Whether the base finds the answer less likely than random tokens.

    >>> answer_values("How are you?", "I can't help with that.", ended=True)
    {'degenerate': 0.0, 'without an end': 0.0, 'refused': 1.0}
    """
    found = set(faults(prompt, answer, cut_off=not ended))
    return {
        DEGENERATE: float(nonsense or bool(found & _ABOUT_TEXT)),
        UNENDED: float(Fault.CUT_OFF in found),
        REFUSED: float(refuses(answer)),
    }


def _fit_the_context(recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row]) -> None:
    """Refuse prompts of which the model would not see the beginning.

    Raises:
        DataError: A prompt and its answer are longer than the positions of the model.
    """
    from plop_lora.evaluation.chats import prompt_tokens
    from plop_lora.evaluation.generation import prompt_tokens_left

    left = prompt_tokens_left(prepared.model, recipe.gate.safety.max_new_tokens)
    for row in rows:
        tokens = len(prompt_tokens(_asked(prepared, row), prepared.tokenizer, {}))
        if tokens > left:
            raise DataError(
                f"The prompt {row['id']!r} has {tokens} tokens, and the model has room for {left} "
                f"before an answer of {recipe.gate.safety.max_new_tokens}. Shorten the prompt, or "
                "give a smaller gate.safety.max_new_tokens."
            )


def _prompt_settings(recipe: GateRecipe, task: Task) -> Mapping[str, object]:
    return {"max_new_tokens": recipe.gate.safety.max_new_tokens}


# --------------------------------------------------------------------------- the registry


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name=TASK,
            items=_task_items,
            measure=_task_readings,
            repeats=_repeats_task,
            settings=_task_settings,
        ),
        Suite(
            name=GENERAL,
            items=general_items,
            measure=_general_readings,
            repeats=lambda recipe, task: True,
        ),
        Suite(
            name=PROMPTS,
            items=prompt_items,
            measure=_prompt_readings,
            repeats=lambda recipe, task: True,
            settings=_prompt_settings,
            demands=_fit_the_context,
        ),
    )
}
"""Name → row."""
