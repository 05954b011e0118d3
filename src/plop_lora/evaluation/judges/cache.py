"""Judgements as a file of JSON lines, so that no answer is judged twice. No torch.

The first line says what the file is. Then follows a line for each judgement, with the identity of
the judge and a digest of prompt and answer. Lines are only ever appended, each as soon as it is
known; a kill loses no more than a line that is incomplete. Values that are None are kept as well.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plop_lora.errors import RecordError
from plop_lora.files import check_writable
from plop_lora.journal import Journal, complete_lines, opened_journal
from plop_lora.records.reading import digest_of

KIND, VERSION, WHAT = "judgements", 1, "judgements"
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
    _journal: Journal | None = None

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
        if self._journal is not None:
            line = {"judge": self.identity, "item": digest, "value": value}
            self._journal.append([json.dumps(line)], sync=False)


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
        _values(complete_lines(path, WHAT, _HEADER)[0], path, "")


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
    with opened_journal(path, WHAT, _HEADER) as journal:
        yield Known(identity, _values(journal.lines, path, identity), journal)


# --------------------------------------------------------------------------- reading


def _values(lines: Sequence[str], path: Path, identity: str) -> dict[str, float | None]:
    """Return the values of a judge.

    Raises:
        RecordError: The file is damaged or of another kind.
    """
    values = {}
    for number, line in enumerate(lines, start=1):
        found = _parsed(line, path, number)
        if number == 1:
            _check_header(found, path)
            continue
        item, value = _judgement(found, path, number)
        if found["judge"] == identity:
            values[item] = value
    return values


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
