"""The answers of both sides to the items that went worst, read from the evidence of a gate.

Answers may hold what is not to be passed on, so that a report shows them only when it is asked to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from plop_lora.errors import RecordError
from plop_lora.records import GateVerdict, GateWalk, Record, WorstItem

Answers = Mapping[tuple[str, str, int], tuple[str, str]]
"""Digest of the measurement, suite and index of an item → the answers of base and adapter."""


def read_answers(found: Sequence[tuple[Path, Record]]) -> Answers:
    """Read the answers to the worst items of all verdicts, from the evidence beside each.

    A record may come from anybody, so that the path in it is not followed: the evidence has the
    name that the record says, in the folder of the record.

    Args:
        found: Records with the files that they stand in.

    Raises:
        RecordError: The evidence of a verdict is not there, is damaged, or lacks an item.
        UsageError: It is the evidence of another verdict.
    """
    answers: dict[tuple[str, str, int], tuple[str, str]] = {}
    for path, verdict in _verdicts(found):
        items = [item for check in verdict.checks for item in check.worst_items]
        if items and verdict.evidence is not None:
            answers |= _answers_of(verdict, items, path.parent / _file_name(verdict.evidence))
    return answers


def _verdicts(found: Sequence[tuple[Path, Record]]) -> Iterator[tuple[Path, GateVerdict]]:
    for path, record in found:
        if isinstance(record, GateVerdict):
            yield path, record
        elif isinstance(record, GateWalk):
            yield from ((path, one.verdict) for one in record.gated)


def _file_name(path: str) -> str:
    """Return the last part of a path, which may be one of another system."""
    return re.split(r"[/\\]", path)[-1]


def _answers_of(
    verdict: GateVerdict, items: Sequence[WorstItem], evidence: Path
) -> dict[tuple[str, str, int], tuple[str, str]]:
    from plop_lora.gating.evidence import read_answers as read

    if not evidence.is_file():
        raise RecordError(
            f"The evidence {evidence}, which has the answers, is not there. Put the file "
            f"{evidence.name} of the gate beside the verdict, or leave out --answers."
        )
    lines = read(evidence, verdict.measurement, {(item.suite, item.index) for item in items})
    for item in items:
        line = lines.get((item.suite, item.index))
        if line is not None and line.item != item.item:
            raise RecordError(
                f"{evidence} has another item in the place of {item.name}. Put back the file that "
                "plop gate wrote, or leave out --answers."
            )
    return {
        (verdict.measurement, suite, index): (line.base.answer or "", line.adapter.answer or "")
        for (suite, index), line in lines.items()
    }
