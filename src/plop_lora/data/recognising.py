"""Which fields of a data set hold its text, and the function that reads a row as a document.

The fields are those that the user names, or else those of the usual names (`fields.py`), a chat by
its shape, or the only field with text. No torch.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from plop_lora.data.fields import (
    MESSAGES,
    Columns,
    Form,
    answered_document,
    classified_document,
    of_scoring,
)
from plop_lora.data.reading import Row
from plop_lora.data.texts import (
    Chat,
    Document,
    as_chat,
    field_names,
    from_chat,
    from_field,
    from_pair,
    from_template,
)
from plop_lora.errors import DataError, UsageError, nearest


@dataclass(frozen=True, slots=True)
class Fields:
    """The number of rows, and what each field holds that occurs in any of them."""

    rows: int
    kinds: dict[str, Kind]

    @property
    def names(self) -> list[str]:
        """The names of all fields, in the order in which they first occur."""
        return list(self.kinds)

    def of(self, kind: Kind) -> list[str]:
        """Return the fields of a kind."""
        return [name for name, own in self.kinds.items() if own is kind]


class Kind(enum.IntEnum):
    """What a field holds; where rows differ, the field has the largest kind of them."""

    other = 0
    nested = 1
    text = 2
    chat = 3


@dataclass(frozen=True, slots=True)
class Reader:
    """The function that turns a row into a document, or into None where it has no text.

    `field` is that of `Documents`. `guessed` says that it was taken only because no other field
    holds text, and `columns` are those that were recognised by their names.
    """

    read: Callable[[Row], Document | None]
    field: str
    guessed: bool = False
    columns: Columns | None = None


def fields_of(rows: Iterable[Row]) -> Fields:
    """Return the number of rows and the kind of every field that occurs in any of them."""
    kinds: dict[str, Kind] = {}
    count = 0
    for row in rows:
        count += 1
        for name, value in row.items():
            known = kinds.setdefault(name, Kind.other)
            if known < Kind.chat:
                kinds[name] = max(known, _kind_of(value))
    return Fields(count, kinds)


def _kind_of(value: object) -> Kind:
    if as_chat(value) is not None:
        return Kind.chat
    if isinstance(value, str):
        return Kind.text
    return Kind.nested if isinstance(value, dict | list | tuple) else Kind.other


def reader_of(
    fields: Fields,
    source: str,
    text: str | None,
    template: str | None,
    chat: Chat | None,
    *,
    option: str = "--template",
) -> Reader:
    """Return what turns a row into a document.

    Args:
        fields: Fields of the rows.
        source: The user's name of the data, for errors.
        text: Field that the user names.
        template: Template that the user gives in its place.
        chat: Function that renders the messages of a row.
        option: Option that takes a template, which errors name.

    Raises:
        DataError: There is no such field, no field can be the text, or several can.
        UsageError: Both are given, or the template cannot be read.
    """
    if text is not None and template is not None:
        raise UsageError(f"Give --text or {option}, not both.")
    if text is not None:
        demand_fields([text], fields.names, source)
        return Reader(lambda row: from_field(row, text, chat), text)
    if template is not None:
        names = field_names(template)
        demand_fields([name.partition("[")[0] for name in names], fields.names, source)
        return Reader(lambda row: from_template(template, names, row), template)
    return _recognise(fields, source, chat, option)


def _recognise(fields: Fields, source: str, chat: Chat | None, option: str) -> Reader:
    """Find the text of a row by the names that are usual, by the shape of a chat, or by itself.

    Raises:
        DataError: No field can be the text, or several can.
    """
    names, columns, chats = fields.names, fields.of(Kind.text), fields.of(Kind.chat)
    found = of_scoring(names)
    if found is not None:
        return _by_names(found, chats, chat)
    if len(chats) == 1:
        talk = chats[0]
        return Reader(lambda row: from_chat(row.get(talk), row, chat, talk), talk)
    if len(columns) == 1 and not chats and not fields.of(Kind.nested):
        return Reader(lambda row: from_field(row, columns[0], chat), columns[0], guessed=True)
    raise DataError(_cannot_tell(fields, source, option))


def _by_names(columns: Columns, chats: Collection[str], chat: Chat | None) -> Reader:
    """Return what reads columns that are known by their names."""
    first = columns.names[0]
    field = ", ".join(columns.names)
    if columns.form is Form.pair:
        return Reader(lambda row: from_pair(row, chat), field)
    if columns.form is Form.answered:
        return Reader(lambda row: answered_document(row, columns), field, columns=columns)
    if columns.form is Form.texts:
        return Reader(lambda row: classified_document(row, columns), field, columns=columns)
    if first == MESSAGES or first in chats:
        return Reader(lambda row: from_chat(row.get(first), row, chat, first), first)
    return Reader(lambda row: from_field(row, first, chat), first)


def _cannot_tell(fields: Fields, source: str, option: str) -> str:
    names, columns, chats = fields.names, fields.of(Kind.text), fields.of(Kind.chat)
    if len(chats) > 1:
        return (
            f"{source} holds several chats: {', '.join(chats)}. Name the one to score with --text."
        )
    if not columns:
        return (
            f"No field of {source} holds plain text; it has: {', '.join(names)}. Reach into one "
            f'with {option} "{{field[key]}}"; a list of messages with role and content counts as '
            "text, name it with --text."
        )
    if len(columns) == 1:
        nested = ", ".join(fields.of(Kind.nested))
        return (
            f"Cannot tell which field of {source} is the text: {columns[0]!r} holds strings, but "
            f"beside it stand lists or dictionaries ({nested}). If it is the text, say so: "
            f'--text {columns[0]}; or reach into another with {option} "{{field[key]}}".'
        )
    example = "\\n".join(f"{{{field}}}" for field in columns)
    return (
        f"Cannot tell which field of {source} is the text; it has: {', '.join(names)}. "
        f'Name one with --text, or join several with {option} "{example}".'
    )


def demand_fields(names: Iterable[str], fields: list[str], source: str) -> None:
    """Check that a data set has some fields.

    Raises:
        DataError: It lacks one. The text lists those that it has.
    """
    for name in names:
        if name not in fields:
            raise DataError(
                f"{source} has no field {name!r}.{nearest(name, fields)} "
                f"It has: {', '.join(fields)}."
            )
