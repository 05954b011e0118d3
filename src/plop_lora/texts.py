"""The text of one row: of a field, of a filled template, or of a chat through its template.

Something else than text is an error that says what stands there instead. No torch.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plop_lora.errors import DataError, PlopError, UsageError
from plop_lora.reading import Row

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


class NoTemplateError(Exception):
    """A `Chat` found at its first messages that there is no template; the text says whose."""


class UnreadableError(Exception):
    """A row that cannot become text; whoever goes through the rows adds which one."""


def plain(value: Any, field: str) -> str | None:
    """Return a value as text, or None where it is missing or blank."""
    if value is None:
        return None
    if isinstance(value, dict | list | tuple | bytes):
        inside = f"{field}[{next(iter(value), 'key') if isinstance(value, dict) else 0}]"
        raise UnreadableError(
            f"{field!r} holds a {type(value).__name__}, not text. Reach inside it with "
            f'--template "{{{inside}}}", or name another field.'
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise UnreadableError(
            f"{field!r} holds {value}, which stands for nothing in a table. Leave it empty."
        )
    text = str(value)
    return text if text.strip() else None


def from_field(row: Row, field: str, chat: Chat | None) -> Document | None:
    """Return the text or the chat in a field, None where it is missing or blank.

    Raises:
        UnreadableError: the field holds something else.
    """
    value = row.get(field)
    if is_chat(value):
        return from_chat(value, row, chat, field)
    text = plain(value, field)
    if text is not None and not isinstance(value, str):
        raise UnreadableError(
            f"{field!r} holds {value!r}, which is no text. Name another field, or write it into a "
            f'text with --template "… {{{field}}} …".'
        )
    return None if text is None else Document(text)


# --------------------------------------------------------------------------- templates


def field_names(template: str) -> list[str]:
    """Return the fields of a template as they stand in its braces.

    Raises:
        UsageError: it cannot be read, or names no field.
    """
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
            raise UnreadableError(
                f"there is no {part!r} in {name!r}: it stands in a {type(value).__name__}."
            )
    return value


def from_template(template: str, names: list[str], row: Row) -> Document | None:
    """Fill the template; a row that lacks one of its fields has no text."""
    if any(plain(_reach(row, name), name) is None for name in names):
        return None
    try:
        return Document(_Filler().vformat(template, (), row))
    except (ValueError, TypeError) as error:
        raise UnreadableError(f"the template {template!r} does not fit: {error}.") from error


def fill_template(template: str, row: Row) -> str | None:
    """Return a template filled with the fields of a row, None where the row lacks one of them.

    Raises:
        DataError: a field that is no text, or that the template cannot format.
        UsageError: the template cannot be read, or names no field.
    """
    try:
        document = from_template(template, field_names(template), row)
    except UnreadableError as error:
        raise DataError(str(error)) from error
    return None if document is None else document.text


def template_fields(template: str) -> list[str]:
    """Return the columns that a template reads, each once.

    Raises:
        UsageError: the template cannot be read, or names no field.

    >>> template_fields("Q: {question} A: {answer[value]}")
    ['question', 'answer']
    """
    names = (name.partition("[")[0] for name in field_names(template))
    return list(dict.fromkeys(names))


# --------------------------------------------------------------------------- chats


def is_chat(value: Any) -> bool:
    """Whether a value is a list of chat messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(message, dict) and "role" in message for message in value)
    )


def from_chat(value: Any, row: Row, chat: Chat | None, field: str) -> Document | None:
    """Return a list of messages as a chat template renders it; None where there is no message.

    Raises:
        UnreadableError: no messages, one without content, or no template for them.
    """
    if not value:
        return None
    if not is_chat(value):
        raise UnreadableError(
            f"{field!r} must be a list of messages such as "
            '{"role": "user", "content": "…"}. Rename its keys, or name another field with --text.'
        )
    _check_messages(value, field)
    # Parquet fills every key that any message has; templates ask whether a key is there.
    messages = [
        {key: part for key, part in message.items() if part is not None or key == "content"}
        for message in value
    ]
    tools = {"tools": row["tools"]} if row.get("tools") else {}
    try:
        if chat is None:
            raise NoTemplateError("the tokenizer")
        text = chat(messages, **tools)
    except NoTemplateError as error:
        raise UnreadableError(
            f"{field!r} holds a chat, but {error} has no chat template. Name another field with "
            "--text, or use a tokenizer with a template."
        ) from error
    except PlopError:
        raise
    except Exception as error:  # templates are programs and raise what they like
        raise UnreadableError(
            f"the chat template refuses {field!r} ({type(error).__name__}: {error})."
        ) from error
    return Document(text, rendered=True) if text.strip() else None


def _check_messages(messages: Iterable[Mapping[str, Any]], field: str) -> None:
    """Refuse a message that says nothing; many templates render it as the word None."""
    for number, message in enumerate(messages, start=1):
        content = message.get("content")
        if isinstance(content, str | list) or (content is None and message.get("tool_calls")):
            continue
        what = "no content" if content is None else f"the content {content!r}, which is no text"
        raise UnreadableError(
            f"message {number} of {field!r} ({message['role']}) has {what}. Every message needs "
            "content, or tool_calls in its place."
        )


def from_pair(row: Row, chat: Chat | None) -> Document | None:
    """Return `prompt` and `completion` as one document, None where one of them is empty.

    Raises:
        UnreadableError: one is a text and the other a list of messages.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    if not prompt or not completion:
        return None
    if isinstance(prompt, str) and isinstance(completion, str):
        return Document(prompt, target=completion)
    if isinstance(prompt, str) or isinstance(completion, str):
        raise UnreadableError(
            "'prompt' and 'completion' must both be texts or both be lists of messages."
        )
    return from_chat([*prompt, *completion], row, chat, "prompt")
