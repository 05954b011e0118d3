"""A running experiment inside a gateway of one's own: the arm of a unit, and what is logged of it.

    with ab.open_run("experiment.json") as run:
        arm = run.assign("account-17")  # the name of an arm, or None
        run.log("account-17", "resolved", 1)

Neither call waits for the database: a thread reads the coverage, and events go to a file first.
"""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from plop_lora.ab.closing import Closing
from plop_lora.ab.event_file import check_name
from plop_lora.ab.events import BEFORE, VALUE, exposure, measured
from plop_lora.ab.running import RunState
from plop_lora.records import Experiment

if TYPE_CHECKING:
    from plop_lora.ab.store import Store, StoredRun
    from plop_lora.ab.store.writer import Writer

REFRESH_SECONDS = 5.0
"""How old the coverage and the arms that are off may be."""
_LOG = logging.getLogger("plop_lora.ab")


def database_beside(experiment: str | Path) -> str:
    """Return the address of the database that belongs to an experiment where none is named."""
    return f"sqlite:///{Path(experiment).absolute().with_suffix('.db')}"


def open_run(
    path: str | Path, database: str | None = None, *, refresh: float = REFRESH_SECONDS
) -> LiveExperiment:
    """Open a running experiment for a gateway; use it as a context manager.

    Args:
        path: File of the experiment. Events wait in a folder beside it until the database has them.
        database: Address of the database; None takes a file of SQLite beside the experiment.
        refresh: Seconds after which the coverage and the arms that are off are read again.

    Raises:
        RecordError: The file cannot be loaded, or was changed after the start.
        StoreError: The database cannot be reached. Give every unit the control until it can.
        UsageError: The experiment has not been started.
    """
    from plop_lora.ab.store import Store
    from plop_lora.ab.store.writer import Writer, spill_folder

    experiment = Experiment.load(path)
    url = database or database_beside(path)
    store = Store.open(url)
    try:
        run = store.run(experiment)
        run.state()
        writer = Writer(spill_folder(path), url, experiment)
    except BaseException:
        store.close()
        raise
    return LiveExperiment(run, writer, store, refresh=refresh)


class LiveExperiment(Closing):
    """A running experiment in a gateway; a context manager. Make one with `open_run`.

    Threads may share it; a process has its own, made after a fork.
    """

    def __init__(self, run: StoredRun, writer: Writer, store: Store, *, refresh: float) -> None:
        """Read the coverage, and go on reading it in a thread.

        Raises:
            StoreError: The database cannot be read.
            UsageError: The experiment has not been started.
        """
        self._run, self._writer, self._store = run, writer, store
        self._state = run.state()
        self._refresh = refresh
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="plop-ab-state", daemon=True)
        self._thread.start()

    @property
    def experiment(self) -> Experiment:
        """The experiment."""
        return self._run.experiment

    @property
    def state(self) -> RunState:
        """What held when the database was last read."""
        return self._state

    @property
    def pending(self) -> int:
        """Number of events that wait for the database."""
        return self._writer.pending

    def assign(self, unit: str) -> str | None:
        """Return the arm of a unit that is served now, and log that it meets it.

        Args:
            unit: Id of the unit, the same whenever it returns.

        Returns:
            The name of the arm, which is the control where the unit's own arm is switched off, or
            None if the unit does not take part.

        Raises:
            OutputError: The event cannot be kept, such as on a full disk.
            UsageError: The unit is no text or empty.
        """
        state = self._state
        arm = self.experiment.assign(unit, coverage=state.ramp.coverage)
        if arm is None:
            return None
        if arm in state.off:
            return self.experiment.control
        at = datetime.now(UTC)
        self._writer.write([exposure(self.experiment.pseudonym(unit), arm, at)])
        return arm

    def log(
        self,
        unit: str,
        name: str,
        value: float,
        *,
        at: datetime | None = None,
        id: str = "",
        before: bool = False,
    ) -> None:
        """Log a value of a unit; what returns without an error is kept, whatever happens.

        Args:
            unit: Id of the unit, as it was assigned.
            name: Name of the value; see `Metric.values`.
            value: The value.
            at: Time of the value, with a time zone; None is now.
            id: Identity of the value, such as that of a request, by which it counts once however
                often it is logged; empty for a new one.
            before: Whether the value is from before the experiment.

        Raises:
            DataError: The value is not what its metric allows.
            OutputError: The event cannot be kept, such as on a full disk.
            UnknownNameError: The experiment has no value of this name.
            UsageError: The unit is no text or empty, or the time has no time zone.
        """
        check_name(name, self.experiment)
        kind = BEFORE if before else VALUE
        pseudonym = self.experiment.pseudonym(unit)
        event = measured(pseudonym, name, value, at or datetime.now(UTC), kind=kind, id=id)
        self._writer.write([event])

    def close(self) -> None:
        """Wait a few seconds for the database to take what is logged; the rest stays in files."""
        self._closed.set()
        self._writer.close()
        self._thread.join(timeout=1.0)  # one that waits for the database may outlive this
        self._store.close()

    def _read(self) -> None:
        """Read the state again and again; what was known stays where the database is away."""
        away = False
        while not self._closed.wait(self._refresh):
            try:
                self._state = self._run.state()
                away = False
            except Exception as error:  # this thread has to outlive every failure
                if not away and not self._closed.is_set():
                    _LOG.warning("the coverage cannot be read, and stays as it was: %s", error)
                away = True
