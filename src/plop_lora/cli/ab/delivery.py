"""How a verb stores events: in the database, or in files until the database can be reached."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plop_lora.cli.ab.options import database_of, running
from plop_lora.cli.output import say
from plop_lora.errors import StoreError

if TYPE_CHECKING:
    from plop_lora.ab.events import Event
    from plop_lora.records import Experiment

_SECONDS = 10.0
"""How long a verb waits for the database to take what waits."""


def deliver(
    experiment: Experiment, path: Path, database: str | None, events: Sequence[Event]
) -> None:
    """Store events, or keep them in files where the database cannot be reached.

    Args:
        experiment: Experiment that they belong to.
        path: Its file, beside which events wait.
        database: Address of the database, None for the default.
        events: Events.

    Raises:
        DataError: An event is not one of this experiment.
        OutputError: They cannot be kept in files either.
        UsageError: The experiment has not been started.
    """
    try:
        with running(path, database) as run:
            new = run.write(events)
            met = run.exposed({event.unit for event in events})
    except StoreError as error:
        _keep(experiment, path, database, events)
        say(
            f"{error}\nThe events are kept beside the experiment; the next plop ab log or plop ab "
            "status that reaches the database stores them.",
            err=True,
        )
        return
    if new < len(events):
        say(f"{len(events) - new:,} of {len(events):,} events were known already.", err=True)
    if any(event.unit not in met for event in events):
        say(
            "Note: this unit has not met an arm, so an analysis leaves its value out until it "
            "does. Is the id the one that was assigned?",
            err=True,
        )
    store_waiting(experiment, path, database)


def _keep(
    experiment: Experiment, path: Path, database: str | None, events: Sequence[Event]
) -> None:
    from plop_lora.ab.store.writer import Writer, spill_folder

    with _without_log():
        writer = Writer(spill_folder(path), database_of(path, database), experiment)
        try:
            writer.write(events)
        finally:
            writer.close(timeout=0.0)


def store_waiting(experiment: Experiment, path: Path, database: str | None) -> int:
    """Store the events that ended processes have left in files; return how many still wait."""
    from plop_lora.ab.store.writer import spill_folder
    from plop_lora.ab.waiting import send_waiting

    with _without_log():
        return send_waiting(
            spill_folder(path), database_of(path, database), experiment, timeout=_SECONDS
        )


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Keep what a server logs off stderr, where the verb says it in one line."""
    log = logging.getLogger("plop_lora.ab.store")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
