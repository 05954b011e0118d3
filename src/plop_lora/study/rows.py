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
from plop_lora.reading import read_rows
from plop_lora.recipe import DataRecipe
from plop_lora.records.trial import CLASSIFY, GRPO, SFT
from plop_lora.study.shown import check_lost, shown
from plop_lora.texts import UnreadableError, fill_template, messages_of, template_fields
from plop_lora.training.task import Row

PAIRS = (
    ("prompt", "completion"), ("question", "answer"), ("instruction", "output"),
    ("instruction", "response"),
)  # fmt: skip
"""Names of prompt and answer; all but the first pair get a line break between them."""
BESIDE = {"instruction": ("input", "context"), "question": ("context", "passage")}
"""What a question is about, in a column of its own; it may be empty. Passages come first."""
TEXT_PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"),
    ("question", "sentence"), ("question", "passage"), ("title", "content"), ("title", "text"),
)  # fmt: skip
TEXTS = ("text", "sentence", "content", "review", "question")
LABELS = ("label", "labels", "class", "category")
PROMPTS = ("prompt", "question", "problem", "instruction")
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


def read_task_rows(data: DataRecipe, source: str) -> TaskRows:
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
    read, used_fields = readers[data.task](data, fields, source)
    made: list[dict[str, Any]] = []
    foreign: set[str] = set()
    for number, row in enumerate(rows, start=1):
        try:
            used = read(row)
        except DataError as error:
            raise DataError(f"{source}, row {number}: {error}") from error
        kept = _beside(row, data.task, foreign)
        made.append(kept | used)
    if data.task == CLASSIFY:
        _check_labels([row["label"] for row in made], used_fields[-1], source)
    notes = [
        f"the column {name!r} of {source} is not text, numbers or lists and is left out"
        for name in sorted(foreign)
    ]
    if data.prompt is None and data.text is None:
        _check_lost(data.task, rows, made, used_fields, source)
    told = shown(rows, made, used_fields, data.task, source)
    return TaskRows(tuple(made), tuple(notes), used_fields, tuple(told))


def _check_lost(
    task: str, rows: Sequence[Row], made: Sequence[Row], used: tuple[str, ...], source: str
) -> None:
    """Refuse a part of the question that the recognised columns leave out."""
    whole = {"messages", "text"} & set(used) if task == SFT else ()
    if whole:
        return
    guessed = task == CLASSIFY or (task == SFT and used != PAIRS[0])
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


def _sft_reader(data: DataRecipe, fields: Sequence[str], source: str) -> Reader:
    if (data.prompt is None) != (data.completion is None):
        raise UsageError("Give --prompt and --completion together: one is what the other answers.")
    if data.prompt is not None and data.completion is not None:
        prompt = _template(data.prompt, fields, source)
        completion = _template(data.completion, fields, source)
        names = (*template_fields(data.prompt), *template_fields(data.completion))
        return lambda row: {"prompt": prompt(row), "completion": completion(row)}, names
    if data.text is not None:
        return _text_or_chat(_known(data.text, fields, source)), (data.text,)
    if {"prompt", "completion"} <= set(fields):
        return _prompt_and_completion, PAIRS[0]
    for name in ("messages", "conversations", "text"):
        if name in fields:
            return _text_or_chat(name), (name,)
    for question, answer in PAIRS[1:]:
        if {question, answer} <= set(fields):
            asked, names = _asked_with(question, fields)
            return _question_and_answer(asked, answer), (*names, answer)
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
    beside = [name for name in BESIDE.get(question, ()) if name in fields]

    def read(row: Row) -> str:
        own = _text(row, question)
        given = [_text(row, name) for name in beside if str(row.get(name) or "").strip()]
        return "\n".join([*given, own] if question == "question" else [own, *given])

    return read, (question, *beside)


# --------------------------------------------------------------------------- classify


def _classify_reader(data: DataRecipe, fields: Sequence[str], source: str) -> Reader:
    if data.completion is not None:
        raise UsageError("--completion is not for classify; its answer is the field --label.")
    label = _one(data.label, LABELS, fields, source, "--label")
    text, names = _classify_text(data, fields, source, label)

    def read(row: Row) -> dict[str, Any]:
        return {"text": text(row), "label": _label(row, label)}

    return read, (*names, label)


def _classify_text(
    data: DataRecipe, fields: Sequence[str], source: str, label: str
) -> tuple[Callable[[Row], str], tuple[str, ...]]:
    if data.prompt is not None:
        names = tuple(template_fields(data.prompt))
        return _template(data.prompt, fields, source), names
    if data.text is None:
        for first, second in TEXT_PAIRS:
            if {first, second} <= set(fields):
                return _template(f"{{{first}}}\n{{{second}}}", fields, source), (first, second)
    others = [name for name in fields if name != label]
    name = _one(data.text, TEXTS, others, source, "--text")
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


def _grpo_reader(data: DataRecipe, fields: Sequence[str], source: str) -> Reader:
    if data.completion is not None:
        raise UsageError("--completion is not for grpo: the model writes it and rewards judge it.")
    if data.prompt is not None:
        prompt = _template(data.prompt, fields, source)
        return lambda row: {"prompt": prompt(row)}, tuple(template_fields(data.prompt))
    name = _one(data.text, PROMPTS, fields, source, "--text")
    asked, names = _asked_with(name, fields if data.text is None else ())

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
