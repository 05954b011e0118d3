"""Several processes, on one machine or many, that measure one model together.

    torchrun --nproc-per-node 4 -m plop_lora score MODEL --data DATA

Every process loads the model and the data and makes the same batches. Each measures its share of
the batches, and all gather the results. A batch is never split between processes, so each sequence
runs in the same batch, and the sums are the same, whatever the number of processes.

The launcher starts and supervises the processes. This file adds two things: if several processes
fail, only the first reports its error; and a process that waits for another one keeps checking
whether that one has failed or its heartbeat has stopped, so that it never waits forever. torch's
`monitored_barrier` does not do this: it times out for a slow process as well as for a lost one, and
does not carry the reason of a failure.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from plop_lora.data.batches import Batch
from plop_lora.errors import DataError, ProcessError
from plop_lora.launcher import world_size
from plop_lora.models.devices import own_device
from plop_lora.scoring.measurement.collect import Measured, merge

BEAT_SECONDS = 2.0
LOST_SECONDS = 60.0
"""Seconds without a heartbeat after which a process counts as lost: its machine is off or cannot
be reached."""
_JOIN_TIME = datetime.timedelta(minutes=5)
_EXCHANGE_TIME = datetime.timedelta(minutes=1)
_LOOK_SECONDS = 0.05
_RUNS = itertools.count()
_NOTHING = "There is no batch to score. Give at least one text or batch."


class Store(Protocol):
    """The part of the interface of torch's key-value store, shared by all processes, used here."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter and return it."""

    def set(self, key: str, value: str, /) -> None:
        """Set a key."""

    def get(self, key: str, /) -> bytes:
        """Return the value of a key."""

    def check(self, keys: list[str], /) -> bool:
        """Return whether all keys are set."""


@dataclass(eq=False)
class Heartbeats:
    """The state that the processes share: heartbeats, barriers and failures.

    Attributes:
        store: Key-value store of the run.
        index: Index of this process.
        count: Number of processes.
        lost_after: Seconds without a heartbeat after which a process counts as lost.
    """

    store: Store
    index: int
    count: int
    lost_after: float = LOST_SECONDS
    _seen: dict[int, tuple[int, float]] = field(default_factory=dict)

    def beat(self) -> None:
        """Send a heartbeat of this process."""
        self.store.add(f"beat/{self.index}", 1)

    def meet(self, turn: int) -> None:
        """Wait until every process has reached the barrier of number `turn`.

        Raises:
            ProcessError: A process has failed, or its heartbeat has stopped.
        """
        self.store.add(f"turn/{turn}", 1)
        while self.store.add(f"turn/{turn}", 0) < self.count:
            if self.store.check(["failed"]):
                reason = self.store.get("failed").decode()
                raise ProcessError(f"Another process of this run failed: {reason}")
            for other in range(self.count):
                self._check_alive(other)
            time.sleep(_LOOK_SECONDS)

    def _check_alive(self, other: int) -> None:
        beats, now = self.store.add(f"beat/{other}", 0), time.monotonic()
        if other not in self._seen or self._seen[other][0] != beats:
            self._seen[other] = (beats, now)
        if other != self.index and now - self._seen[other][1] > self.lost_after:
            raise ProcessError(
                f"Process {other} has shown no life for {self.lost_after:.0f} seconds: it or its "
                "machine has stopped. Nothing was written; start the run again."
            )

    def tell(self, error: BaseException) -> bool:
        """Record that this process failed; return whether it is the first, which reports it."""
        try:
            first = self.store.add("failures", 1) == 1
            if first:
                self.store.set("failed", f"{error} (process {self.index})")
        except RuntimeError:
            return True  # without a store, no other process can have reported a failure
        return first


@dataclass(eq=False)
class Processes:
    """The processes of a run, seen from one of them. A single process has nothing to exchange.

    Every process calls `share` and `gather` in the same order, for example once per chunk of
    batches. `gather` returns the same on every process, so that all make the same decision whether
    to stop.

    Attributes:
        index: Index of this process.
        count: Number of processes.
        board: State that the processes share; None for a single process.
    """

    index: int = 0
    count: int = 1
    board: Heartbeats | None = None
    _turn: int = 0
    _data: Any = field(default_factory=hashlib.sha256)

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.index == 0

    def device(self, wanted: str) -> str:
        """Return the device of this process, a GPU of its own for `auto` or `cuda`."""
        return own_device(wanted, self.count)

    def measure(
        self,
        chunks: Iterable[Sequence[Batch]],
        engine: Callable[[Sequence[Batch]], Measured],
        enough: Callable[[Measured], bool] = lambda measured: False,
    ) -> Measured:
        """Measure chunk after chunk, each shared by all processes, until `enough` returns true.

        Args:
            chunks: Chunks of batches, the same on every process.
            engine: Function that measures the batches of this process.
            enough: Called after each chunk with everything measured so far, which is the same on
                every process.

        Raises:
            ProcessError: Another process failed or was lost.
            DataError: The processes do not read the same data, or there is no data.
        """
        pieces: list[Measured] = []
        for chunk in chunks:
            share = self.share(chunk)
            pieces.append(self.gather(engine(share) if share else None))
            pieces = [merge(pieces)]
            if enough(pieces[0]):
                break
        if not pieces:
            raise DataError(_NOTHING)
        return pieces[0]

    def share(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Return the batches of this process, of which there may be none."""
        for batch in batches:
            self._data.update("\n".join(batch.names).encode())
        return batches[self.index :: self.count]

    def gather(self, measured: Measured | None) -> Measured:
        """Return the merged measurement of all processes, the same on each.

        Args:
            measured: Measurement of this process; None if its share was empty.

        Raises:
            ProcessError: Another process failed or was lost.
            DataError: The processes do not read the same data, or no process had a batch.
        """
        pieces = [measured] if self.board is None else self._exchanged(self.board, measured)
        present = [piece for piece in pieces if piece is not None]
        if not present:
            raise DataError(_NOTHING)
        return merge(present)

    def _exchanged(self, board: Heartbeats, measured: Measured | None) -> list[Measured | None]:
        self._turn += 1
        board.meet(self._turn)
        mine = (self._data.hexdigest(), measured)
        everyone: list[Any] = [None] * self.count
        try:
            dist.all_gather_object(everyone, mine)
        except RuntimeError as error:
            raise ProcessError(
                "The connection to another process of this run broke. That process may have been "
                "killed, for example for lack of memory. Nothing was written."
            ) from error
        different = [i for i, (digest, _) in enumerate(everyone) if digest != everyone[0][0]]
        if different:
            raise DataError(
                f"Process {different[0]} does not read the same texts as process 0. Every machine "
                "needs the same data, model folder and options."
            )
        return [piece for _, piece in everyone]


@contextlib.contextmanager
def together() -> Iterator[Processes]:
    """Join the processes that a launcher such as torchrun started, inside the `with` block.

    If one process fails, all end: the first to fail raises its error, and the others exit silently
    with code 1. Without a launcher there is a single process.

    Raises:
        ProcessError: The launcher stopped this process, or the others cannot be reached.
    """
    count = world_size()
    if count == 1:
        yield Processes()
        return
    board = _join(count)
    with _beating(board), _stoppable():
        try:
            yield Processes(board.index, count, board)
        except Exception as error:
            if board.tell(error):
                raise
            raise SystemExit(1) from None
        finally:
            dist.destroy_process_group()


def _join(count: int) -> Heartbeats:
    try:
        whole, index, count = next(rendezvous("env://", timeout=_JOIN_TIME))
        # The launcher's store outlives a run, and a second run must not read the keys of the first.
        store = PrefixStore(f"plop/{next(_RUNS)}", whole)
        dist.init_process_group(
            "gloo", store=store, rank=index, world_size=count, timeout=_EXCHANGE_TIME
        )
    except (RuntimeError, ValueError, OSError) as error:
        me, reason = os.environ.get("RANK", "?"), str(error).splitlines()[0]
        raise ProcessError(
            f"Process {me} of {count} cannot reach the others: {reason}. "
            "Start all of them with torchrun and the same rendezvous address."
        ) from error
    board = Heartbeats(store, index, count)
    board.beat()
    return board


@contextlib.contextmanager
def _beating(board: Heartbeats) -> Iterator[None]:
    """Send heartbeats from a thread, while the process loads or computes."""
    over = threading.Event()

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # the store has been closed
            while not over.wait(BEAT_SECONDS):
                board.beat()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Turn the launcher's SIGTERM into an error, so that incomplete files are removed."""

    def stop(number: int, frame: object) -> None:
        raise ProcessError(
            "The launcher stopped this run because one of its processes ended early: the lines "
            "above or below say which one and by which signal. Nothing was written."
        )

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
