"""What the changes of a running experiment amount to: its coverage, its arms that are off, its end.

Changes are only ever appended, so that what held at any time can be told. Imports the standard
library and records; no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from plop_lora.ab.running import RunState
from plop_lora.records import Ramp
from plop_lora.records.experiment import RampStep


class ChangeKind(StrEnum):
    """What changed."""

    COVERAGE = "coverage"
    OFF = "off"
    ON = "on"
    SHIP = "ship"
    KEEP = "keep"


COVERAGE, OFF, ON, SHIP, KEEP = ChangeKind
DECISIONS = (SHIP, KEEP)
"""How an experiment may end: a candidate ships, or the control is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of a running experiment.

    Attributes:
        kind: What changed.
        at: Time, with a time zone.
        reason: Why.
        arm: Arm that is switched, shipped or kept; empty for a step of the coverage.
        coverage: Share of all units that take part from now on; None for a switch.
    """

    kind: ChangeKind
    at: datetime
    reason: str
    arm: str = ""
    coverage: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How an experiment ended.

    Attributes:
        decision: `ship` for a candidate that replaces the control, `keep` for the control.
        arm: The arm that serves all units from now on.
        reason: Why.
        at: Time of the end.
    """

    decision: str
    arm: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class History:
    """The changes of one experiment in their order.

    Attributes:
        experiment_digest: Digest of the experiment.
        changes: Changes; the first is that of the start.
    """

    experiment_digest: str
    changes: Sequence[Change]

    def ramp(self) -> Ramp:
        """Return the coverage over time."""
        steps = tuple(
            RampStep(at=change.at, coverage=change.coverage, reason=change.reason)
            for change in self.changes
            if change.coverage is not None
        )
        return Ramp(experiment_digest=self.experiment_digest, steps=steps)

    def state(self) -> RunState:
        """Return what holds now."""
        off: dict[str, str] = {}
        for change in self.changes:
            if change.kind is OFF:
                off[change.arm] = change.reason
            elif change.kind is ON:
                off.pop(change.arm, None)
        return RunState(ramp=self.ramp(), off=off)

    def decision(self) -> Decision | None:
        """Return how the experiment ended, or None while it runs."""
        return next(
            (
                Decision(decision=str(one.kind), arm=one.arm, reason=one.reason, at=one.at)
                for one in self.changes
                if one.kind in DECISIONS
            ),
            None,
        )

    def periods(self) -> Periods:
        """Return the times whose values do not count."""
        ended = self.decision()
        return Periods(off=_off_periods(self.changes), ended=ended.at if ended else None)


@dataclass(frozen=True, slots=True)
class Periods:
    """The times in which the values of an arm do not belong to it.

    Attributes:
        off: Arm → the periods in which it was off, each from its first moment to before its last;
            an end of None is still to come.
        ended: Time of the end of the experiment, or None.
    """

    off: Mapping[str, Sequence[tuple[datetime, datetime | None]]] = field(default_factory=dict)
    ended: datetime | None = None

    def was_off(self, arm: str, at: datetime) -> bool:
        """Whether an arm was off at a time."""
        periods = self.off.get(arm, ())
        return any(start <= at and (end is None or at < end) for start, end in periods)


def _off_periods(changes: Iterable[Change]) -> dict[str, list[tuple[datetime, datetime | None]]]:
    periods: dict[str, list[tuple[datetime, datetime | None]]] = {}
    for change in changes:
        if change.kind is OFF:
            periods.setdefault(change.arm, []).append((change.at, None))
        elif change.kind is ON and periods.get(change.arm):
            start, _ = periods[change.arm][-1]
            periods[change.arm][-1] = (start, change.at)
    return periods
