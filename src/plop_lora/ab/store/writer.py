"""Events go to a file first and then, by a thread, to the database.

An event is acknowledged when the system has it in a file, which takes microseconds and no database.
A queue in memory would lose its events when the process is killed; a database that does not answer
would hold up the requests.

Imports no database before a `Writer` is made.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plop_lora.ab.closing import Closing
from plop_lora.ab.events import Event, EventSink
from plop_lora.ab.store.checks import check_events
from plop_lora.ab.store.spill import (
    Part,
    Queue,
    Segment,
    abandoned,
    decode,
    encode,
    make_folder,
    sync_folder,
)
from plop_lora.errors import DataError, OutputError, PlopError, UsageError, require
from plop_lora.files import size
from plop_lora.records import Experiment

if TYPE_CHECKING:
    from plop_lora.ab.store.stored import Store, StoredRun

MOST_BYTES = 256 * 2**20
"""Bytes that wait for the database at most, about a million events."""
BATCH = 500
"""Events that are stored with one commit at most."""
SYNC_SECONDS = 1.0
"""How long an event may wait until the disk is asked to keep it over a loss of power."""
_SEGMENT_BYTES = 2**20
_LINGER_SECONDS = 0.1
_SHORTEST_DELAY, _LONGEST_DELAY = 0.1, 2.0
_LOOK_SECONDS = 30.0
_LOG = logging.getLogger("plop_lora.ab.store")


def spill_folder(experiment: str | Path) -> Path:
    """Return the folder of events beside the file of an experiment, such as `support.json.events`.

    Args:
        experiment: Path of the experiment's file.
    """
    return Path(f"{experiment}.events")


class Writer(EventSink, Closing):
    """Keeps events in files and brings them to a store; an `EventSink` and a context manager.

    What `write` has acknowledged is kept when the process is killed, and stored once: the next
    Writer in the same folder, of the same experiment, stores what a process has left there. Over a
    loss of power it holds for events older than about `SYNC_SECONDS`. Threads may share a Writer; a
    process has its own.
    """

    def __init__(
        self, folder: str | Path, url: str, experiment: Experiment, *, most_bytes: int = MOST_BYTES
    ) -> None:
        """Make the folder of this process and start to store what is in it; waits for no database.

        Args:
            folder: Folder of the files, which the processes of an experiment share.
            url: Address of the store; see `Store.open`.
            experiment: Experiment that the events belong to.
            most_bytes: Bytes that may wait for the database. Above it `write` refuses events.

        Raises:
            OutputError: The folder cannot be made.
            UsageError: The address is none.
            MissingExtraError: SQLAlchemy, Alembic or the driver of PostgreSQL is not installed.
        """
        for module in ("sqlalchemy", "alembic"):
            require(module)
        from plop_lora.ab.store.address import read_address

        read_address(url)
        self._folder, self._url, self._experiment = Path(folder), url, experiment
        self._most_bytes = most_bytes
        make_folder(self._folder)
        self._queue = Queue.make(self._folder, experiment.digest())
        self._process = os.getpid()
        self._store: Store | None = None
        self._run: StoredRun | None = None
        self._changed = threading.Condition()
        self._parts: list[Part] = []
        self._taken: list[tuple[Queue, list[Part]]] = []
        self._segment: Segment | None = None
        self._full: list[Segment] = []
        self._made = 0
        self._closed = False
        self._work, self._unsynced, self._stop = (threading.Event() for _ in range(3))
        self._threads = [
            threading.Thread(target=target, name=f"plop-ab-{target.__name__}", daemon=True)
            for target in (self._ship, self._sync)
        ]
        for thread in self._threads:
            thread.start()

    # ------------------------------------------------------------------ what a caller uses

    def write(self, events: Sequence[Event]) -> None:
        """Keep events, all or none of them, so that they survive the end of this process.

        Raises:
            DataError: An event is not one of this experiment.
            OutputError: They cannot be kept: the disk is full, or too many wait for the database.
            UsageError: The Writer is closed, or that of the parent process.
        """
        if os.getpid() != self._process:
            # The lock below may have been held when the process was forked, and would stay so.
            raise UsageError(
                "This writer of events belongs to the parent process. Make one in each process, "
                "after the fork."
            )
        check_events(self._experiment, events)
        if not events:
            return
        data = encode(events)
        with self._changed:
            if self._closed:
                raise UsageError("The writer of events is closed. Make another one.")
            self._check_room(len(data))
            try:
                part = self._open_part()
                assert self._segment is not None
                self._segment.append(data)
            except OSError as error:
                raise OutputError(
                    f"{len(events):,} events cannot be kept in {self._queue.path}: "
                    f"{error.strerror or error}. Make room on the disk; what was kept before stays."
                ) from error
            part.size += len(data)
            part.lines += len(events)
        for awake in (self._work, self._unsynced):
            if not awake.is_set():
                awake.set()

    @property
    def pending(self) -> int:
        """Number of events that are kept here and not known to be in the database."""
        with self._changed:
            return self._pending()

    def drain(self, timeout: float) -> bool:
        """Wait until the database has all events, and return whether it has.

        Args:
            timeout: Seconds to wait at most.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending(), timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Take no more events and stop. What is not stored by then is kept for the next Writer.

        Args:
            timeout: Seconds to wait for the database at most.
        """
        if os.getpid() != self._process:
            return  # a child that was forked has no threads, and its parent goes on
        with self._changed:
            if self._closed:
                return
            self._closed = True
        self._work.set()
        self.drain(timeout)
        self._stop.set()
        for awake in (self._work, self._unsynced):
            awake.set()
        for thread in self._threads:
            thread.join(timeout=1.0)  # one that waits for the database may outlive this
        self._give_up()

    def _give_up(self) -> None:
        """Remove what is stored, and leave the rest to the next Writer."""
        with self._changed:
            for part in self._parts:
                part.closed = True
            self._forget_shipped()
            queues = [self._queue, *(queue for queue, _ in self._taken)]
            self._taken = []  # the other thread may still be waiting for the database
            left = self._pending()
        for queue in queues:
            queue.release()
        if left:
            _LOG.warning(
                "%d events wait in %s until the next process of this experiment stores them",
                left, self._folder,
            )  # fmt: skip

    # ------------------------------------------------------------------ files, under the lock

    def _pending(self) -> int:
        return sum(part.lines for part in self._parts)

    def _check_room(self, length: int) -> None:
        waiting = sum(part.size - part.shipped for part in self._parts)
        if waiting + length > self._most_bytes:
            raise OutputError(
                f"{self._pending():,} events with {size(waiting)} wait in {self._folder} for the "
                f"database, and {size(self._most_bytes)} is allowed. Start the database again; "
                "they are stored then."
            )

    def _open_part(self) -> Part:
        """Return the segment that is appended to, and begin another one where it is full."""
        segment = self._segment
        if segment and (self._parts[-1].size >= _SEGMENT_BYTES or not segment.usable):
            self._parts[-1].closed = True
            self._full.append(segment)
            self._segment = None
        if self._segment is None:
            self._made += 1
            self._segment = Segment(self._queue.path / f"{self._made:08d}.jsonl")
            self._parts.append(Part(self._segment.path))
        return self._parts[-1]

    # ------------------------------------------------------------------ the thread that syncs

    def _sync(self) -> None:
        """Ask the disk to keep what was written, once in a while."""
        while not self._stop.is_set():
            self._unsynced.wait()
            self._unsynced.clear()
            self._sync_segments()
            self._stop.wait(SYNC_SECONDS)
        with self._changed:
            if self._segment is not None:
                self._full.append(self._segment)
                self._segment = None
        self._sync_segments()

    def _sync_segments(self) -> None:
        with self._changed:
            full, self._full = self._full, []
            now = self._segment
        for segment in [*full, *([] if now is None else [now])]:
            try:
                segment.sync()
            except OSError as error:
                _LOG.error("the disk may have lost events in %s: %s", segment.path, error)
        for segment in full:
            segment.close()

    # ------------------------------------------------------------------ the thread that ships

    def _ship(self) -> None:
        """Bring events to the database until the end, whatever fails."""
        delay, look = 0.0, 0.0
        while not self._stop.wait(delay):
            try:
                if time.monotonic() >= look:
                    look = time.monotonic() + _LOOK_SECONDS
                    self._take_abandoned()
                if self._wait_for_events():
                    self._store_batch()
            except Exception as error:  # this thread is the only one, and must not end
                if not delay:
                    _tell(error, self._folder)
                delay = min(max(2 * delay, _SHORTEST_DELAY), _LONGEST_DELAY)
            else:
                if delay:
                    _LOG.warning("the store answers again; events in %s are stored", self._folder)
                delay = 0.0
        if self._store is not None:
            self._store.close()

    def _wait_for_events(self) -> bool:
        """Wait for a batch, for a short time once there are events; return whether there are."""
        with self._changed:
            waiting, closed = self._pending(), self._closed
            if not waiting:
                self._work.clear()
        if not waiting:
            self._work.wait(_LOOK_SECONDS)
        elif waiting < BATCH and not closed:
            self._stop.wait(_LINGER_SECONDS)
        return waiting > 0

    def _store_batch(self) -> None:
        with self._changed:
            part = next(part for part in self._parts if part.lines)
        lines, length = part.next_lines(BATCH)
        events, damaged = self._read(lines)
        if damaged:
            self._set_aside(part, damaged)
        if events:
            self._stored_run().write(events)
        if not lines:
            _LOG.error("%d events are lost: someone has cut %s", part.lines, part.path)
        with self._changed:
            part.shipped += length
            part.lines = part.lines - len(lines) if lines else 0
            self._forget_shipped()
            if not self._pending():
                self._changed.notify_all()

    def _stored_run(self) -> StoredRun:
        """Return the run in the database, which is opened once there are events."""
        if self._run is None:
            from plop_lora.ab.store.stored import Store

            self._store = Store.open(self._url)
            self._run = self._store.run(self._experiment)
        return self._run

    def _read(self, lines: Sequence[bytes]) -> tuple[list[Event], list[bytes]]:
        """Return the events of lines, and the lines that are damaged."""
        events: list[Event] = []
        damaged: list[bytes] = []
        for line in lines:
            try:
                event = decode(line)
                check_events(self._experiment, [event])
            except DataError:
                damaged.append(line)
            else:
                events.append(event)
        return events, damaged

    def _set_aside(self, part: Part, lines: Sequence[bytes]) -> None:
        """Keep lines that are no events, for a person to look at."""
        path = self._folder / f"damaged-{part.path.parent.name}-{part.path.name}"
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))
        _LOG.warning("%d damaged lines of %s are not stored; see %s", len(lines), part.path, path)

    def _forget_shipped(self) -> None:
        """Remove the segments that are shipped, and folders of other processes without any."""
        for part in [one for one in self._parts if one.closed and not one.lines]:
            self._parts.remove(part)
            part.path.unlink(missing_ok=True)
        for queue, parts in list(self._taken):
            if not any(part in self._parts for part in parts):
                self._taken.remove((queue, parts))
                queue.release()
                sync_folder(self._folder)

    def _take_abandoned(self) -> None:
        """Take over what processes that have ended have left."""
        for queue in abandoned(self._folder, self._experiment.digest()):
            try:
                parts = [Part.read(path) for path in queue.segments()]
            except OSError:
                queue.release()
                raise
            with self._changed:
                self._taken.append((queue, parts))
                self._parts[:0] = parts
                self._forget_shipped()


def _tell(error: Exception, folder: Path) -> None:
    """Say once why events wait, and where."""
    if isinstance(error, PlopError):
        _LOG.warning("events wait in %s: %s", folder, error)
    else:
        _LOG.error("events wait in %s", folder, exc_info=error)
