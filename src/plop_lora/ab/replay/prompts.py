"""The file of logged prompts. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plop_lora.data.lines import DataFile
from plop_lora.data.reading import numbered_objects
from plop_lora.errors import DataError
from plop_lora.evaluation.judged import Row, prompt_text
from plop_lora.records.reading import digest_of

_ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class ReplayPrompt:
    """One logged prompt.

    Attributes:
        id: Its name, by default the number of its line.
        unit: Whose prompt it is, such as an account; by default one of its own.
        asked: A text to continue, or the messages of a chat without its last answer.
        row: The row as it stands in the file, which metrics of the user's get.
    """

    id: str
    unit: str
    asked: str | Sequence[Mapping[str, Any]]
    row: Row

    @property
    def text(self) -> str:
        """The prompt as one text."""
        return self.asked if isinstance(self.asked, str) else prompt_text({"messages": self.asked})


@dataclass(frozen=True, slots=True)
class ReplayPrompts:
    """The prompts of a file.

    Attributes:
        source: Name of the file.
        prompts: The prompts, in the order of the file.
        answers_left_out: Number of chats whose last answer is not part of the prompt.
    """

    source: str
    prompts: tuple[ReplayPrompt, ...]
    answers_left_out: int

    @property
    def digest(self) -> str:
        """The SHA-256 of what is asked, in its order."""
        return digest_of({"asked": [json.dumps([one.unit, one.asked]) for one in self.prompts]})

    @property
    def units(self) -> int:
        """The number of units."""
        return len({one.unit for one in self.prompts})


def read_replay_prompts(path: Path) -> ReplayPrompts:
    """Read prompts from JSON Lines: rows with `messages` or `prompt`, and `id` and `unit` if known.

    Raises:
        DataError: The file cannot be read or holds no row, or a row is wrong; its line is named.
    """
    file = DataFile(str(path))
    seen: dict[str, int] = {}
    found, left_out = [], 0
    for number, row in numbered_objects(file):
        where = f"{file}, line {number},"
        prompt = _prompt(row, number, where)
        if prompt.id in seen:
            raise DataError(f"{where} has the id {prompt.id!r} of line {seen[prompt.id]}.")
        seen[prompt.id] = number
        left_out += not isinstance(prompt.asked, str) and len(prompt.asked) < len(row["messages"])
        found.append(prompt)
    if not found:
        raise DataError(f'{file} holds no prompts. Give rows such as {{"prompt": "…"}}.')
    return ReplayPrompts(str(file), tuple(found), left_out)


def _prompt(row: Row, number: int, where: str) -> ReplayPrompt:
    _check_utf8(row, where)
    asked = _asked(row, where)
    id = _name(row, "id", where) or f"line {number}"
    return ReplayPrompt(id, _name(row, "unit", where) or f"line {number}", asked, row)


def _check_utf8(row: Row, where: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half of a surrogate pair, which no text can hold. Leave it out."
        ) from error


def _name(row: Row, field: str, where: str) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{where} has the {field} {value!r}; give a text or a whole number.")
    return str(value)


def _asked(row: Row, where: str) -> str | list[Mapping[str, Any]]:
    prompt, messages = row.get("prompt"), row.get("messages")
    if (prompt is None) == (messages is None):
        raise DataError(
            f"{where} must have either a prompt, which is a text, or messages, which are a chat."
        )
    if messages is None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise DataError(f"{where} has a prompt that is no text, or an empty one.")
        return prompt
    if not isinstance(messages, list):
        raise DataError(f"{where} has messages that are no list.")
    chat = list(_checked(messages, where))
    while chat and chat[-1]["role"] == _ASSISTANT:
        chat.pop()
    if not chat:
        raise DataError(f"{where} has no message but answers, so nothing is asked.")
    return chat


def _checked(messages: list[Any], where: str) -> Iterator[Mapping[str, Any]]:
    for place, message in enumerate(messages, start=1):
        is_message = isinstance(message, dict) and isinstance(message.get("role"), str)
        if not is_message or not isinstance(message.get("content"), str | list):
            raise DataError(
                f"{where} has a message {place} that is no object with a role and a content."
            )
        yield message
