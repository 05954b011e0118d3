"""Which records make a report: read by their kind, and whether they come from one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from plop_lora.errors import RecordError, UsageError
from plop_lora.records import (
    Analysis,
    GateVerdict,
    GateWalk,
    Placement,
    Record,
    Scores,
    Tuning,
    Verification,
)
from plop_lora.records.reading import read_document

R = TypeVar("R", bound=Record)

KINDS: dict[str, type[Record]] = {
    record.kind: record
    for record in (Scores, Placement, Verification, Tuning, GateVerdict, GateWalk, Analysis)
}
"""Kind → class of the records that a report shows."""


@dataclass(frozen=True, slots=True)
class Held:
    """The records of a report, at most one of a kind, but for verdicts of a gate."""

    scores: Scores | None = None
    placement: Placement | None = None
    verification: Verification | None = None
    tuning: Tuning | None = None
    gates: tuple[GateVerdict, ...] = ()
    walk: GateWalk | None = None
    analysis: Analysis | None = None

    @property
    def shown_placement(self) -> Placement | None:
        """The placement that was given, else the one that was verified, else the tuned one."""
        if self.placement is not None:
            return self.placement
        proof = self.verification or self.tuning
        return None if proof is None else proof.placement

    @property
    def shown_gates(self) -> tuple[GateVerdict, ...]:
        """The verdicts, and of a walk over checkpoints the first that passes, else the last one."""
        if self.walk is None or not self.walk.gated:
            return self.gates
        found = self.walk.passing or self.walk.gated[0]
        return (*self.gates, found.verdict)


def read_records(paths: Sequence[str | Path]) -> list[Record]:
    """Read records of any kind that a report shows.

    Raises:
        RecordError: A file cannot be read, is damaged, or holds another kind of record.
    """
    return [_read(Path(path)) for path in paths]


def _read(path: Path) -> Record:
    document = read_document(path, "plop score MODEL --data DATA -o scores.json")
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(kind, str):
        raise RecordError(
            f"{path} is not a plop-lora record (no 'kind'). A report is made of the records that "
            "plop score, place, verify, tune and gate write with -o."
        )
    if kind not in KINDS:
        raise RecordError(
            f"{path} is a {kind!r} record, which has no part in a report. Allowed: "
            f"{', '.join(KINDS)}."
        )
    return KINDS[kind].from_dict(document, source=str(path))


def held(records: Sequence[Record]) -> Held:
    """Return the records by their kind.

    Raises:
        UsageError: There is no record, one that no report shows, or two of a kind that is shown
            once.
    """
    if not records:
        raise UsageError("A report needs at least one record, such as scores.json.")
    for record in records:
        if type(record) not in KINDS.values():
            raise UsageError(
                f"A {record.kind!r} record has no part in a report. Allowed: {', '.join(KINDS)}."
            )
    return Held(
        scores=_only(Scores, records),
        placement=_only(Placement, records),
        verification=_only(Verification, records),
        tuning=_only(Tuning, records),
        gates=tuple(record for record in records if isinstance(record, GateVerdict)),
        walk=_only(GateWalk, records),
        analysis=_only(Analysis, records),
    )


def _only(kind: type[R], records: Sequence[Record]) -> R | None:
    found = [record for record in records if isinstance(record, kind)]
    if len(found) > 1:
        raise UsageError(
            f"There are {len(found)} {kind.kind!r} records, and a report shows one. Give one of "
            "them."
        )
    return found[0] if found else None


def strangers(found: Held) -> list[Record]:
    """Return the records that were not made from the scores that are given."""
    if found.scores is None:
        return []
    digest = found.scores.digest()
    others: list[Placement | Verification | Tuning | None] = [
        found.placement, found.verification, found.tuning,
    ]  # fmt: skip
    return [
        record
        for record in others
        if record is not None and record.scores_digest not in (None, digest)
    ]
