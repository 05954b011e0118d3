"""Events that a process has left in files when its database could not be reached.

Imports no database until events are sent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from plop_lora.ab.store.spill import Part, abandoned
from plop_lora.records import Experiment

_PAUSE_SECONDS = 0.05


def send_waiting(folder: Path, url: str, experiment: Experiment, *, timeout: float) -> int:
    """Store what ended processes have left in a folder, and return how many events still wait.

    Events of processes that live are theirs to store, and are not counted.

    Args:
        folder: Folder of the files, see `Writer`.
        url: Address of the store.
        experiment: Experiment that the events belong to.
        timeout: Seconds to wait for the database at most.

    Raises:
        OutputError: The folder cannot be used.
    """
    parts = _left(folder, experiment)
    if not parts:
        return 0
    from plop_lora.ab.store.writer import Writer

    end = time.monotonic() + timeout
    with Writer(folder, url, experiment):
        while _lines(parts) and time.monotonic() < end:
            time.sleep(_PAUSE_SECONDS)
    return _lines(parts)


def _left(folder: Path, experiment: Experiment) -> list[Part]:
    """Return the files that ended processes have left."""
    if not folder.is_dir():
        return []
    parts: list[Part] = []
    for queue in abandoned(folder, experiment.digest()):
        parts += [Part.read(path) for path in queue.segments()]
        queue.release()
    return parts


def _lines(parts: Sequence[Part]) -> int:
    """Return the number of events in files that are still there; a file goes when it is stored."""
    return sum(part.lines for part in parts if part.path.exists())
