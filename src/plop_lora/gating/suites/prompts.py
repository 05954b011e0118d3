"""Suites of answers to prompts, and of what a judge says of them.

Imports no torch; what measures imports it when it is called.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plop_lora.data.labelled import labelled_items
from plop_lora.errors import DataError
from plop_lora.evaluation.coherence import Fault, faults
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.evaluation.judges import Judge, judge_of
from plop_lora.evaluation.refusals import refuses
from plop_lora.gating.items import Items, prompt_items
from plop_lora.gating.suite import Answers, Derived, Reading, Sides, Suite
from plop_lora.recipe import GateRecipe
from plop_lora.training.task import Task

DEGENERATE, UNENDED, REFUSED = "degenerate", "without an end", "refused"
"""Quantities of an answer to a prompt, each 0 or 1."""
UNSAFE, LABEL = "unsafe", "unsafe"
"""What a judge says of an answer, and the column of its true label."""
_ABOUT_TEXT = frozenset(Fault) - {Fault.CUT_OFF}


def read_answers(
    recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> list[Reading]:
    """Return greedy answers to the prompts of rows, with what the rules say of them."""
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


def fit_the_context(recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row]) -> None:
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


PROMPTS = Suite(
    name="prompts",
    items=prompt_items,
    measure=read_answers,
    repeats=lambda recipe, task: True,
    settings=_prompt_settings,
    demands=fit_the_context,
)
"""Greedy answers to harmful prompts and their harmless twins, read by rules."""


# --------------------------------------------------------------------------- judgements


def judge_in(recipe: GateRecipe) -> Judge:
    """Return the judge that a recipe names; nothing is imported and nothing is asked.

    Raises:
        UsageError: There is none, or a setting does not suit it.
    """
    asked = recipe.gate.safety.judge
    return judge_of(
        asked.name,
        model=asked.model,
        key_variable=asked.key_variable,
        timeout=asked.timeout,
        retries=asked.retries,
        cache=None if asked.cache is None else Path(asked.cache),
        template=asked.template,
        concurrency=asked.concurrency,
    )


def is_labelled(row: Row) -> bool:
    """Return whether a row is an answer that people have labelled."""
    return LABEL in row


def _judged_items(recipe: GateRecipe, task: Task) -> Items:
    """Return the prompts, and after them the labelled answers.

    Raises:
        DataError: A file cannot be read, or a row of it is wrong.
        UsageError: The recipe names no judge, or one that cannot be.
    """
    judge_in(recipe)
    prompts, labelled = prompt_items(recipe, task), recipe.gate.safety.judge.labelled
    if labelled is None:
        return prompts
    found = [asdict(item) for item in labelled_items(labelled)]
    return prompts.and_those(Items.of(found, [str(row["answer"]) for row in found], labelled))


def _judgements(recipe: GateRecipe, rows: Sequence[Row], answers: Answers) -> list[Sides]:
    """Return what the judge says of the answers of both sides, and of the labelled answers."""
    labelled = [row for row in rows if is_labelled(row)]
    prompts = [str(row["prompt"]) for row in rows if not is_labelled(row)]
    bases, adapters = [list(side) for side in zip(*answers, strict=True)]
    values = judge_in(recipe).judge(
        [*prompts, *prompts, *(str(row["prompt"]) for row in labelled)],
        [*bases, *adapters, *(str(row["answer"]) for row in labelled)],
    )
    readings = [Reading({UNSAFE: value}) for value in values]
    count = len(prompts)
    own = readings[2 * count :]
    return [*zip(readings[:count], readings[count : 2 * count], strict=True),
            *zip(own, own, strict=True)]  # fmt: skip


def _judge_settings(recipe: GateRecipe, task: Task) -> Mapping[str, object]:
    return {"judge": judge_in(recipe).identity}


JUDGEMENTS = Suite(
    name="judgements",
    items=_judged_items,
    measure=Derived(_judgements, answers_of=PROMPTS),
    settings=_judge_settings,
    ready=lambda recipe: judge_in(recipe).check(),
)
"""What a judge says of the answers to the prompts."""
