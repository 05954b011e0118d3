"""How the rows of a data set are read for a task: by template, by column, as a chat. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plop_lora.data.fields import beside, question_text
from plop_lora.data.reading import Row
from plop_lora.data.texts import UnreadableError, fill_template, messages_of, template_fields
from plop_lora.errors import DataError, nearest

Read = Callable[[Row], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Reader:
    """How the rows of a data set become rows of a task.

    Attributes:
        read: Function that makes a row of the task; it raises `DataError` if a value is missing.
        fields: Names of the columns that are read, the answer or the class last.
        whole: Whether a row is a complete chat or text, of which nothing can be left out.
        guessed: Whether the columns of question and answer were recognised by name, so that
            further columns of text may belong to the question.
    """

    read: Read
    fields: tuple[str, ...]
    whole: bool = False
    guessed: bool = False


def filled(template: str, fields: Sequence[str], source: str) -> Callable[[Row], str]:
    """Return a function that fills a template from a row.

    Raises:
        DataError: The template names a column that does not exist.
        UsageError: The template cannot be parsed.
    """
    names = template_fields(template)
    for name in names:
        known_field(name, fields, source)

    def fill(row: Row) -> str:
        text = fill_template(template, row)
        if text is None:
            raise DataError(f"one of the fields {', '.join(names)} is missing or empty")
        return text

    return fill


def one_of(
    name: str | None, usual: Sequence[str], fields: Sequence[str], source: str, option: str
) -> str:
    """Return the named field, or the first of the usual names that exists."""
    if name is not None:
        return known_field(name, fields, source)
    for candidate in usual:
        if candidate in fields:
            return candidate
    raise DataError(
        f"Cannot tell the field for {option} in {source}, which has: {', '.join(fields)}. Name "
        f"one with {option}."
    )


def known_field(name: str, fields: Sequence[str], source: str) -> str:
    """Return a column that the user has named.

    Raises:
        DataError: There is no such column. The text lists the columns.
    """
    if name not in fields:
        raise DataError(
            f"{source} has no field {name!r}.{nearest(name, fields)} It has: {', '.join(fields)}."
        )
    return name


def text_in(row: Row, name: str) -> str:
    """Return the text of a column.

    Raises:
        DataError: It is missing, empty or not text.
    """
    value = row.get(name)
    if value is not None and not isinstance(value, str | int | float):
        raise DataError(f"{name!r} holds a {type(value).__name__}, not text")
    text = "" if value is None else str(value)
    if not text.strip():
        raise DataError(f"{name!r} is missing or empty")
    return text


def messages_in(value: list[object], name: str) -> list[dict[str, object]]:
    """Return the messages of a chat.

    Raises:
        DataError: The value is not a list of messages.
    """
    try:
        return messages_of(value, name)
    except UnreadableError as error:
        raise DataError(str(error)) from error


def asked_with(
    question: str, fields: Sequence[str]
) -> tuple[Callable[[Row], str], tuple[str, ...]]:
    """Return a function that reads a question with its context, and the columns it reads."""
    about = beside(question, fields)

    def read(row: Row) -> str:
        own = text_in(row, question)
        given = [text_in(row, name) for name in about if str(row.get(name) or "").strip()]
        return question_text(question, own, given)

    return read, (question, *about)
