"""Events for the tests of the store. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from experiments import START

from plop_lora.ab.events import Event, exposure, measured

MINUTE = timedelta(minutes=1)


def visit(
    unit: str, arm: str, minutes: float = 0, values: Iterable[tuple[str, float, float]] = ()
) -> list[Event]:
    """Return an exposure and values; each is a name, a value, and minutes after the exposure."""
    at = START + minutes * MINUTE
    return [
        exposure(unit, arm, at),
        *(measured(unit, name, value, at + after * MINUTE) for name, value, after in values),
    ]
