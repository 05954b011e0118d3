"""What happens to the units of an experiment: the events that are stored, and where they go.

An event is only ever appended, and its id makes it count once however often it is sent. Units stand
in it under a pseudonym, never under their own id.

Imports the standard library and records; no torch, no database.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from plop_lora.errors import DataError, UsageError

LATENCY_FIRST = "latency_first"
LATENCY_LAST = "latency_last"
TOKENS_IN = "tokens_in"
TOKENS_OUT = "tokens_out"
FAILED = "failed"
ROUTER_VALUES = (LATENCY_FIRST, LATENCY_LAST, TOKENS_IN, TOKENS_OUT, FAILED)
"""Names of the values that the router logs of a request: seconds to the first and to the last
token, tokens of the prompt and of the answer, and 1 where the request failed, else 0."""

_NAMESPACE = uuid.UUID("6c1a4f5e-55ce-5d0c-9a31-1d8f8e0f2a77")
"""Namespace of ids that are computed from the content of an event."""


class EventKind(StrEnum):
    """What an event says of its unit."""

    EXPOSURE = "exposure"
    VALUE = "value"
    BEFORE = "before"


EXPOSURE, VALUE, BEFORE = EventKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to a unit.

    Attributes:
        id: Identity of the event, at most 64 characters; an event of a known id is ignored.
        kind: Whether the unit met an arm, has a value, or had a value before the experiment.
        unit: Pseudonym of the unit, as `Experiment.pseudonym` gives it.
        at: Time, with a time zone.
        arm: Arm of an exposure, else empty.
        name: Name of a value, see `Metric.values`; empty for an exposure.
        value: The value, 0 for an exposure.
    """

    id: str
    kind: EventKind
    unit: str
    at: datetime
    arm: str = ""
    name: str = ""
    value: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < len(self.id) <= 64:
            raise DataError(f"The id of an event has 1 to 64 characters, not {len(self.id)}.")
        if self.at.tzinfo is None:
            raise UsageError(f"The time {self.at.isoformat()} of an event has no time zone.")
        if not math.isfinite(self.value):
            raise DataError(f"The value {self.name!r} is {self.value}; give a finite number.")


def exposure(unit: str, arm: str, at: datetime) -> Event:
    """Return the event that a unit met an arm; the same unit and arm give the same id."""
    return Event(id=_id(EXPOSURE, unit, arm), kind=EXPOSURE, unit=unit, at=at, arm=arm)


def measured(
    unit: str, name: str, value: float, at: datetime, *, kind: EventKind = VALUE, id: str = ""
) -> Event:
    """Return the event that a unit has a value.

    Args:
        unit: Pseudonym of the unit.
        name: Name of the value.
        value: The value.
        at: Time, with a time zone.
        kind: `BEFORE` for a value from before the experiment.
        id: Identity of the event, which makes it count once however often it is sent; empty for a
            new one.
    """
    identity = _id(kind, unit, name, id) if id else str(uuid.uuid4())
    return Event(id=identity, kind=kind, unit=unit, at=at, name=name, value=value)


def _id(*parts: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(parts)))


class EventSink(Protocol):
    """Where events go while requests are answered."""

    def write(self, events: Sequence[Event]) -> None:
        """Keep events, so that they survive the end of this process. Waits for no database.

        Raises:
            OutputError: They cannot be kept, such as on a full disk.
        """
        ...
