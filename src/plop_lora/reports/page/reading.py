"""Which records make a report: read by their kind, and whether they come from one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from plop_lora.errors import RecordError, UsageError
from plop_lora.records import (
    Analysis,
    Finetune,
    GateVerdict,
    GateWalk,
    ModelReference,
    PipelineRun,
    Placement,
    Record,
    Robustness,
    Scores,
    Tuning,
    Verification,
)
from plop_lora.records.reading import read_document

R = TypeVar("R", bound=Record)

KINDS: dict[str, type[Record]] = {
    record.kind: record
    for record in (
        Scores, Placement, Robustness, Verification, Tuning, Finetune, GateVerdict, GateWalk,
        Analysis, PipelineRun,
    )
}  # fmt: skip
"""Kind → class of the records that a report shows."""
RUN = "pipeline.json"
"""Name of the record in the folder of a run."""
ROBUSTNESS = "robustness.json"
"""Name under which a record of robustness in the folder of a run belongs to its report."""


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
    finetune: Finetune | None = None
    run: PipelineRun | None = None
    robustness: Robustness | None = None

    @property
    def model(self) -> ModelReference | None:
        """The model that the records are of, None where none describes it."""
        records = (
            self.scores, self.placement, self.verification, self.tuning, self.finetune,
        )  # fmt: skip
        found = next((record.model for record in records if record is not None), None)
        if found is None and self.robustness is not None:
            held = self.robustness
            return ModelReference(held.model, None, held.architecture, None, held.parameters)
        return found

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
    """Read records of any kind that a report shows; the folder of a run stands for those in it.

    Raises:
        RecordError: A file cannot be read, is damaged, or holds another kind of record.
    """
    return [record for _, record in read_files(paths)]


def read_files(paths: Sequence[str | Path]) -> list[tuple[Path, Record]]:
    """Read records as `read_records` does, each with the file that it stands in.

    Raises:
        RecordError: A file cannot be read, is damaged, or holds another kind of record.
    """
    return [found for path in paths for found in _read_all(Path(path))]


def _read_all(path: Path) -> list[tuple[Path, Record]]:
    """Return the record of a file, or those of the stages of a run that are done.

    Of two placements the later one is shown, which has won. No stage asks whether the choice is
    robust, so that a record of it is read where one lies beside that of the run.
    """
    if not path.is_dir():
        return [(path, _read(path))]
    if not (path / RUN).is_file():
        raise RecordError(
            f"{path} is a folder, but not that of a run. Give the folder of one, or records."
        )
    run = PipelineRun.load(path / RUN)
    files = [stage.result_in(path) for stage in run.stages if stage.outcome is not None]
    found = [(file, _read(file)) for file in files if file.is_file() and _kind_of(file) in KINDS]
    placements = [record for _, record in found if isinstance(record, Placement)]
    shown = [(file, record) for file, record in found if record not in placements[:-1]]
    beside = path / ROBUSTNESS
    if beside.is_file():
        shown.append((beside, Robustness.load(beside)))
    return [(path / RUN, run), *shown]


def _kind_of(path: Path) -> object:
    document = read_document(path, "plop run recipe.yaml")
    return document.get("kind") if isinstance(document, dict) else None


def _read(path: Path) -> Record:
    document = read_document(path, "plop score MODEL --data DATA -o scores.json")
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(kind, str):
        raise RecordError(
            f"{path} is not a plop-lora record (no 'kind'). A report is made of the records that "
            "plop score, place, robustness, verify, tune and gate write with -o."
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
        finetune=_only(Finetune, records),
        run=_only(PipelineRun, records),
        robustness=_only(Robustness, records),
    )


_COMPARE = " Two files of scores are compared with: plop compare FIRST SECOND"


def _only(kind: type[R], records: Sequence[Record]) -> R | None:
    found = [record for record in records if isinstance(record, kind)]
    if len(found) > 1:
        raise UsageError(
            f"There are {len(found)} {kind.kind!r} records, and a report shows one. Give one of "
            f"them.{_COMPARE if kind is Scores else ''}"
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
