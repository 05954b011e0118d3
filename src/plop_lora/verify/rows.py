"""Rows of any data set → rows of a task (`training.task.Row`), or an error with the row's number.

Fields are found by template, by name, or by recognition of the usual names; columns that are not
used stay with their row, for reward functions and metrics. No torch.
"""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plop_lora.errors import DataError, UsageError, nearest
from plop_lora.fields import (
    LABELS,
    PAIR,
    PROMPTS,
    TEXTS,
    Form,
    beside,
    of_classes,
    of_training,
    question_text,
)
from plop_lora.reading import read_rows
from plop_lora.recipe import Proof
from plop_lora.records.trial import CLASSIFY, GRPO, SFT
from plop_lora.texts import UnreadableError, fill_template, messages_of, template_fields
from plop_lora.training.task import Row
from plop_lora.verify.shown import check_lost, shown

KEPT_BACK = "-1"
"""The hub's mark of a row whose label is kept back, unless the only other class is 1."""

Read = Callable[[Row], dict[str, Any]]
Reader = tuple[Read, tuple[str, ...]]
"""How a row is read, and the fields that are looked at."""


@dataclass(frozen=True, slots=True, eq=False)
class TaskRows:
    """The rows of a data set in the form of a task, with what there is to say about them.

    `fields` are those that the rows were read by, `shown` notes on what the model is given.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    fields: tuple[str, ...]
    shown: tuple[str, ...] = ()


def read_task_rows(recipe: Proof, source: str) -> TaskRows:
    """Read a data set and turn every row into one of the recipe's task.

    Raises:
        DataError: no such data, no rows, a field that is missing or cannot be told, a row that
            lacks what the task needs.
        UsageError: a template that cannot be read, or half a pair of them.
    """
    rows = list(read_rows(source))
    if not rows:
        raise DataError(f"{source} holds no rows. Give a file with some hundreds.")
    fields = list(dict.fromkeys(field for row in rows for field in row))
    readers = {SFT: _sft_reader, CLASSIFY: _classify_reader, GRPO: _grpo_reader}
    read, used_fields = readers[recipe.task](recipe, fields, source)
    made: list[dict[str, Any]] = []
    foreign: set[str] = set()
    for number, row in enumerate(rows, start=1):
        try:
            used = read(row)
        except DataError as error:
            raise DataError(f"{source}, row {number}: {error}") from error
        kept = _beside(row, recipe.task, foreign)
        made.append(kept | used)
    if recipe.task == CLASSIFY:
        _check_labels([row["label"] for row in made], used_fields[-1], source)
    notes = [
        f"the column {name!r} of {source} is not text, numbers or lists and is left out"
        for name in sorted(foreign)
    ]
    if recipe.prompt is None and recipe.text is None:
        _check_lost(recipe.task, rows, made, used_fields, source)
    told = shown(rows, made, used_fields, recipe.task, source)
    return TaskRows(tuple(made), tuple(notes), used_fields, tuple(told))


def _check_lost(
    task: str, rows: Sequence[Row], made: Sequence[Row], used: tuple[str, ...], source: str
) -> None:
    """Refuse a part of the question that the recognised columns leave out."""
    whole = {"messages", "text"} & set(used) if task == SFT else ()
    if whole:
        return
    guessed = task == CLASSIFY or (task == SFT and used != PAIR)
    try:
        check_lost(rows, [prompt_text(row) for row in made], used, task, guessed=guessed)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


RESERVED = {
    SFT: ("prompt", "completion", "messages", "text"),
    CLASSIFY: ("prompt", "completion", "messages", "text", "label"),
    GRPO: ("prompt",),
}
"""Columns by whose presence a trainer tells what a row is: only those that are meant stay."""


def _beside(row: Row, task: str, foreign: set[str]) -> dict[str, Any]:
    """Return the columns that stay with a row as they are; note what JSON cannot hold."""
    kept = {}
    for name, value in row.items():
        if name in RESERVED[task]:
            continue
        try:
            kept[name] = json.loads(json.dumps(value, default=_as_text))
        except TypeError:
            foreign.add(name)
    return kept


def _as_text(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time | decimal.Decimal):
        return str(value)
    raise TypeError


# --------------------------------------------------------------------------- sft


def _sft_reader(recipe: Proof, fields: Sequence[str], source: str) -> Reader:
    if (recipe.prompt is None) != (recipe.completion is None):
        raise UsageError("Give --prompt and --completion together: one is what the other answers.")
    if recipe.prompt is not None and recipe.completion is not None:
        prompt = _template(recipe.prompt, fields, source)
        completion = _template(recipe.completion, fields, source)
        names = (*template_fields(recipe.prompt), *template_fields(recipe.completion))
        return lambda row: {"prompt": prompt(row), "completion": completion(row)}, names
    if recipe.text is not None:
        return _text_or_chat(_known(recipe.text, fields, source)), (recipe.text,)
    found = of_training(fields)
    if found is not None and found.form is Form.pair:
        return _prompt_and_completion, found.names
    if found is not None and found.form is Form.alone:
        return _text_or_chat(*found.names), found.names
    if found is not None:
        asked, _ = _asked_with(found.names[0], fields)
        return _question_and_answer(asked, found.names[-1]), found.names
    raise DataError(
        f"Cannot tell what to train on in {source}; it has: {', '.join(fields)}. Give --prompt "
        'and --completion, such as --prompt "{question}\\n" --completion "{answer}", or --text.'
    )


def _text_or_chat(name: str) -> Read:
    def read(row: Row) -> dict[str, Any]:
        value = row.get(name)
        if not isinstance(value, list):
            return {"text": _text(row, name)}
        messages = _messages(value, name)
        if messages[-1]["role"] != "assistant":
            raise DataError(f"the last message of {name!r} is not an assistant's: nothing to learn")
        return {"messages": messages}

    return read


def _messages(value: list[Any], name: str) -> list[dict[str, Any]]:
    try:
        return messages_of(value, name)
    except UnreadableError as error:
        raise DataError(str(error)) from error


def _prompt_and_completion(row: Row) -> dict[str, Any]:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        answer = _messages(completion, "completion")
        if answer[-1]["role"] != "assistant":
            raise DataError("the last message of 'completion' is not an assistant's")
        return {"prompt": _messages(prompt, "prompt"), "completion": answer}
    if isinstance(prompt, list) or isinstance(completion, list):
        raise DataError("'prompt' and 'completion' must both be texts or both be lists of messages")
    return {"prompt": _text(row, "prompt"), "completion": _text(row, "completion")}


def _question_and_answer(asked: Callable[[Row], str], answer: str) -> Read:
    return lambda row: {"prompt": f"{asked(row)}\n", "completion": _text(row, answer)}


def _asked_with(
    question: str, fields: Sequence[str]
) -> tuple[Callable[[Row], str], tuple[str, ...]]:
    """Return how a question is read with what it is about, and the columns, its own first."""
    about = beside(question, fields)

    def read(row: Row) -> str:
        own = _text(row, question)
        given = [_text(row, name) for name in about if str(row.get(name) or "").strip()]
        return question_text(question, own, given)

    return read, (question, *about)


# --------------------------------------------------------------------------- classify


def _classify_reader(recipe: Proof, fields: Sequence[str], source: str) -> Reader:
    if recipe.completion is not None:
        raise UsageError("--completion is not for classify; its answer is the field --label.")
    label = _one(recipe.label, LABELS, fields, source, "--label")
    text, names = _classify_text(recipe, fields, source, label)

    def read(row: Row) -> dict[str, Any]:
        return {"text": text(row), "label": _label(row, label)}

    return read, (*names, label)


def _classify_text(
    recipe: Proof, fields: Sequence[str], source: str, label: str
) -> tuple[Callable[[Row], str], tuple[str, ...]]:
    if recipe.prompt is not None:
        names = tuple(template_fields(recipe.prompt))
        return _template(recipe.prompt, fields, source), names
    others = [name for name in fields if name != label]
    pair = of_classes(others) if recipe.text is None else None
    if pair is not None and len(pair.names) > 1:
        first, second = pair.names
        return _template(f"{{{first}}}\n{{{second}}}", fields, source), pair.names
    name = _one(recipe.text, TEXTS, others, source, "--text")
    return lambda row: _text(row, name), (name,)


def _label(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float | list | dict):
        raise DataError(f"the label {name!r} is {value!r}, which is no class")
    label = "" if value is None else str(value).strip()
    if not label:
        raise DataError(f"there is no label in {name!r} ({value!r})")
    return label


def _check_labels(labels: Sequence[str], name: str, source: str) -> None:
    """Refuse -1 where it may stand for a label that is kept back; beside 1 alone it is a class."""
    if KEPT_BACK not in labels or set(labels) == {KEPT_BACK, "1"}:
        return
    raise DataError(
        f"{source}, row {labels.index(KEPT_BACK) + 1}: there is no label in {name!r} ('-1'), as in "
        f"{labels.count(KEPT_BACK)} of {len(labels)} rows: -1 marks a label that is kept back. "
        "Leave these rows out; where -1 is a class, write it as a word, such as negative."
    )


# --------------------------------------------------------------------------- grpo


def _grpo_reader(recipe: Proof, fields: Sequence[str], source: str) -> Reader:
    if recipe.completion is not None:
        raise UsageError("--completion is not for grpo: the model writes it and rewards judge it.")
    if recipe.prompt is not None:
        prompt = _template(recipe.prompt, fields, source)
        return lambda row: {"prompt": prompt(row)}, tuple(template_fields(recipe.prompt))
    name = _one(recipe.text, PROMPTS, fields, source, "--text")
    asked, names = _asked_with(name, fields if recipe.text is None else ())

    def read(row: Row) -> dict[str, Any]:
        value = row.get(name)
        return {"prompt": _messages(value, name) if isinstance(value, list) else asked(row)}

    return read, names


# --------------------------------------------------------------------------- fields


def _template(template: str, fields: Sequence[str], source: str) -> Callable[[Row], str]:
    names = template_fields(template)
    for name in names:
        _known(name, fields, source)

    def fill(row: Row) -> str:
        text = fill_template(template, row)
        if text is None:
            raise DataError(f"one of the fields {', '.join(names)} is missing or empty")
        return text

    return fill


def _one(
    name: str | None, usual: Sequence[str], fields: Sequence[str], source: str, option: str
) -> str:
    """Return the field that is named, or the first of the usual names that there is."""
    if name is not None:
        return _known(name, fields, source)
    for candidate in usual:
        if candidate in fields:
            return candidate
    raise DataError(
        f"Cannot tell the field for {option} in {source}; it has: {', '.join(fields)}. Name one "
        f"with {option}."
    )


def _known(name: str, fields: Sequence[str], source: str) -> str:
    if name not in fields:
        raise DataError(
            f"{source} has no field {name!r}.{nearest(name, fields)} It has: {', '.join(fields)}."
        )
    return name


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str | int | float):
        raise DataError(f"{name!r} holds a {type(value).__name__}, not text")
    text = "" if value is None else str(value)
    if not text.strip():
        raise DataError(f"{name!r} is missing or empty")
    return text


# --------------------------------------------------------------------------- what a row asks


def prompt_text(row: Row) -> str:
    """Return what a prepared row asks, as one text; of a chat all but the last answer."""
    if "prompt" in row:
        return _flat(row["prompt"])
    if "messages" in row:
        return _flat(_asked(row["messages"]))
    return str(row["text"])


def answer_text(row: Row) -> str:
    """Return what a prepared row answers, as one text; empty where it is part of the prompt."""
    if "prompt" not in row and "messages" in row:
        return _flat(row["messages"][len(_asked(row["messages"])) :])
    return _flat(row.get("completion", row.get("label", "")))


def _asked(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    last = messages[-1]["role"] == "assistant"
    return messages[:-1] if last else messages


def _flat(value: Any) -> str:
    return "\n".join(_contents(value)) if isinstance(value, list) else str(value)


def _contents(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for message in messages:
        content = message.get("content")
        yield content if isinstance(content, str) else json.dumps(content, default=str)
