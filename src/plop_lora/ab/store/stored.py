"""The store: running experiments in a database that several processes share.

Imports SQLAlchemy.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Self

from sqlalchemy import Connection, Select, Table, distinct, func, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from plop_lora.ab.closing import Closing
from plop_lora.ab.events import EXPOSURE, VALUE, Event
from plop_lora.ab.observations import Observation
from plop_lora.ab.running import ExperimentRun, RunState
from plop_lora.ab.store.address import shown_address
from plop_lora.ab.store.checks import check_decision, check_events, check_switch
from plop_lora.ab.store.database import Database
from plop_lora.ab.store.history import COVERAGE, OFF, ON, Change, ChangeKind, Decision, History
from plop_lora.ab.store.schema import CHANGES, EVENTS, EXPERIMENTS
from plop_lora.ab.store.seen import LeftOut, RunCounts, Seen, StoredEvent, observe
from plop_lora.errors import RecordError, UsageError
from plop_lora.escapes import escaped
from plop_lora.records import Experiment, Ramp
from plop_lora.records.experiment_checks import check_aware

_CHUNK = 5_000
"""Rows that are fetched at once."""


class Store(Closing):
    """A database of running experiments; a context manager.

    Make one with `Store.open`. It may be used by several threads, and not after a fork.
    """

    def __init__(self, database: Database) -> None:
        """Wrap an open database."""
        self._database = database

    @classmethod
    def open(cls, url: str) -> Self:
        """Open a store, and make its tables or bring them to the newest revision.

        Args:
            url: `sqlite:///experiments.db`, or `postgresql://USER:PASSWORD@HOST/DATABASE`.

        Raises:
            UsageError: The address is none.
            StoreError: The database cannot be reached, is none, or is that of a newer release. The
                text never has the password.
            MissingExtraError: SQLAlchemy, Alembic or the driver of PostgreSQL is not installed.
        """
        return cls(Database.open(url))

    def __repr__(self) -> str:
        return f"<Store: {shown_address(self._database.url)}>"

    def run(self, experiment: Experiment) -> StoredRun:
        """Return the run of an experiment, which need not be started yet."""
        return StoredRun(self._database, experiment)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()


class StoredRun(ExperimentRun):
    """A running experiment in a store; see `ExperimentRun`.

    Every method raises a StoreError if the database cannot be reached, read or written now. All but
    `start` raise a UsageError before the start, and a RecordError if the experiment has been
    changed after it.
    """

    def __init__(self, database: Database, experiment: Experiment) -> None:
        """Bind an experiment to a database."""
        self._database = database
        self._experiment = experiment
        self._digest = experiment.digest()
        self._number: int | None = None

    def __repr__(self) -> str:
        address = shown_address(self._database.url)
        return f"<StoredRun: {self._experiment.name!r} in {address}>"

    @property
    def experiment(self) -> Experiment:
        """The experiment."""
        return self._experiment

    # ------------------------------------------------------------------ what may change

    def start(self, at: datetime) -> None:
        """Start the experiment with its own coverage; nothing happens if it has been started.

        Args:
            at: Time of the start, with a time zone.

        Raises:
            RecordError: Another experiment of this name has been started.
            UsageError: The time has no time zone.
        """
        check_aware(at)
        first = Ramp.of_start(self._experiment, at).steps[0]
        document = {k: v for k, v in self._experiment.to_dict().items() if k != "salt"}
        row = {
            "digest": self._digest,
            "name": self._experiment.name,
            "document": json.dumps(document, ensure_ascii=False),
            "received": datetime.now(UTC),
        }
        with self._database.writing() as connection:
            made = self._insert_new(connection, EXPERIMENTS, [row], ("name",))
            number = self._read_number(connection)
            if made:
                step = Change(kind=COVERAGE, at=at, reason=first.reason, coverage=first.coverage)
                self._append(connection, number, step)

    def state(self) -> RunState:
        """Return what holds now."""
        return self._history().state()

    def raise_coverage(self, share: float, at: datetime, reason: str = "") -> Ramp:
        """Raise the share of units that take part, and return the coverage over time.

        Of two processes that raise it at the same time, the second sees what the first has done.

        Raises:
            UsageError: The coverage would be lowered, the experiment has ended, or the time is
                before the last change.
        """
        check_aware(at)
        if not share:
            raise UsageError(
                "A coverage of 0 ends the experiment. Say how it ends with: plop ab stop"
            )
        with self._database.writing() as connection:
            number = self._lock(connection)
            ramp = self._read_history(connection, number).ramp().raised(share, at, reason)
            step = Change(kind=COVERAGE, at=at, reason=reason, coverage=share)
            self._append(connection, number, step)
        return ramp

    def switch(self, arm: str, *, on: bool, reason: str, at: datetime) -> None:
        """Switch an arm on or off for all processes; nothing happens if it is so already.

        Raises:
            UnknownNameError: The experiment has no such arm.
            UsageError: The arm is the control, or the experiment has ended.
        """
        check_aware(at)
        check_switch(self._experiment, arm)
        with self._database.writing() as connection:
            number = self._lock(connection)
            history = self._read_history(connection, number)
            _check_running(history)
            if on == (arm in history.state().off):
                change = Change(kind=ON if on else OFF, at=at, reason=reason, arm=arm)
                self._append(connection, number, change)

    def stop(self, decision: str, arm: str, reason: str, at: datetime) -> None:
        """End the experiment for good: its coverage is 0 from now on.

        Args:
            decision: `ship` for a candidate that replaces the control, `keep` for the control.
            arm: The arm that serves all units from now on.
            reason: Why.
            at: Time of the end, with a time zone.

        Raises:
            UnknownNameError: The experiment has no such arm.
            UsageError: It has ended already, the decision is unknown or does not fit the arm, or
                the time is before the last change of the coverage.
        """
        check_aware(at)
        kind = check_decision(self._experiment, decision, arm)
        with self._database.writing() as connection:
            number = self._lock(connection)
            history = self._read_history(connection, number)
            _check_running(history)
            history.ramp().ended(at, reason)
            change = Change(kind=kind, at=at, reason=reason, arm=arm, coverage=0.0)
            self._append(connection, number, change)

    def decision(self) -> Decision | None:
        """Return how the experiment ended, or None while it runs."""
        return self._history().decision()

    # ------------------------------------------------------------------ events

    def write(self, events: Sequence[Event]) -> int:
        """Store events, all or none of them, and return how many are new.

        An event whose id is known is ignored, so that the same events may be written again.

        Raises:
            DataError: An event is not one of this experiment.
        """
        check_events(self._experiment, events)
        received = datetime.now(UTC)
        with self._database.writing() as connection:
            head = {"experiment": self._find(connection), "received": received}
            # In one order, or two processes that write the same events wait for each other.
            rows = [
                head | asdict(event) | {"kind": str(event.kind), "value": float(event.value)}
                for event in sorted(events, key=lambda event: event.id)
            ]
            return self._insert_new(connection, EVENTS, rows, ("id", "experiment"))

    def exposed(self, units: Collection[str]) -> set[str]:
        """Return those of the units, which are pseudonyms, that have met an arm."""
        found: set[str] = set()
        wanted = sorted(units)
        with self._database.reading() as connection:
            mine = EVENTS.c.experiment == self._find(connection)
            for start in range(0, len(wanted), _CHUNK):
                some = EVENTS.c.unit.in_(wanted[start : start + _CHUNK])
                query = select(EVENTS.c.unit).where(mine, EVENTS.c.kind == EXPOSURE, some)
                found.update(connection.execute(query).scalars())
        return found

    def observations(self) -> list[Observation]:
        """Return what was seen of every unit, as `analyze` takes it; see `seen`."""
        return list(self.seen().observations)

    def left_out(self) -> LeftOut:
        """Return how many values `observations` leaves out, and why; see `seen`."""
        return self.seen().left_out

    def seen(self) -> Seen:
        """Return the observations and what they leave out, from one reading of the events.

        There is an observation for each unit and arm that it was exposed in, with the values of one
        time; several times make several observations. A value belongs to the arm that its unit met
        last before it, and counts from the exposure on: one from up to 5 minutes before takes the
        time of the exposure. Without a value the time is that of the exposure. Several values from
        before are put together as their metric says. Values that no metric has are not read.
        """
        names = sorted({name for metric in self._experiment.metrics for name in metric.values})
        with self._database.reading() as connection:
            number = self._find(connection)
            periods = self._read_history(connection, number).periods()
            query = (
                select(*(EVENTS.c[field] for field in StoredEvent._fields))
                .where(EVENTS.c.experiment == number)
                .where(or_(EVENTS.c.kind == EXPOSURE, EVENTS.c.name.in_(names)))
                .order_by(EVENTS.c.unit, EVENTS.c.at, EVENTS.c.arm, EVENTS.c.id)
            )
            return observe(self._experiment, _stream(connection, query), periods)

    def counts(self) -> RunCounts:
        """Return how much is stored."""
        with self._database.reading() as connection:
            mine = EVENTS.c.experiment == self._find(connection)
            exposed = select(EVENTS.c.arm, func.count(distinct(EVENTS.c.unit)).label("units"))
            exposed = exposed.where(mine, EVENTS.c.kind == EXPOSURE).group_by(EVENTS.c.arm)
            units = {row.arm: row.units for row in connection.execute(exposed)}
            named = select(EVENTS.c.kind, EVENTS.c.name, func.count())
            named = named.where(mine, EVENTS.c.kind != EXPOSURE)
            named = named.group_by(EVENTS.c.kind, EVENTS.c.name).order_by(EVENTS.c.name)
            events: dict[str, int] = {}
            before: dict[str, int] = {}
            for kind, name, count in connection.execute(named):
                (events if kind == VALUE else before)[name] = count
            times = select(func.min(EVENTS.c.at), func.max(EVENTS.c.at)).where(mine)
            first, last = connection.execute(times).one()
        return RunCounts(
            units={arm.name: units.get(arm.name, 0) for arm in self._experiment.arms},
            events=events,
            before=before,
            first=first,
            last=last,
        )

    # ------------------------------------------------------------------ rows

    def _history(self) -> History:
        with self._database.reading() as connection:
            return self._read_history(connection, self._find(connection))

    def _read_history(self, connection: Connection, number: int) -> History:
        query = select(
            CHANGES.c.kind, CHANGES.c.at, CHANGES.c.reason, CHANGES.c.arm, CHANGES.c.coverage
        )
        query = query.where(CHANGES.c.experiment == number).order_by(CHANGES.c.number)
        rows = connection.execute(query).mappings()
        # A reason is shown as it stands here, whoever has written it.
        changes = [
            Change(**{**row, "kind": ChangeKind(row["kind"]), "reason": escaped(row["reason"])})
            for row in rows
        ]
        return History(self._digest, changes)

    def _append(self, connection: Connection, number: int, change: Change) -> None:
        row = asdict(change) | {"kind": str(change.kind), "reason": escaped(change.reason)}
        row["received"] = datetime.now(UTC)
        connection.execute(insert(CHANGES), {"experiment": number, **row})

    def _lock(self, connection: Connection) -> int:
        """Return the number of the experiment, which no one else changes in this transaction.

        A transaction of SQLite that writes is the only one, and needs no lock.
        """
        number = self._find(connection)
        if not self._database.is_sqlite:
            locked = select(EXPERIMENTS.c.number).where(EXPERIMENTS.c.number == number)
            connection.execute(locked.with_for_update())
        return number

    def _find(self, connection: Connection) -> int:
        """Return the number of the experiment, which is remembered."""
        if self._number is None:
            self._number = self._read_number(connection)
        return self._number

    def _read_number(self, connection: Connection) -> int:
        """Return the number of the experiment in the database."""
        query = select(EXPERIMENTS.c.number, EXPERIMENTS.c.digest)
        found = connection.execute(query.where(EXPERIMENTS.c.name == self._experiment.name))
        row = found.one_or_none()
        if row is None:
            raise UsageError(
                f"The experiment {self._experiment.name!r} has not been started in this store. "
                "Start it with: plop ab init --from EXPERIMENT.json, and the same --database"
            )
        if row.digest != self._digest:
            raise RecordError(
                f"The experiment {self._experiment.name!r} was changed after its start: its digest "
                f"is {self._digest[:16]}…, and {row.digest[:16]}… was started. Take the file as it "
                "was, or give the new one another name and salt."
            )
        return int(row.number)

    def _insert_new(
        self,
        connection: Connection,
        table: Table,
        rows: Sequence[Mapping[str, object]],
        key: tuple[str, ...],
    ) -> int:
        """Insert the rows whose key is new, and return how many they are.

        To ask PostgreSQL for the keys of the new rows would take four times as long.
        """
        if not rows:
            return 0
        dialect = sqlite if self._database.is_sqlite else postgresql
        statement = dialect.insert(table).on_conflict_do_nothing(index_elements=key)
        counted = {"preserve_rowcount": True}
        return connection.execute(statement, rows, execution_options=counted).rowcount


def _stream(connection: Connection, query: Select[Any]) -> Iterator[StoredEvent]:
    rows = connection.execution_options(yield_per=_CHUNK).execute(query)
    for unit, kind, at, arm, name, value in rows:
        yield StoredEvent(unit, kind, at, arm, name, float(value))


def _check_running(history: History) -> None:
    ended = history.decision()
    if ended is not None:
        raise UsageError(
            f"The experiment ended at {ended.at.isoformat()} with {ended.decision} "
            f"{ended.arm!r}, for good. Start another one with another name and salt."
        )
