"""Reading and checking the JSON of a record: its texts, its numbers and its digest.

A record may come from anybody. Its names go into files, command lines and terminals, so a
character that acts instead of being read is refused here, with the field named; so are NaN and
infinity, and content that is not what was written.

Imports neither pydantic nor torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plop_lora.errors import RecordError, nearest
from plop_lora.escapes import acting, escaped

DIGEST = "digest"
"""Key of the digest in the document; older documents have none."""

FREE_TEXT = ("model.config", "provenance.settings", "groups.group", "labels", "cause", "causes",
             "last_log", "recipe")  # fmt: skip
"""Fields with text that may hold line breaks: templates, values of the user's data, messages of
other libraries. They are shown, and escaped then; no export writes them into a file."""


def read_document(path: Path, maker: str) -> object:
    """Read a JSON file without checking its content.

    Args:
        path: Path of the file, in UTF-8 or UTF-16, with or without a byte order mark.
        maker: Command that makes such a record, for the text of errors.

    Raises:
        RecordError: The file does not exist or is not complete JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        folder = path.parent
        beside = [entry.name for entry in folder.glob("*.json")] if folder.is_dir() else []
        raise RecordError(
            f"No such file: {path}.{nearest(path.name, beside)} Make one with: {maker}."
        ) from error
    except IsADirectoryError as error:
        raise RecordError(
            f"{path} is a folder, but a record is a file. Make one with: {maker}."
        ) from error
    except OSError as error:
        raise RecordError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        if not path.stat().st_size:
            raise RecordError(f"{path} is empty. Make one with: {maker}.") from error
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "no text"
        raise RecordError(
            f"{path} is not complete JSON ({where}). It was truncated or is another kind of "
            f"file. Make one with: {maker}."
        ) from error


def check_digest(document: Mapping[str, object], source: str) -> None:
    """Compare a document with its digest; a document without a digest passes.

    White space does not matter, but the order of the keys does.

    Raises:
        RecordError: The digest does not match the content.
    """
    if DIGEST not in document:
        return
    content = {key: value for key, value in document.items() if key != DIGEST}
    if digest_of(content) != document[DIGEST]:
        raise RecordError(
            f"{source} was changed or damaged after it was written: its digest does not match its "
            "content. Make it again with the command that wrote it. If the change was intended, "
            f"delete the key {DIGEST!r}."
        )


def digest_of(content: Mapping[str, object]) -> str:
    """Return the SHA-256 of plain values as one JSON document."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_values(document: Mapping[str, object], source: str) -> None:
    """Reject texts with control characters, and numbers that are NaN or infinite.

    Raises:
        RecordError: There is such a value. The text names its field.
    """
    for path, value in _leaves(document):
        if isinstance(value, str):
            found = acting(value)
            if found is not None and not _is_free(path):
                raise RecordError(
                    f"{source} is not safe to use: {_place(path)} holds the control character "
                    f"{found!r} in {value[:60]!r}. Names and notes of a record are plain text on "
                    "one line. Get the file again from a source that you trust, or make it again."
                )
        elif not _is_finite(value):
            raise RecordError(
                f"{source} is a damaged record: {_place(path)} is {value}, and must be a finite "
                "number. Make it again with the command that wrote it."
            )


def _leaves(document: Mapping[str, object]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (path, value) of every text and number, and keys as texts at their own path.

    A long list of finite numbers, which makes up most of a record of scores, is skipped at once.
    """
    left: list[tuple[tuple[str, ...], object]] = [((), document)]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            for key, entry in value.items():
                yield (*path, key), key
                left.append(((*path, key), entry))
        elif isinstance(value, list):
            if not (set(map(type, value)) <= {int, float} and all(map(_is_finite, value))):
                left += [((*path, str(index)), entry) for index, entry in enumerate(value)]
        elif isinstance(value, str | float):
            yield path, value


def _is_finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def _is_free(path: tuple[str, ...]) -> bool:
    names = [part for part in path if not part.isdigit()]
    dotted = f".{'.'.join(names)}."
    return any(f".{free}." in dotted for free in FREE_TEXT)


def _place(path: tuple[str, ...]) -> str:
    return escaped(".".join(path)) or "top level"
