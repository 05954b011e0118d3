"""How a running experiment stands, and what an import of events has added to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import AwareDatetime

from plop_lora.records.base import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmStatus:
    """One arm: its share, the units that met it, and why it is switched off, if it is."""

    arm: str
    weight: float
    units: int
    off: str | None = None


@dataclass(frozen=True, repr=False, kw_only=True)
class ExperimentStatus(Record):
    """How a running experiment stands.

    `values` has the number of values by name, and `before` of those from before the experiment.
    `left_out` has the number of values that an analysis does not use, by reason. `waiting` is the
    number of events that are kept in files until the database takes them; None where nobody has
    looked. `days_left` is the time to the planned units at the rate so far, None where there is no
    rate. `ended` says how the experiment ended, and `next` is the command to type next.
    """

    kind: ClassVar[str] = "experiment-status"

    experiment: str
    experiment_digest: str
    unit: str
    started: AwareDatetime
    at: AwareDatetime
    coverage: float
    arms: tuple[ArmStatus, ...]
    planned_units: int
    values: Mapping[str, int]
    before: Mapping[str, int]
    left_out: Mapping[str, int]
    first_event: AwareDatetime | None
    last_event: AwareDatetime | None
    waiting: int | None
    days_left: float | None
    ended: str | None
    next: str
    plop_version: str

    @property
    def units(self) -> int:
        """Number of units that met an arm."""
        return sum(arm.units for arm in self.arms)


@dataclass(frozen=True, repr=False, kw_only=True)
class EventImport(Record):
    """What an import of a file of events has added.

    `events` is the number of events of the file, of which `new` were not known before.
    `unknown_units` is the number of units of the file with values that have not met an arm so far;
    an analysis leaves their values out. `unknown_names` has the number of rows by the name of a
    value that the experiment does not have, which were not stored.
    """

    kind: ClassVar[str] = "experiment-import"

    experiment: str
    experiment_digest: str
    file: str
    events: int
    new: int
    unknown_units: int
    unknown_names: Mapping[str, int]
    plop_version: str

    @property
    def known(self) -> int:
        """Number of events that were known before."""
        return self.events - self.new
