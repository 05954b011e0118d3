"""Import a file of events into a store: check all rows, then write them in chunks.

Imports no torch; the store is given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from plop_lora import __version__
from plop_lora.ab.event_file import EventFile
from plop_lora.ab.events import EXPOSURE
from plop_lora.errors import StoreError
from plop_lora.records.experiment_status import EventImport

if TYPE_CHECKING:
    from plop_lora.ab.store import StoredRun

_CHUNK = 2_000
"""Events that are written in one transaction."""


def import_events(
    source: EventFile, run: StoredRun, told: Callable[[int], None] = lambda rows: None
) -> EventImport:
    """Write the events of a file, of which those that are known already are ignored.

    Args:
        source: File of events.
        run: Run of the experiment in its store.
        told: Function that is called with the number of rows read, now and then.

    Raises:
        DataError: A row is no event of the experiment; nothing has been written then.
        StoreError: The database cannot be written; what was written before is kept.
        UsageError: The experiment has not been started.
    """
    run.state()
    count = source.check(told)
    units: set[str] = set()
    new = done = 0
    events = source.events(told)
    while chunk := list(itertools.islice(events, _CHUNK)):
        units |= {event.unit for event in chunk if event.kind is not EXPOSURE}
        try:
            new += run.write(chunk)
        except StoreError as error:
            raise StoreError(
                f"{error} {done:,} of {count:,} events are stored; import the same file again, and "
                "only the others are added."
            ) from error
        done += len(chunk)
    return EventImport(
        experiment=run.experiment.name,
        experiment_digest=run.experiment.digest(),
        file=str(source.file),
        events=count,
        new=new,
        unknown_units=len(units - run.exposed(units)),
        unknown_names=dict(source.unknown),
        plop_version=__version__,
    )
