"""The body of a request: which model and user it names, and the same bytes with another model.

Only the value of `model` is replaced, in place; every other byte stays as the client sent it.

Imports the standard library and the errors.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from plop_lora.errors import DataError

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder(parse_int=str.encode, parse_float=str.encode, parse_constant=str.encode)
"""Numbers are only skipped, so their digits are kept as bytes: one of 10,000 is no error, and
none is taken for a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBody:
    """The body of a request, a JSON object.

    Attributes:
        text: The body as text.
        encoding: Its encoding, UTF-8 but for clients that send another one.
        models: Values of the keys `model`; a hostile body has several.
        user: Value of the key `user` if it is a text, else None.
        spans: Start and end of each value of `model` in the text.
        after_brace: Where the members of the object begin.
        empty: Whether the object has no members.
    """

    text: str
    encoding: str
    models: tuple[Any, ...]
    user: str | None
    spans: tuple[tuple[int, int], ...]
    after_brace: int
    empty: bool

    def with_model(self, name: str) -> bytes:
        """Return the body with another model; every other character is as it was.

        A body without a model gets one as its first member.
        """
        value = json.dumps(name)
        if not self.spans:
            member = f'"model":{value}{"" if self.empty else ","}'
            text = f"{self.text[: self.after_brace]}{member}{self.text[self.after_brace :]}"
            return text.encode(self.encoding, "surrogatepass")
        parts: list[str] = []
        position = 0
        for start, end in self.spans:
            parts += (self.text[position:start], value)
            position = end
        parts.append(self.text[position:])
        return "".join(parts).encode(self.encoding, "surrogatepass")


def read_body(raw: bytes) -> RequestBody:
    """Read the body of a request.

    Raises:
        DataError: It is no JSON object. The text holds nothing of the body.
    """
    encoding = json.detect_encoding(raw)
    try:
        text = raw.decode(encoding, "surrogatepass")
        members, after_brace = _members(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"The body of a request is no JSON object: {type(error).__name__}."
        ) from None
    models = [member for member in members if member[0] == "model"]
    users = [member[1] for member in members if member[0] == "user"]
    return RequestBody(
        text=text,
        encoding=encoding,
        models=tuple(value for _, value, _, _ in models),
        user=users[-1] if users and isinstance(users[-1], str) else None,
        spans=tuple((start, end) for _, _, start, end in models),
        after_brace=after_brace,
        empty=not members,
    )


def _members(text: str) -> tuple[list[tuple[str, Any, int, int]], int]:
    """Return key, value, start and end of each member of an object, and where they begin."""
    start = _skip(text, 0)
    position = after_brace = _expect(text, start, "{")
    found: list[tuple[str, Any, int, int]] = []
    position = _skip(text, position)
    if text[position : position + 1] == "}":
        _check_end(text, position + 1)
        return found, after_brace
    while True:
        if text[position : position + 1] != '"':
            raise ValueError
        key, position = _DECODER.raw_decode(text, position)
        begin = _skip(text, _expect(text, _skip(text, position), ":"))
        value, position = _DECODER.raw_decode(text, begin)
        found.append((key, value, begin, position))
        position = _skip(text, position)
        if text[position : position + 1] == "}":
            _check_end(text, position + 1)
            return found, after_brace
        position = _skip(text, _expect(text, position, ","))


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return position if found is None else found.end()


def _expect(text: str, position: int, character: str) -> int:
    if text[position : position + 1] != character:
        raise ValueError
    return position + 1


def _check_end(text: str, position: int) -> None:
    if _skip(text, position) != len(text):
        raise ValueError
