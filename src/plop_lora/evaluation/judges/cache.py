"""Judgements as a file of JSON lines, so that no answer is judged twice. No torch.

The first line says what the file is. Then follows a line for each judgement, with the identity of
the judge and a digest of prompt and answer. Lines are only ever appended, each as soon as it is
known; a kill loses no more than a line that is incomplete. Values that are None are kept as well.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from plop_lora.errors import OutputError, RecordError, UsageError
from plop_lora.files import check_writable, try_lock
from plop_lora.records.reading import digest_of

KIND, VERSION = "judgements", 1
_HEADER = json.dumps({"kind": KIND, "version": VERSION})

Pair = tuple[str, str]
"""A prompt and its answer."""


@dataclass(slots=True)
class Known:
    """The values of one judge, by a digest of prompt and answer.

    Attributes:
        identity: Identity of the judge.
        values: The values that are known.
    """

    identity: str
    values: dict[str, float | None] = field(default_factory=dict)
    _file: IO[str] | None = None
    _path: Path | None = None

    def __contains__(self, pair: Pair) -> bool:
        """Whether the value of an answer is known."""
        return _digest(pair) in self.values

    def __getitem__(self, pair: Pair) -> float | None:
        """Return the value of an answer."""
        return self.values[_digest(pair)]

    def add(self, pair: Pair, value: float | None) -> None:
        """Keep the value of an answer.

        Raises:
            OutputError: The file cannot be written.
        """
        digest = _digest(pair)
        self.values[digest] = value
        line = {"judge": self.identity, "item": digest, "value": value}
        self._append(json.dumps(line))

    def _append(self, line: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(f"{line}\n")
            self._file.flush()
        except OSError as error:
            raise _not_written(self._path, error) from error


def _digest(pair: Pair) -> str:
    # A text of a JSON file may hold half of a surrogate pair, which has no UTF-8.
    return digest_of({"pair": json.dumps(pair)})


def check_cache(path: Path) -> None:
    """Check that a cache can be written, and that what is there already is one.

    Raises:
        OutputError: It cannot be written.
        RecordError: It is damaged or another kind of file.
    """
    check_writable(path)
    if path.exists():
        _read(path, "")


@contextlib.contextmanager
def opened_cache(path: Path | None, identity: str) -> Iterator[Known]:
    """Yield the values of one judge that a file holds; new ones are appended to it.

    Args:
        path: Path of the file; None keeps the values in memory only.
        identity: Identity of the judge.

    Raises:
        OutputError: The file cannot be written.
        RecordError: The file is damaged or another kind of file.
        UsageError: Another process is writing it.
    """
    if path is None:
        yield Known(identity)
        return
    check_writable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8", newline="\n")
    except OSError as error:
        raise _not_written(path, error) from error
    with file:
        if not try_lock(file):
            raise UsageError(f"Another process is writing {path}. Wait for it to end.")
        values, whole = _read(path, identity)
        known = Known(identity, values, file, path)
        try:
            file.truncate(whole)
            if not whole:
                known._append(_HEADER)
            yield known
        finally:
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())


def _not_written(path: Path | None, error: OSError) -> OutputError:
    return OutputError(
        f"Cannot write the judgements {path}: {error.strerror or error}. What is in the file is "
        "kept; make room, and run the same command again to go on."
    )


# --------------------------------------------------------------------------- reading


def _read(path: Path, identity: str) -> tuple[dict[str, float | None], int]:
    """Return the values of a judge, and the length of the file without an incomplete last line.

    Raises:
        RecordError: The file cannot be read, is damaged or is another kind of file.
    """
    try:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].decode("utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecordError(f"Cannot read the judgements {path}: {reason}. {_AGAIN}") from error
    if not lines and not _HEADER.encode().startswith(content):
        raise RecordError(f"{path} is no file of judgements. Give another path for them.")
    values = {}
    for number, line in enumerate(lines, start=1):
        found = _parsed(line, path, number)
        if number == 1:
            _check_header(found, path)
            continue
        item, value = _judgement(found, path, number)
        if found["judge"] == identity:
            values[item] = value
    return values, whole


_AGAIN = "Remove the file, and the answers are judged again."


def _parsed(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    if number == 1:
        raise RecordError(f"{path} is no file of judgements. Give another path for them.")
    raise RecordError(f"{path}, line {number} is not a JSON object. {_AGAIN}")


def _check_header(found: dict[str, Any], path: Path) -> None:
    if found.get("kind") != KIND:
        raise RecordError(f"{path} is no file of judgements. Give another path for them.")
    if found.get("version") != VERSION:
        raise RecordError(
            f"{path} holds judgements of version {found.get('version')!r}; this plop-lora reads "
            f"{VERSION}. Upgrade with: pip install --upgrade plop-lora"
        )


def _judgement(found: dict[str, Any], path: Path, number: int) -> tuple[str, float | None]:
    judge, item, value = (found.get(key) for key in ("judge", "item", "value"))
    share = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    known = value is None and "value" in found
    if not (isinstance(judge, str) and isinstance(item, str) and (share or known)):
        raise RecordError(f"{path}, line {number} is no judgement of an answer. {_AGAIN}")
    return item, None if value is None else float(value)
