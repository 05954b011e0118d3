"""Which placement is trained, and at which learning rate: what a record has decided. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plop_lora.errors import RecordError, UsageError, nearest
from plop_lora.records import Placement, Record, Tuning, Verification
from plop_lora.records.reading import read_document
from plop_lora.records.tuning import TuningVerdict
from plop_lora.records.verification import Verdict

KINDS: tuple[type[Record], ...] = (Placement, Verification, Tuning)
_MAKER = "plop place scores.json -o placement.json"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A placement that a record has chosen.

    Attributes:
        record: Record that has chosen it.
        arm: Name of the placement.
        placement: Placement.
        why: Reason in words.
        learning_rate: Learning rate that the record chose for it, or None.
        task: Task for which it was chosen, None where the record has none.
        peak_memory: Largest memory of its trials in bytes, or None.
    """

    record: Placement | Verification | Tuning
    arm: str
    placement: Placement
    why: str
    learning_rate: float | None = None
    task: str | None = None
    peak_memory: int | None = None


def read_source(given: object) -> Placement | Verification | Tuning:
    """Return a placement, a verification or a tuning, or read one from a file.

    Raises:
        UsageError: `given` is no such record and no path.
        RecordError: The file is damaged, or holds another kind of record.
    """
    if isinstance(given, Placement | Verification | Tuning):
        return given
    if not isinstance(given, str | Path):
        raise UsageError(
            "plop finetune needs a placement, a verification or a tuning, or the file of one, not "
            f"an object of the class {type(given).__name__}. Make one with: {_MAKER}."
        )
    document = read_document(Path(given), _MAKER)
    kind = document.get("kind") if isinstance(document, dict) else None
    if kind == Verification.kind:
        return Verification.from_dict(document, source=str(given))
    if kind == Tuning.kind:
        return Tuning.from_dict(document, source=str(given))
    if kind in (Placement.kind, None):
        return Placement.from_dict(document, source=str(given))
    raise RecordError(
        f"{given} is a {kind!r} record, and says neither where adapters go nor how they are "
        "trained. plop finetune takes a placement, a verification or a tuning; make one with: "
        f"{_MAKER}."
    )


def choose(record: Placement | Verification | Tuning, arm: str | None = None) -> Chosen:
    """Return the placement that a record has chosen, or the one of an arm.

    Args:
        record: Placement, verification or tuning.
        arm: Name of an arm of a verification, in place of the one that its verdict chooses.

    Raises:
        UsageError: The record has no such arm, or not its placement.
    """
    if isinstance(record, Verification):
        return _of_verification(record, arm)
    if arm is not None:
        raise UsageError(
            f"--arm {arm} names an arm of a verification, and this is a {record.kind}, which has "
            "one placement. Leave --arm out."
        )
    if isinstance(record, Tuning):
        return Chosen(
            record, record.chosen.label, record.placement, _WHY_TUNED[record.verdict],
            record.chosen.learning_rate, record.task,
        )  # fmt: skip
    return Chosen(record, record.strategy, record, "the placement that was given")


_WHY_TUNED = {
    TuningVerdict.IMPROVED: "the configuration that the search found and new seeds confirmed",
    TuningVerdict.STANDS: "the default of the search: no configuration was shown to be better",
    TuningVerdict.INCONCLUSIVE: "the default of the search, as the seeds could not tell the "
    "candidates from it",
    TuningVerdict.UNCONFIRMED: "the best configuration of the search, which no new seed confirmed",
}
_WHY_VERIFIED = {
    Verdict.CONFIRMED: "the shortlist, which the verification confirmed",
    Verdict.BEATEN: "the arm that the verification found to be better than the shortlist",
    Verdict.INCONCLUSIVE: "the shortlist: the verification could not tell the arms apart",
}


def _of_verification(record: Verification, arm: str | None) -> Chosen:
    placements = {record.shortlist: record.placement}
    if record.better is not None and record.better_placement is not None:
        placements[record.better] = record.better_placement
    beaten = record.verdict is Verdict.BEATEN and record.better in placements
    chosen = record.better if beaten and record.better else record.shortlist
    name = chosen if arm is None else arm
    if name not in placements:
        raise UsageError(_without_placement(record, name, tuple(placements)))
    results = {result.arm: result for result in record.arms}
    found = results.get(name)
    why = "the arm that --arm names" if arm is not None else _WHY_VERIFIED[record.verdict]
    if record.quick:
        why += "; two seeds of a smoke test decided"
    return Chosen(
        record, name, placements[name], why,
        None if found is None else found.learning_rate,
        record.task,
        None if found is None else found.peak_memory,
    )  # fmt: skip


def _without_placement(record: Verification, arm: str, known: tuple[str, ...]) -> str:
    names = [result.arm for result in record.arms]
    if arm in names:
        return (
            f"The verification compared the arm {arm}, but keeps the placement of "
            f"{' and '.join(known)} alone. Make its placement with plop place scores.json "
            "--strategy, and give that file in place of the verification."
        )
    return (
        f"The verification has no arm {arm!r}.{nearest(arm, names)} Its arms: {', '.join(names)}."
    )
