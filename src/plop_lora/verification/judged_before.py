"""Whether the trials of a folder were judged before, under other rules. No torch.

A verdict that is drawn again with more seeds, another margin or another outcome, after the first
one was seen, is one look too many: each of them errs in 5 % of runs. The record says so.
"""

from __future__ import annotations

from pathlib import Path

from plop_lora.errors import RecordError
from plop_lora.records import Verification
from plop_lora.study.folder import RECORD
from plop_lora.verification.design import Design

_AGAIN = "these trials were judged before"


def judged_before(folder: Path, design: Design) -> tuple[str, ...]:
    """Return the notes on earlier verdicts of a folder, none where this is the first.

    Args:
        folder: of the run; an earlier record in it may be of any release.
        design: of the verdict that is to be drawn now.
    """
    try:
        earlier = Verification.load(folder / RECORD)
    except (OSError, RecordError):
        return ()
    kept = tuple(note for note in earlier.notes if note.startswith(_AGAIN))
    if _is_same(earlier, design):
        return kept
    note = (
        f"{_AGAIN}, with at most {len(earlier.seeds)} seeds, by {earlier.metric} and a margin of "
        f"{earlier.margin:.3g} ({earlier.verdict}): each verdict errs in 5 % of runs, and so all "
        "together err more often"
    )
    return (*kept, note)


def _is_same(earlier: Verification, design: Design) -> bool:
    """Whether a verdict would be drawn by the same rules."""
    shortlist = next((arm for arm in earlier.arms if arm.arm == earlier.shortlist), None)
    first = () if shortlist is None else shortlist.values[: design.looks[0].seeds]
    known = [value for value in first if value is not None]
    margin = design.margin.of(sum(known) / len(known) if known else 0.0)
    taken = {look.seeds for look in earlier.looks}
    return (
        earlier.seeds == design.seeds
        and taken <= {look.seeds for look in design.looks}
        and len(taken) == sum(look.seeds <= max(taken, default=0) for look in design.looks)
        and abs(earlier.margin - margin) < 1e-12
    )
