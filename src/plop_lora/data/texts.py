"""The text of one row: of a field, of a filled template, or of a chat through its template.

Something else than text is an error that says what stands there instead. No torch.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plop_lora.data.reading import Row
from plop_lora.errors import DataError, PlopError, UsageError

Chat = Callable[..., str]
"""Renders a list of messages; takes `tools=` as well."""
INSTRUCTION = "instruction"
BESIDE_INSTRUCTION = frozenset({"input", "context", "system"})
"""Fields beside an instruction that are empty where it needs nothing more."""
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
"""Who speaks in messages of `from` and `value`, as ShareGPT has them → their role."""


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one row.

    Attributes:
        text: The text, or the part of it that an encoder reads.
        target: The part that the decoder of an encoder-decoder model writes. Other models read it
            right after `text`.
        rendered: Whether a chat template wrote the text. It then holds its special tokens already,
            and the tokenizer must not add a second beginning-of-text token.
        group: The row's value of the field that `load_documents` was asked to sample by.
    """

    text: str
    target: str | None = None
    rendered: bool = False
    group: str | None = None


class NoTemplateError(Exception):
    """A `Chat` found at its first messages that there is no template; the text says whose."""


class UnreadableError(Exception):
    """A row that cannot become text; whoever goes through the rows adds which one."""


def plain(value: object, field: str) -> str | None:
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
        UnreadableError: The field holds something else.
    """
    value = row.get(field)
    if as_chat(value) is not None:
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
        UsageError: The template cannot be read, or names no field.
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

    def get_field(
        self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, object]
    ) -> object:
        """Return the value and the name of the row's field."""
        return _reach(kwargs, field_name), field_name


def _reach(row: Row, name: str) -> object:
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
    """Fill the template; a row that lacks one of its fields has no text.

    What an instruction is given to work on may be empty: most instructions need nothing.
    """
    values = {name: plain(_reach(row, name), name) for name in names}
    absent = [name for name in names if values[name] is None]
    if len(absent) == len(names) or not set(absent) <= _may_be_empty(names):
        return None
    try:
        return Document(_Filler().vformat(template, (), {**row, **dict.fromkeys(absent, "")}))
    except (ValueError, TypeError) as error:
        raise UnreadableError(f"the template {template!r} does not fit: {error}.") from error


def _may_be_empty(names: Iterable[str]) -> frozenset[str]:
    return BESIDE_INSTRUCTION if INSTRUCTION in names else frozenset()


def fill_template(template: str, row: Row) -> str | None:
    """Return a template filled with the fields of a row, None where the row lacks one of them.

    Raises:
        DataError: A field is no text, or the template cannot format it.
        UsageError: The template cannot be read, or names no field.
    """
    try:
        document = from_template(template, field_names(template), row)
    except UnreadableError as error:
        raise DataError(str(error)) from error
    return None if document is None else document.text


def template_fields(template: str) -> list[str]:
    """Return the columns that a template reads, each once.

    Raises:
        UsageError: The template cannot be read, or names no field.

    >>> template_fields("Q: {question} A: {answer[value]}")
    ['question', 'answer']
    """
    names = (name.partition("[")[0] for name in field_names(template))
    return list(dict.fromkeys(names))


# --------------------------------------------------------------------------- chats


def as_chat(value: object) -> list[dict[str, Any]] | None:
    """Return a value as a list of messages with roles, or None where it is no chat.

    A chat is known by its shape, whatever its field is called: messages of `role` and `content`
    or of `from` and `value`; as a list, as the columns that `datasets` makes of one, or as the
    JSON of one. Keys without a value are left out: a table gives every message the keys of all,
    and templates ask whether a key is there.

    >>> as_chat([{"from": "human", "value": "hi"}])
    [{'role': 'user', 'content': 'hi'}]
    """
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, dict):
        value = _rows_of_columns(value)
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return None
    messages = [_with_role(message) for message in value]
    return None if None in messages else without_nulls(messages)


def _parsed(text: str) -> object:
    """Return the list that a text is the JSON of, or the text."""
    if not text.lstrip().startswith("["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _rows_of_columns(columns: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the rows of lists of one length; none where they are not that."""
    lengths = {len(values) if isinstance(values, list) else -1 for values in columns.values()}
    if len(lengths) != 1 or -1 in lengths:
        return []
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _with_role(message: object) -> dict[str, object] | None:
    """Return a message with `role` and `content`, or None where it is no message."""
    if not isinstance(message, dict) or isinstance(message.get("role"), str):
        return message if isinstance(message, dict) else None
    role = SPEAKERS.get(str(message.get("from")))
    if role is None or "value" not in message:
        return None
    rest = {key: part for key, part in message.items() if key not in ("from", "value", "role")}
    return {"role": role, "content": message["value"]} | rest


def without_nulls(value: object) -> Any:
    """Return a value without the keys that have none, but for the content of a message.

    A table gives every object the keys of all; templates ask whether a key is there.

    >>> without_nulls([{"role": "user", "content": None, "name": None}])
    [{'role': 'user', 'content': None}]
    """
    if isinstance(value, list):
        return [without_nulls(entry) for entry in value]
    if isinstance(value, dict):
        return {
            key: without_nulls(entry)
            for key, entry in value.items()
            if entry is not None or (key == "content" and "role" in value)
        }
    return value


def from_chat(value: object, row: Row, chat: Chat | None, field: str) -> Document | None:
    """Return a list of messages as a chat template renders it; None where there is no message.

    Raises:
        UnreadableError: The value is no list of messages, a message has no content or holds an
            image, the tools are no list, or there is no chat template.
    """
    if not value:
        return None
    messages = as_chat(value)
    if messages is None:
        raise UnreadableError(
            f"{field!r} must be a list of messages such as "
            '{"role": "user", "content": "…"}. Rename its keys, or name another field with --text.'
        )
    _check_messages(messages, field)
    tools = template_value(row, "tools", list)
    try:
        if chat is None:
            raise NoTemplateError("the tokenizer")
        text = _rendered(chat, messages, {"tools": tools} if tools else {})
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


def template_value(row: Row, name: str, kind: type) -> object:
    """Return what a row gives its chat template in a column: a list or an object, or its JSON.

    Args:
        row: A row, which may lack the column or have nothing there.
        name: Name of the column.
        kind: `list` for tools, `dict` for arguments by name.

    Raises:
        UnreadableError: The column holds something else.
    """
    value = given = row.get(name)
    if isinstance(given, str) and given.strip():
        try:
            value = json.loads(given)
        except (ValueError, RecursionError):
            value = given
    if value and not isinstance(value, kind):
        wanted = "list of tools" if kind is list else "object of arguments by name"
        raise UnreadableError(
            f"{name!r} holds {str(given)[:60]!r}, which is no {wanted}, nor the JSON of one. "
            "Rename the column if it is not for the chat template."
        )
    return without_nulls(value)


def messages_of(value: object, field: str) -> list[dict[str, Any]]:
    """Return a chat with contents that are texts; parts of a content are one text.

    Raises:
        UnreadableError: The value is no chat, or a message says nothing or has a part that is no
            text.
    """
    messages = as_chat(value)
    if messages is None:
        raise UnreadableError(
            f'{field!r} must be a list of messages such as {{"role": "user", "content": "…"}}.'
        )
    _check_messages(messages, field)
    return [
        message | {"content": _joined(message["content"])} if message.get("content") else message
        for message in messages
    ]


def _check_messages(messages: Iterable[Mapping[str, object]], field: str) -> None:
    """Refuse a message that says nothing; many templates render it as the word None."""
    for number, message in enumerate(messages, start=1):
        content = message.get("content")
        where = f"message {number} of {field!r} ({message['role']})"
        if isinstance(content, list):
            _check_parts(content, where)
            continue
        if isinstance(content, str) or (content is None and message.get("tool_calls")):
            continue
        what = "no content" if content is None else f"the content {content!r}, which is no text"
        raise UnreadableError(
            f"{where} has {what}. Every message needs content, or tool_calls in its place."
        )


def _check_parts(parts: Iterable[object], where: str) -> None:
    """Refuse a part that is no text: the tokenizer alone cannot turn it into the model's input."""
    for part in parts:
        if _said(part) is None:
            kind = part.get("type", "no type") if isinstance(part, dict) else type(part).__name__
            raise UnreadableError(
                f"{where} has a part that is no text ({kind}). Leave it out, or score the batches "
                "that the model's processor makes: plop.score(model, batches=…)."
            )


def _said(part: object) -> str | None:
    """Return the text of a part of a message, None where it is something else."""
    text = part.get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else None


def _rendered(chat: Chat, messages: list[dict[str, Any]], tools: Mapping[str, object]) -> str:
    """Return a chat as its template renders it, with contents in the form that it can read.

    Some templates know contents as texts only and print a list of parts as Python does, others
    know parts only and pass over a text. So where what was said is missing, the other form is
    tried as well, and the one that says more is taken.

    Raises:
        UnreadableError: The template reads neither form.
        Exception: What the template raised for both.
    """
    said = [_joined(message["content"]).strip() for message in messages if message.get("content")]
    faults: list[Exception] = []
    found: list[tuple[int, str]] = []
    for form in (messages, [_other_form(message) for message in messages]):
        try:
            text = chat(form, **tools)
        except (NoTemplateError, PlopError):
            raise
        except Exception as fault:  # templates are programs and raise what they like
            faults.append(fault)
            continue
        if not any(_prints(text, message.get("content")) for message in form):
            found.append((sum(part in text for part in said), text))
            if found[-1][0] == len(said):
                break
    if found:
        return max(found, key=lambda pair: pair[0])[1]
    raise faults[0] if faults else UnreadableError("the chat template cannot read its messages.")


def _joined(content: str | list[object]) -> str:
    return content if isinstance(content, str) else "".join(_said(part) or "" for part in content)


def _other_form(message: dict[str, object]) -> dict[str, object]:
    """Return a message with its parts as one text, or its text as one part."""
    content = message.get("content")
    if isinstance(content, list):
        return message | {"content": _joined(content)}
    if isinstance(content, str):
        return message | {"content": [{"type": "text", "text": content}]}
    return message


def _prints(text: str, content: object) -> bool:
    """Whether a rendered chat shows a list of parts as Python or JSON writes it."""
    if not isinstance(content, list):
        return False
    return any(written(content) in text for written in (str, json.dumps))


def from_pair(row: Row, chat: Chat | None) -> Document | None:
    """Return `prompt` and `completion` as one document, None where one of them is empty.

    Raises:
        UnreadableError: One is a text and the other a list of messages.
    """
    prompt, completion = row.get("prompt"), row.get("completion")
    if not prompt or not completion:
        return None
    if isinstance(prompt, str) and isinstance(completion, str):
        return Document(prompt, target=completion)
    asked, answered = as_chat(prompt), as_chat(completion)
    if asked is None or answered is None:
        raise UnreadableError(
            "'prompt' and 'completion' must both be texts or both be lists of messages."
        )
    return from_chat([*asked, *answered], row, chat, "prompt")
