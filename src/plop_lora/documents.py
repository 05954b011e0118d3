"""From rows to documents: the text of a row, found by field, by template or by recognition.

Chats go through the tokenizer's chat template. A row without text is skipped and counted; a row
whose field is something else than text is an error that names the row. No torch.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plop_lora.errors import DataError, PlopError, UsageError, nearest
from plop_lora.reading import Row, read_rows
from plop_lora.sampling import draw

NO_GROUP = "(none)"

Chat = Callable[..., str]
"""Renders a list of messages; takes `tools=` as well."""


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one row; `target` is the decoder's part for encoder-decoder models.

    `rendered` marks the output of a chat template, which holds its special tokens already: the
    tokenizer must not put a second beginning-of-text in front. `group` is the row's value of the
    field that `load_documents` was asked to sample by.
    """

    text: str
    target: str | None = None
    rendered: bool = False
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Documents:
    """Sampled documents, with what was passed over on the way."""

    source: str
    items: tuple[Document, ...]
    rows: int
    skipped: int


def load_documents(
    source: str | Path,
    *,
    text: str | None = None,
    template: str | None = None,
    chat: Chat | None = None,
    group: str | None = None,
    samples: int = 200,
    seed: int = 0,
) -> Documents:
    r"""Read a data set and draw a sample of its documents.

    Args:
        source: a local file (.jsonl .json .csv .parquet .txt) or a hub data set,
            `name`, `name:split` or `name:config:split`.
        text: field that holds the text, or a list of chat messages.
        template: text with fields in braces, `"{question}\n{answer}"`; `{answer[value]}` reaches
            into nested fields, `{{` and `}}` are plain braces.
        chat: renders the messages of a row, usually `tokenizer.apply_chat_template` with
            `tokenize=False`; called with `tools=` where the row has tools.
        group: field by whose values the sample is stratified: each has its share of the
            sample, and a small one at least `sampling.LEAST_OF_GROUP` documents.
        samples: documents to draw without replacement; all of them if there are fewer.
        seed: of the draw.

    Raises:
        DataError: no such data, an empty file, a missing field, a row whose field is no text,
            no row with text at all.
        UsageError: both `text` and `template`, or a template that cannot be read.
    """
    source = str(source)
    if samples < 1:
        raise UsageError(f"--samples {samples} is not possible; give 1 or more.")
    rows = list(read_rows(source))
    if not rows:
        raise DataError(f"{source} holds no rows. Give a file with at least one.")
    read = _reader(rows, source, text, template, chat)
    if group is not None:
        read = _grouped(read, rows, source, group)
    found = [document for document in _each(read, rows, source) if document is not None]
    if not found:
        raise DataError(
            f"No row of {source} has text (rows read: {len(rows)}), so there is nothing to score. "
            "Name another field with --text or --template."
        )
    order = draw([document.group for document in found], samples, seed)
    items = tuple(found[index] for index in order)
    return Documents(source, items, len(rows), len(rows) - len(found))


class _UnreadableError(Exception):
    """A row that cannot become text; `load_documents` adds which one."""


def _each(
    read: Callable[[Row], Document | None], rows: Sequence[Row], source: str
) -> Iterator[Document | None]:
    for number, row in enumerate(rows, start=1):
        try:
            yield read(row)
        except _UnreadableError as error:
            raise DataError(f"{source}, row {number}: {error}") from error


def _reader(
    rows: Sequence[Row], source: str, text: str | None, template: str | None, chat: Chat | None
) -> Callable[[Row], Document | None]:
    """Return what turns a row into a document, or into None where it has no text."""
    fields = list(dict.fromkeys(field for row in rows for field in row))
    if text is not None and template is not None:
        raise UsageError("Give --text or --template, not both.")
    if text is not None:
        _demand([text], fields, source)
        return lambda row: _from_field(row, text, chat)
    if template is not None:
        names = _template_fields(template)
        _demand([name.partition("[")[0] for name in names], fields, source)
        return lambda row: _from_template(template, names, row)
    return _recognise(rows, fields, source, chat)


def _grouped(
    read: Callable[[Row], Document | None], rows: Sequence[Row], source: str, group: str
) -> Callable[[Row], Document | None]:
    """Return a reader that notes the group of each row; rows without a value are one group."""
    _demand([group], list(dict.fromkeys(field for row in rows for field in row)), source)

    def grouped(row: Row) -> Document | None:
        document = read(row)
        if document is None:
            return None
        return dataclasses.replace(document, group=_plain(row.get(group), group) or NO_GROUP)

    return grouped


def _recognise(
    rows: Sequence[Row], fields: list[str], source: str, chat: Chat | None
) -> Callable[[Row], Document | None]:
    if "messages" in fields:
        return lambda row: _from_chat(row.get("messages"), row, chat, "messages")
    if {"prompt", "completion"} <= set(fields):
        return lambda row: _pair(row, chat)
    if "text" in fields:
        return lambda row: _from_field(row, "text", chat)
    columns = [field for field in fields if any(isinstance(row.get(field), str) for row in rows)]
    if len(columns) == 1:
        return lambda row: _from_field(row, columns[0], chat)
    if not columns:
        raise DataError(
            f"No field of {source} holds plain text; it has: {', '.join(fields)}. Reach into one "
            'with --template "{field[key]}"; a list of messages with role and content counts as '
            "text, name it with --text."
        )
    example = "\\n".join(f"{{{field}}}" for field in columns)
    raise DataError(
        f"Cannot tell which field of {source} is the text; it has: {', '.join(fields)}. "
        f'Name one with --text, or join several with --template "{example}".'
    )


def _demand(names: Iterable[str], fields: list[str], source: str) -> None:
    for name in names:
        if name not in fields:
            raise DataError(
                f"{source} has no field {name!r}.{nearest(name, fields)} "
                f"It has: {', '.join(fields)}."
            )


def _plain(value: Any, field: str) -> str | None:
    """Return a value as text, or None where it is missing or blank."""
    if value is None:
        return None
    if isinstance(value, dict | list | tuple | bytes):
        inside = f"{field}[{next(iter(value), 'key') if isinstance(value, dict) else 0}]"
        raise _UnreadableError(
            f"{field!r} holds a {type(value).__name__}, not text. Reach inside it with "
            f'--template "{{{inside}}}", or name another field.'
        )
    text = str(value)
    return text if text.strip() else None


def _from_field(row: Row, field: str, chat: Chat | None) -> Document | None:
    value = row.get(field)
    if is_chat(value):
        return _from_chat(value, row, chat, field)
    text = _plain(value, field)
    return None if text is None else Document(text)


# --------------------------------------------------------------------------- templates


def _template_fields(template: str) -> list[str]:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UsageError(
            f"Cannot read the template {template!r}: {error}. Write fields as {{field}} and plain "
            "braces as {{ and }}."
        ) from error
    if not names or "" in names:
        raise UsageError(f"The template {template!r} names no field; write {{field}}.")
    return names


class _Filler(string.Formatter):
    """Formats a row; `field[key][0]` reaches into it, and a dot is part of a field's name."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the value and the name of the row's field."""
        return _reach(kwargs, field_name), field_name


def _reach(row: Row, name: str) -> Any:
    """Return what stands at `field[key][0]`, or None where a part of it is missing."""
    value: Any = row
    for part in name.replace("]", "").split("["):
        if value is None:
            return None
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            raise _UnreadableError(
                f"there is no {part!r} in {name!r}: it stands in a {type(value).__name__}."
            )
    return value


def _from_template(template: str, names: list[str], row: Row) -> Document | None:
    """Fill the template; a row that lacks one of its fields has no text."""
    if any(_plain(_reach(row, name), name) is None for name in names):
        return None
    try:
        return Document(_Filler().vformat(template, (), row))
    except (ValueError, TypeError) as error:
        raise _UnreadableError(f"the template {template!r} does not fit: {error}.") from error


def fill_template(template: str, row: Row) -> str | None:
    """Return a template filled with the fields of a row, None where the row lacks one of them.

    Raises:
        DataError: a field that is no text, or that the template cannot format.
        UsageError: the template cannot be read, or names no field.
    """
    try:
        document = _from_template(template, _template_fields(template), row)
    except _UnreadableError as error:
        raise DataError(str(error)) from error
    return None if document is None else document.text


def template_fields(template: str) -> list[str]:
    """Return the columns that a template reads, each once.

    Raises:
        UsageError: the template cannot be read, or names no field.

    >>> template_fields("Q: {question} A: {answer[value]}")
    ['question', 'answer']
    """
    names = (name.partition("[")[0] for name in _template_fields(template))
    return list(dict.fromkeys(names))


# --------------------------------------------------------------------------- chats


def is_chat(value: Any) -> bool:
    """Whether a value is a list of chat messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(message, dict) and "role" in message for message in value)
    )


def _from_chat(value: Any, row: Row, chat: Chat | None, field: str) -> Document | None:
    if not value:
        return None
    if not is_chat(value):
        raise _UnreadableError(
            f"{field!r} must be a list of messages such as "
            '{"role": "user", "content": "…"}. Rename its keys, or name another field with --text.'
        )
    if chat is None:
        raise _UnreadableError(
            f"{field!r} holds a chat, but the tokenizer has no chat template. Name another field "
            "with --text, or use a tokenizer with a template."
        )
    # Parquet fills every key that any message has; templates ask whether a key is there.
    messages = [
        {key: part for key, part in message.items() if part is not None or key == "content"}
        for message in value
    ]
    tools = {"tools": row["tools"]} if row.get("tools") else {}
    try:
        text = chat(messages, **tools)
    except PlopError:
        raise
    except Exception as error:  # templates are programs and raise what they like
        raise _UnreadableError(
            f"the chat template refuses {field!r} ({type(error).__name__}: {error})."
        ) from error
    return Document(text, rendered=True) if text.strip() else None


def _pair(row: Row, chat: Chat | None) -> Document | None:
    prompt, completion = row.get("prompt"), row.get("completion")
    if not prompt or not completion:
        return None
    if isinstance(prompt, str) and isinstance(completion, str):
        return Document(prompt, target=completion)
    if isinstance(prompt, str) or isinstance(completion, str):
        raise _UnreadableError(
            "'prompt' and 'completion' must both be texts or both be lists of messages."
        )
    return _from_chat([*prompt, *completion], row, chat, "prompt")
