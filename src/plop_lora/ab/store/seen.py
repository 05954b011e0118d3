"""From the events of units to observations, and what is left out on the way.

A value belongs to the arm that its unit met last before it. Values of the same time make one
observation, so that the burn-in goes by the time of the values.

Imports the standard library and records; no database.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from plop_lora.ab.events import BEFORE, EXPOSURE
from plop_lora.ab.observations import Observation
from plop_lora.ab.store.history import Periods
from plop_lora.records import Experiment
from plop_lora.records.experiment import PerUnit

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How much earlier than its exposure a value may be: clocks of two machines differ."""


class StoredEvent(NamedTuple):
    """A row of the events, as far as observations need it; see `Event`."""

    unit: str
    kind: str
    at: datetime
    arm: str
    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """How many values the observations leave out, and why.

    Attributes:
        unknown_unit: Values of a unit that was never exposed.
        before_exposure: Values from more than `CLOCK_TOLERANCE` before their unit's exposure.
        switched_off: Values from while the unit's arm was off, when it was given the control.
        after_end: Values from after the end of the experiment, when all units have one arm.
    """

    unknown_unit: int = 0
    before_exposure: int = 0
    switched_off: int = 0
    after_end: int = 0

    @property
    def total(self) -> int:
        """Number of values that are left out."""
        return self.unknown_unit + self.before_exposure + self.switched_off + self.after_end


@dataclass(frozen=True, slots=True)
class Seen:
    """What one reading of the events gave.

    Attributes:
        observations: At least one for each unit and arm that it was exposed in.
        left_out: Values that are in none of them.
    """

    observations: Sequence[Observation]
    left_out: LeftOut


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounts:
    """How much is stored of an experiment.

    Attributes:
        units: Arm → number of units that were exposed in it; every arm of the experiment is there.
        events: Name of a value → number of values.
        before: Name of a value → number of values from before the experiment.
        first: Time of the earliest event; None without any.
        last: Time of the latest event; None without any.
    """

    units: Mapping[str, int]
    events: Mapping[str, int]
    before: Mapping[str, int]
    first: datetime | None
    last: datetime | None


def observe(experiment: Experiment, events: Iterable[StoredEvent], periods: Periods) -> Seen:
    """Put the events of an experiment together by unit.

    Args:
        experiment: Experiment, whose metrics say how several values from before are put together.
        events: Events, those of a unit next to each other and in order of time.
        periods: Times whose values do not count.
    """
    left: Counter[str] = Counter()
    sums = _sums(experiment)
    observations: list[Observation] = []
    for unit, group in itertools.groupby(events, key=lambda event: event.unit):
        observations += _of_unit(unit, list(group), periods, sums, left)
    return Seen(observations, LeftOut(**left))


def _sums(experiment: Experiment) -> frozenset[str]:
    """Return the names of values whose sum over a unit is what counts."""
    return frozenset(
        name
        for metric in experiment.metrics
        if metric.per_unit == PerUnit.SUM
        for name in metric.values
    )


_Values = defaultdict[str, list[float]]


def _of_unit(
    unit: str, events: list[StoredEvent], periods: Periods, sums: frozenset[str],
    left: Counter[str],
) -> list[Observation]:  # fmt: skip
    """Return the observations of one unit, and count the values that are left out."""
    exposures: dict[str, datetime] = {}
    earlier: _Values = defaultdict(list)
    values: list[StoredEvent] = []
    for event in events:
        if event.kind == EXPOSURE:
            exposures.setdefault(event.arm, event.at)
        elif event.kind == BEFORE:
            earlier[event.name].append(event.value)
        else:
            values.append(event)
    if not exposures:
        left["unknown_unit"] += len(values)
        return []
    moments: dict[str, dict[datetime, _Values]] = {arm: {} for arm in exposures}
    for event in values:
        arm, at, fault = _place(event, exposures, periods)
        if fault:
            left[fault] += 1
        else:
            found = moments[arm].setdefault(at, defaultdict(list))
            found[event.name].append(event.value)
    before = {name: _together(found, name in sums) for name, found in earlier.items()}
    return [
        Observation(unit=unit, arm=arm, exposed_at=at, values=row, before=before)
        for arm, exposed in exposures.items()
        for at, row in _rows(moments[arm], exposed)
    ]


def _place(
    event: StoredEvent, exposures: Mapping[str, datetime], periods: Periods
) -> tuple[str, datetime, str]:
    """Return the arm of a value and its time there, and why it is left out, or an empty text."""
    first = next(iter(exposures.values()))
    at = max(event.at, first)
    arm = [arm for arm, exposed in exposures.items() if exposed <= at][-1]
    if event.at < first - CLOCK_TOLERANCE:
        return arm, at, "before_exposure"
    if periods.ended is not None and at > periods.ended:
        return arm, at, "after_end"
    return arm, at, "switched_off" if periods.was_off(arm, at) else ""


def _rows(
    moments: Mapping[datetime, Mapping[str, Sequence[float]]], exposed: datetime
) -> Iterable[tuple[datetime, dict[str, float]]]:
    """Yield the values of each observation with their time; without any, that of the exposure.

    The i-th observation of a time has the i-th value of each name.
    """
    if not moments:
        yield exposed, {}
    for at, found in moments.items():
        for index in range(max(map(len, found.values()))):
            yield at, {name: row[index] for name, row in found.items() if index < len(row)}


def _together(values: Sequence[float], is_sum: bool) -> float:
    total = math.fsum(values)
    return total if is_sum else total / len(values)
