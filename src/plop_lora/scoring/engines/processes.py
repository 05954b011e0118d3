"""Several processes, on one machine or many, that measure one model together.

    torchrun --nproc-per-node 4 -m plop_lora score MODEL --data DATA

Every process loads the model and the data and makes the same batches; each measures its share of
the batches, and all exchange what they measured. A batch is never cut, so that each sequence is
computed in the same company, and the sums are the same, whatever the number of processes.

The launcher starts and supervises the processes; nothing here does. What is added: of all the
processes that fail, one tells; a process that waits for another looks every moment whether that
one has failed or has stopped showing life, so that no loss can make it wait forever. torch's
`monitored_barrier` does not do this: it gives up on every process that comes late, whether slow or
lost, and carries no reason why another one failed.
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
"""A process that shows no life for so long is lost: its machine is off or cannot be reached."""
_JOIN_TIME = datetime.timedelta(minutes=5)
_EXCHANGE_TIME = datetime.timedelta(minutes=1)
_LOOK_SECONDS = 0.05
_RUNS = itertools.count()
_NOTHING = "There is no batch to score. Give at least one text or batch."


class Store(Protocol):
    """What is used of torch's store, which all processes share."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter and return it."""

    def set(self, key: str, value: str, /) -> None:
        """Set a key."""

    def get(self, key: str, /) -> bytes:
        """Return the value of a key."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all the keys are set."""


@dataclass(eq=False)
class Heartbeats:
    """What the processes tell each other beside the sums: who is alive, who waits, who failed.

    One that shows no life for `lost_after` seconds is lost.
    """

    store: Store
    index: int
    count: int
    lost_after: float = LOST_SECONDS
    _seen: dict[int, tuple[int, float]] = field(default_factory=dict)

    def beat(self) -> None:
        """Show that this process is alive."""
        self.store.add(f"beat/{self.index}", 1)

    def meet(self, turn: int) -> None:
        """Wait until every process has come to the same turn.

        Raises:
            ProcessError: one has failed, or shows no life any more.
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
                "machine is gone. Nothing was written; start the run again."
            )

    def tell(self, error: BaseException) -> bool:
        """Note that this process failed; whether it is the first, who is to tell the user."""
        try:
            first = self.store.add("failures", 1) == 1
            if first:
                self.store.set("failed", f"{error} (process {self.index})")
        except RuntimeError:
            return True  # the store is gone, and with it those who might have told
        return first


@dataclass(eq=False)
class Processes:
    """This process among `count`; alone, it shares with nobody and everything here is free.

    `share` and `gather` are called by every process in the same order, for example once for each
    chunk of batches between which a rule is asked whether to stop: what `gather` returns is the
    same everywhere, so that every process decides alike.
    """

    index: int = 0
    count: int = 1
    board: Heartbeats | None = None
    _turn: int = 0
    _data: Any = field(default_factory=hashlib.sha256)

    @property
    def first(self) -> bool:
        """Whether this process prints and writes."""
        return self.index == 0

    def device(self, wanted: str) -> str:
        """Return this process's own GPU where `auto` or `cuda` would give all the same one."""
        return own_device(wanted, self.count)

    def measure(
        self,
        chunks: Iterable[Sequence[Batch]],
        engine: Callable[[Sequence[Batch]], Measured],
        enough: Callable[[Measured], bool] = lambda measured: False,
    ) -> Measured:
        """Measure chunk after chunk, each of them together, until it is enough.

        Args:
            chunks: the same on every process.
            engine: measures the batches of this process's share.
            enough: asked after each chunk with everything so far, which is the same everywhere,
                so that every process gives the same answer.

        Raises:
            ProcessError: another process failed or is lost.
            DataError: the processes do not read the same data, or there is none.
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
        """Return this process's batches; possibly none."""
        for batch in batches:
            self._data.update("\n".join(batch.names).encode())
        return batches[self.index :: self.count]

    def gather(self, measured: Measured | None) -> Measured:
        """Return what all processes measured together, the same on each.

        Args:
            measured: what this process measured; None where its share was empty.

        Raises:
            ProcessError: another process failed or is lost.
            DataError: the processes do not read the same data, or nobody measured anything.
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
                "The connection to another process of this run broke, as it does when that one is "
                "killed, for example for want of memory. Nothing was written."
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
    """Join the processes that a launcher such as torchrun started, for the length of the block.

    Where one process fails all end: the first to fail raises its error, the others leave with
    exit code 1 and without a word. Outside a launcher there is one process.

    Raises:
        ProcessError: the launcher stopped this process, or the others cannot be reached.
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
        # the launcher's store outlives a run, and a second one must not read the notes of the first
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
    """Show life from a thread, while the process loads or computes."""
    over = threading.Event()

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # a store that is gone needs no sign of life
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
    """Turn the launcher's SIGTERM into an error, so that files under way are removed."""

    def stop(number: int, frame: object) -> None:
        raise ProcessError(
            "The launcher stopped this run, since one of its processes ended early: its lines "
            "above or below say which one and by which signal. Nothing was written."
        )

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
