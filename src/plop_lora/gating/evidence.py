"""What both sides showed on every item, as JSON lines, from which a gate resumes. No torch.

The first line says what was measured and how; its digest is what evidence is known by. Then follows
a line for each item of each suite, in the order of measuring. Lines are only ever appended, a batch
at a time, so a gate that is killed loses no more than the batch that it was at. A later line of an
item takes the place of an earlier one.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plop_lora.errors import RecordError, UsageError
from plop_lora.gating.suite import Reading
from plop_lora.journal import Journal, complete_lines, opened_journal
from plop_lora.records.reading import digest_of

KIND, VERSION, WHAT = "gate-evidence", 2, "evidence"


@dataclass(frozen=True, slots=True)
class Line:
    """The readings of one item of one suite; `again` is the base measured a second time."""

    suite: str
    index: int
    item: str
    base: Reading
    adapter: Reading
    again: Reading | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything on which the measured values depend: adapter, base, items and settings."""

    adapter: str
    base: str
    weights: str | None
    suites: Mapping[str, str]
    settings: Mapping[str, object]

    @property
    def digest(self) -> str:
        """The SHA-256 of all of it."""
        return digest_of(asdict(self))

    def header(self) -> str:
        """Return the first line of the file."""
        head = {"kind": KIND, "version": VERSION, "digest": self.digest}
        return json.dumps(head | asdict(self), ensure_ascii=False)


@dataclass(slots=True)
class Evidence:
    """The lines that are known, by suite and index of the item; kept in a file where one is given.

    Attributes:
        measurement: What they are values of.
        lines: What is known.
    """

    measurement: Measurement
    lines: dict[tuple[str, int], Line] = field(default_factory=dict)
    _journal: Journal | None = None

    def add(self, lines: Sequence[Line]) -> None:
        """Keep the readings of a batch.

        Raises:
            OutputError: The file cannot be written.
        """
        self.lines |= {(line.suite, line.index): line for line in lines}
        if self._journal is not None:
            self._journal.append([json.dumps(asdict(line)) for line in lines])

    def of(self, suite: str, count: int) -> list[Line] | None:
        """Return the lines of all items of a suite, or None while some are missing."""
        found = [self.lines.get((suite, index)) for index in range(count)]
        known = [line for line in found if line is not None]
        return known if len(known) == count else None

    def count(self, suite: str) -> int:
        """Return the number of items of a suite that are known."""
        return sum(name == suite for name, _ in self.lines)


# --------------------------------------------------------------------------- reading


def read_evidence(
    path: Path, measurement: Measurement, items: Mapping[str, Sequence[str]]
) -> Evidence:
    """Read a file of evidence; a last line that was cut is left out.

    Args:
        path: Path of the file.
        measurement: What its values have to be of.
        items: Hashes of the items by suite.

    Raises:
        RecordError: The file cannot be read, is damaged, or is no evidence.
        UsageError: It is evidence of another adapter, base, data or settings.
    """
    lines, _ = complete_lines(path, WHAT, measurement.header())
    if not lines:
        raise RecordError(f"{path} holds no evidence: its first line is incomplete. {_AGAIN}")
    return _evidence(lines, path, measurement, items)


def _evidence(
    lines: Sequence[str], path: Path, measurement: Measurement, items: Mapping[str, Sequence[str]]
) -> Evidence:
    """Return what the lines of a file say, header first."""
    _check_header(_parsed(lines[0], path, 1), measurement, path)
    found = Evidence(measurement)
    for number, line in enumerate(lines[1:], start=2):
        one = _line(_parsed(line, path, number), path, number)
        hashes = items.get(one.suite, ())
        if not 0 <= one.index < len(hashes) or hashes[one.index] != one.item:
            raise RecordError(f"{path}, line {number} is of no item of this gate. {_AGAIN}")
        found.lines[one.suite, one.index] = one
    return found


def read_answers(
    path: Path, digest: str, wanted: Collection[tuple[str, int]]
) -> dict[tuple[str, int], Line]:
    """Return the lines of some items that both sides have answered, by suite and index.

    Args:
        path: Path of a file of evidence.
        digest: Digest of the measurement that it has to be of.
        wanted: Suite and index of the items.

    Raises:
        RecordError: The file cannot be read, is damaged, or is no evidence.
        UsageError: It is evidence of another measurement.
    """
    lines, _ = complete_lines(path, WHAT, "")
    head = _parsed(lines[0], path, 1) if lines else {}
    _check_form(head, path)
    if head.get("digest") != digest:
        raise UsageError(
            f"{path} is evidence of another measurement than the verdict. Put the evidence that "
            "plop gate wrote with this verdict there."
        )
    found = (
        _line(_parsed(line, path, number), path, number)
        for number, line in enumerate(lines[1:], start=2)
    )
    return {
        (one.suite, one.index): one
        for one in found
        if (one.suite, one.index) in wanted and None not in (one.base.answer, one.adapter.answer)
    }


_AGAIN = "Remove the file and run plop gate again to measure."


def _parsed(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{path}, line {number} is not JSON: {error}. {_AGAIN}") from error
    if not isinstance(found, dict):
        raise RecordError(f"{path}, line {number} is not a JSON object. {_AGAIN}")
    return found


def _line(found: Mapping[str, Any], path: Path, number: int) -> Line:
    sides = {side: _reading(found.get(side)) for side in _SIDES}
    damaged = any(sides[side] is None and found.get(side) is not None for side in _SIDES)
    try:
        line = Line(**{**found, **sides})
    except TypeError:
        damaged = True
    if damaged or not isinstance(line.index, int) or not (line.base and line.adapter):
        raise RecordError(f"{path}, line {number} has no finite values of an item. {_AGAIN}")
    return line


_SIDES = ("base", "adapter", "again")


def _reading(found: object) -> Reading | None:
    """Return one side of a line; None where it is absent or no reading."""
    if not isinstance(found, dict) or not isinstance(values := found.get("values"), dict):
        return None
    answer = found.get("answer")
    known = [value for value in values.values() if value is not None]
    sound = all(isinstance(value, int | float) and math.isfinite(value) for value in known)
    return Reading(values, answer) if sound and isinstance(answer, str | None) else None


_PARTS = {
    "adapter": "another adapter",
    "base": "another base model",
    "weights": "other weights of the base model",
    "suites": "other checks or other data",
    "settings": "other settings of the evaluation",
}


def _check_form(found: Mapping[str, Any], path: Path) -> None:
    """Refuse a first line that is not that of evidence of this version."""
    if found.get("kind") != KIND:
        raise RecordError(f"{path} is no evidence of plop gate (kind {found.get('kind')!r}).")
    if found.get("version") != VERSION:
        raise RecordError(
            f"{path} is evidence of version {found.get('version')!r}; this plop-lora reads "
            f"{VERSION}. {_AGAIN}"
        )


def _check_header(found: Mapping[str, Any], wanted: Measurement, path: Path) -> None:
    _check_form(found, path)
    if found.get("digest") == wanted.digest:
        return
    ours = json.loads(wanted.header())
    differing = [words for part, words in _PARTS.items() if found.get(part) != ours[part]]
    raise UsageError(
        f"{path} is evidence of {' and of '.join(differing) or 'another measurement'}, so nothing "
        "follows from it here. Give the evidence of this adapter and recipe, or another path."
    )


# --------------------------------------------------------------------------- writing


@contextlib.contextmanager
def kept_evidence(
    path: Path | None, measurement: Measurement, items: Mapping[str, Sequence[str]]
) -> Iterator[Evidence]:
    """Yield evidence that is kept in a file, with what an interrupted gate left in it.

    Args:
        path: Path of the file; None keeps the values in memory only.
        measurement: What is measured.
        items: Hashes of the items by suite.

    Raises:
        OutputError: The file cannot be written.
        RecordError: There is a file that is damaged or no evidence.
        UsageError: There is a file with evidence of something else, or another gate writes it.
    """
    if path is None:
        yield Evidence(measurement)
        return
    with opened_journal(path, WHAT, measurement.header()) as journal:
        known = journal.lines
        evidence = _evidence(known, path, measurement, items) if known else Evidence(measurement)
        evidence._journal = journal
        yield evidence
