"""Many forward passes of one model in lockstep, block by block.

Each pass runs in a thread of its own and stops at the door of every block: where it would call
the block, it leaves the call with the conductor and waits. The conductor opens one block at a
time, makes all calls that wait for it, and gives each pass its answer, with which it goes on to
its next door. Whatever a model does between its blocks, it does itself.

Only one thread runs at any time, so nothing that the passes share needs a lock. The blocks
themselves run in the conductor's thread: pools of compute threads belong to the thread that made
them, and a hundred passes would make a hundred pools.

Knows nothing of weights, probes or files.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


class _ReleasedError(BaseException):
    """Raised at the door of a pass that is to end; no handler of a model's catches it."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a block gave, or how it failed."""

    result: Any = None
    error: Exception | None = None

    def give(self) -> Any:
        """Return the result, or raise the error, where the pass waits for it."""
        if self.error is not None:
            raise self.error
        return self.result


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call of a block that a pass waits for."""

    block: nn.Module
    forward: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def make(self) -> Answer:
        """Make the call; an error is the pass's to raise."""
        try:
            return Answer(self.forward(*self.arguments, **self.options))
        except Exception as error:
            return Answer(error=error)


class Pass(threading.Thread):
    """One forward pass; it moves inside `advance` only."""

    def __init__(self, job: Callable[[], object]) -> None:
        super().__init__(daemon=True, name="plop-lora-pass")
        self.call: Call | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self._job = job
        self._answer = Answer()
        self._released = False
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)

    def run(self) -> None:
        """Do the job; inference mode belongs to a thread and is entered here again."""
        try:
            with torch.inference_mode():
                self.result = self._job()
        except BaseException as error:
            self.error = error
        finally:
            self._stopped.release()

    def advance(self, answer: Answer | None = None) -> None:
        """Let the pass go on with the answer to its call, up to its next call or its end."""
        self._answer = answer or Answer()
        self.call = None
        if self.ident is None:
            self.start()
        else:
            self._go.release()
        self._stopped.acquire()
        self._answer = Answer()

    def ask(self, call: Call) -> object:
        """Leave a call with the conductor and wait for the answer. Runs in the pass's thread."""
        self.call = call
        self._stopped.release()
        self._go.acquire()
        if self._released:
            raise _ReleasedError
        return self._answer.give()

    def release(self) -> None:
        """End the pass at its next door and wait for that."""
        if self.ident is not None and self.is_alive():
            self._released = True
            self._go.release()
            self.join()


class Doors(Protocol):
    """What opens and closes blocks for the conductor."""

    def open(self, block: nn.Module) -> AbstractContextManager[None]:
        """Have the block ready while the context is open."""

    def expect(self, block: nn.Module) -> None:
        """Hear which block comes next."""


class PassObserver(Protocol):
    """What happens around the steps of a pass."""

    def turn(self, index: int) -> AbstractContextManager[None]:
        """Be entered whenever pass number `index` runs, itself or a block for it."""

    def waits(self, index: int, call: Call) -> None:
        """Hear that a pass waits at a door."""

    def comes(self, index: int, call: Call) -> None:
        """Hear that the call is about to be made."""

    def answered(self, index: int, answer: Answer) -> None:
        """Hear what a block gave."""


@contextlib.contextmanager
def doors_at(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Put a door at every block for the length of the context.

    A call from outside a pass goes straight through.
    """

    def door(block: nn.Module, forward: Callable[..., object]) -> Callable[..., object]:
        def ask(*arguments: object, **options: object) -> object:
            thread = threading.current_thread()
            if isinstance(thread, Pass):
                return thread.ask(Call(block, forward, arguments, options))
            return forward(*arguments, **options)

        return ask

    before = {block: vars(block).get("forward") for block in blocks}
    try:
        for block in blocks:
            block.forward = door(block, block.forward)
        yield
    finally:
        for block, forward in before.items():
            if forward is not None:
                block.forward = forward
            else:
                vars(block).pop("forward", None)


def conduct(
    passes: Sequence[Pass],
    doors: Doors,
    turns: PassObserver,
    fatal: Callable[[BaseException], bool],
) -> None:
    """Run all passes to their end; their results and errors stand in them afterwards.

    Args:
        passes: not started yet.
        doors: opens the blocks.
        turns: told of every step.
        fatal: whether an error of one pass ends all of them; it is raised here.
    """
    try:
        for index, one in enumerate(passes):
            _advance(index, one, turns, fatal)
        while True:
            waiting = [one.call.block for one in passes if one.call is not None]
            if not waiting:
                return
            # A model that skips a block for some batches leaves passes at different doors.
            (block, _), *_ = Counter(waiting).most_common(1)
            with doors.open(block):
                _serve(block, passes, doors, turns, fatal)
    finally:
        for one in passes:
            one.release()


def _serve(
    block: nn.Module,
    passes: Sequence[Pass],
    doors: Doors,
    turns: PassObserver,
    fatal: Callable[[BaseException], bool],
) -> None:
    """Make the calls that wait for an open block, one pass after another."""
    for index, one in enumerate(passes):
        call = one.call
        if call is None or call.block is not block:
            continue
        turns.comes(index, call)
        with turns.turn(index):
            answer = call.make()
        turns.answered(index, answer)
        del call
        _advance(index, one, turns, fatal, answer)
        del answer
        if one.call is not None:
            doors.expect(one.call.block)


def _advance(
    index: int,
    one: Pass,
    turns: PassObserver,
    fatal: Callable[[BaseException], bool],
    answer: Answer | None = None,
) -> None:
    with turns.turn(index):
        one.advance(answer)
    if one.error is not None:
        if fatal(one.error):
            raise one.error
        # A traceback holds the frames of the pass, and they its tensors.
        one.error = one.error.with_traceback(None)
    if one.call is not None:
        turns.waits(index, one.call)
