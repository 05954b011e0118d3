"""The course of a verification: which arms its looks have settled, and what is to be trained next.

A course is computed from what the looks find alone, from the first one on. So a run that was
stopped goes on as if it had not been, and a simulation follows the same rules. Pure; no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from plop_lora.records.verification import BEATEN, Look
from plop_lora.verification.decide import (
    FAILED,
    SETTLED,
    SHORTLIST,
    UNSETTLED,
    ArmComparison,
    Decision,
)
from plop_lora.verification.looks import FUTILE, chance_of, with_seeds

Ended = Mapping[str, ArmComparison]
DecideAt = Callable[[Look, Ended], Decision | None]
"""Judges the arms at a look, without those that have ended; None where trials are missing."""


@dataclass(frozen=True, slots=True)
class Course:
    """What the looks so far came to.

    Attributes:
        decision: at the last look that was possible, None before the first.
        endings: arm → why it is trained no further.
        next: the look that lacks trials, None at the end.
    """

    decision: Decision | None = None
    endings: Mapping[str, str] = field(default_factory=dict)
    next: Look | None = None


def follow(looks: Sequence[Look], margin: float, decide_at: DecideAt) -> Course:
    """Go through the looks as far as there are trials.

    Args:
        looks: planned before the first trial.
        margin: loss of what decides that is accepted.
        decide_at: judges the arms at a look.
    """
    ended: dict[str, ArmComparison] = {}
    endings: dict[str, str] = {}
    decision: Decision | None = None
    for look in looks:
        found = decide_at(look, ended)
        if found is None:
            return Course(decision, endings, look)
        decision = found
        rows = {row.arm: row for row in found.comparisons if row.verdict != SHORTLIST}
        endings |= _endings(rows, look, looks[-1], margin, endings)
        ended |= {arm: row for arm, row in rows.items() if arm in endings}
        if found.verdict == BEATEN or len(endings) == len(rows):
            break
    return Course(decision, endings)


def _endings(
    rows: Mapping[str, ArmComparison],
    look: Look,
    last: Look,
    margin: float,
    before: Mapping[str, str],
) -> dict[str, str]:
    """Return the arms that are to be trained no further, each with the reason."""
    found = {
        arm: why
        for arm, row in rows.items()
        if arm not in before and (why := _ending(row, look, last, margin))
    }
    if any(rows[arm].verdict not in SETTLED for arm in (*before, *found)):
        # Nothing can be confirmed any more, so only a rival that may be better is of interest.
        found |= {
            arm: f"at {look.seeds} seeds: unlikely to be better, and nothing can be confirmed"
            for arm, row in rows.items()
            if arm not in (*before, *found) and not _may_be_better(row, last, margin)
        }
    return found


def _may_be_better(row: ArmComparison, last: Look, margin: float) -> bool:
    if row.paired is None:
        return True
    then = with_seeds(row.paired, last.seeds)
    return chance_of(row.paired, then, margin, last).better >= FUTILE


def _ending(row: ArmComparison, look: Look, last: Look, margin: float) -> str | None:
    if row.verdict in SETTLED:
        return f"settled at {look.seeds} seeds"
    if row.verdict in (UNSETTLED, FAILED):
        return f"at {look.seeds} seeds: {row.verdict}"
    if look == last:
        return f"open at {look.seeds} seeds"
    if row.paired is None:
        return None
    then = with_seeds(row.paired, last.seeds)
    if chance_of(row.paired, then, margin, last).settled < FUTILE:
        return f"at {look.seeds} seeds: out of reach with {last.seeds}"
    return None
