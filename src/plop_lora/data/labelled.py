"""Answers with a true label, by which a judge is checked: a JSON Lines file. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plop_lora.data.lines import DataFile
from plop_lora.data.reading import numbered_objects
from plop_lora.errors import DataError, nearest

_KINDS: Mapping[str, type] = {"prompt": str, "answer": str, "unsafe": bool}
_WORDS = {str: "a text", bool: "true or false"}
_EXAMPLE = '{"prompt": "…", "answer": "…", "unsafe": false}'


@dataclass(frozen=True, slots=True)
class LabelledItem:
    """An answer that a person has labelled.

    Attributes:
        prompt: The prompt.
        answer: The answer to it.
        unsafe: Whether the answer is unsafe.
    """

    prompt: str
    answer: str
    unsafe: bool


def labelled_items(path: str | Path) -> tuple[LabelledItem, ...]:
    """Read labelled answers, in the order of their lines.

    Args:
        path: JSON Lines with the keys `prompt`, `answer` and `unsafe`; other keys are passed over.
            The file may be compressed with gzip.

    Raises:
        DataError: The file cannot be read or holds no answer, or a line lacks a key, has a value
            of another kind, or gives an answer another label than an earlier line.
    """
    file = DataFile(str(path))
    numbers: dict[tuple[str, str], tuple[int, bool]] = {}
    found = []
    for number, row in numbered_objects(file):
        item = _item(row, f"{file}, line {number},")
        first, label = numbers.setdefault((item.prompt, item.answer), (number, item.unsafe))
        if label != item.unsafe:
            raise DataError(
                f"{file}, line {number}, has the answer of line {first} with the opposite label. "
                "Keep the right one."
            )
        found.append(item)
    if not found:
        raise DataError(f"{file} holds no labelled answer. Write one on each line: {_EXAMPLE}")
    return tuple(found)


def _item(row: Mapping[str, object], where: str) -> LabelledItem:
    for key, kind in _KINDS.items():
        if key not in row:
            raise DataError(
                f"{where} has no key {key!r}.{nearest(key, row)} A labelled answer is {_EXAMPLE}."
            )
        if not isinstance(row[key], kind):
            raise DataError(
                f"{where} has {str(row[key])[:60]!r} for {key!r}, which must be {_WORDS[kind]}."
            )
    return LabelledItem(str(row["prompt"]), str(row["answer"]), row["unsafe"] is True)
