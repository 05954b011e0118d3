"""What an experiment shows now: its observations from a store or from a file, and their analysis.

Imports no torch; the store is given.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from plop_lora.ab.analysis import analyze
from plop_lora.ab.course import course_of
from plop_lora.ab.event_file import EventFile
from plop_lora.ab.store.history import Periods
from plop_lora.ab.store.seen import LeftOut, StoredEvent, observe
from plop_lora.records import Analysis
from plop_lora.records.analysis import Design

if TYPE_CHECKING:
    from plop_lora.ab.store import StoredRun


def analyze_run(run: StoredRun, design: Design, *, timeline: bool = False) -> Analysis:
    """Analyse what is stored of an experiment.

    Args:
        run: Run of the experiment.
        design: How often the data may be looked at.
        timeline: Whether to add what earlier looks would have shown.

    Raises:
        DataError: No unit has met an arm yet.
        StoreError: The database cannot be read.
        UsageError: The experiment has not been started.
    """
    seen, ramp = run.seen(), run.state().ramp
    found = analyze(run.experiment, seen.observations, design=design, ramp=ramp)
    if timeline:
        found = replace(found, course=course_of(run.experiment, seen.observations, ramp=ramp))
    return _with_left_out(found, seen.left_out)


def analyze_file(source: EventFile, design: Design, *, timeline: bool = False) -> Analysis:
    """Analyse a file of events without a store; the burn-in counts from the first exposure.

    Raises:
        DataError: A row is no event of the experiment, or no unit of the file meets an arm.
    """
    source.check()
    events = sorted(
        (
            StoredEvent(one.unit, str(one.kind), one.at, one.arm, one.name, one.value)
            for one in {event.id: event for event in source.events()}.values()
        ),
        key=lambda event: (event.unit, event.at, event.arm, event.name, event.value),
    )
    seen = observe(source.experiment, events, Periods())
    found = analyze(source.experiment, seen.observations, design=design)
    if timeline:
        found = replace(found, course=course_of(source.experiment, seen.observations))
    return _with_left_out(found, seen.left_out)


def _with_left_out(analysis: Analysis, left: LeftOut) -> Analysis:
    """Return an analysis with a note on the values that no observation has."""
    parts = {
        "of units that met no arm": left.unknown_unit,
        "from before the exposure": left.before_exposure,
        "from while the arm was switched off": left.switched_off,
        "from after the end": left.after_end,
    }
    if not left.total:
        return analysis
    counts = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
    note = f"values that were left out: {counts}"
    return replace(analysis, notes=(*analysis.notes, note))
