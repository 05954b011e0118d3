"""Many forward passes of one model in lockstep, block by block.

Each pass runs in a thread of its own and stops before every block: where it would call the block,
it hands the call to the scheduler and waits. The scheduler loads one block at a time, makes all
calls that wait for it, and returns each pass its result, with which it goes on to its next block.
Whatever a model does between its blocks, it does itself.

Only one thread runs at any time, so nothing that the passes share needs a lock. The blocks
themselves run in the scheduler's thread: pools of compute threads belong to the thread that made
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
    """Raised in a pass that is to end, where it waits; no handler of a model's catches it."""


@dataclass(frozen=True, slots=True, eq=False)
class CallResult:
    """The output of a block, or the error that it raised."""

    output: Any = None
    error: Exception | None = None

    def unwrap(self) -> Any:
        """Return the output, or raise the error, in the pass that waits for it."""
        if self.error is not None:
            raise self.error
        return self.output


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call of a block that a pass waits for."""

    block: nn.Module
    forward: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def run(self) -> CallResult:
        """Make the call; an error is the pass's to raise."""
        try:
            return CallResult(self.forward(*self.arguments, **self.options))
        except Exception as error:
            return CallResult(error=error)


class Pass(threading.Thread):
    """One forward pass; it moves inside `advance` only."""

    def __init__(self, job: Callable[[], object]) -> None:
        super().__init__(daemon=True, name="plop-lora-pass")
        self.call: Call | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self._job = job
        self._call_result = CallResult()
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

    def advance(self, call_result: CallResult | None = None) -> None:
        """Let the pass go on with the result of its call, up to its next call or its end."""
        self._call_result = call_result or CallResult()
        self.call = None
        if self.ident is None:
            self.start()
        else:
            self._go.release()
        self._stopped.acquire()
        self._call_result = CallResult()

    def submit(self, call: Call) -> object:
        """Hand a call to the scheduler and wait for its output. Runs in the pass's thread."""
        self.call = call
        self._stopped.release()
        self._go.acquire()
        if self._released:
            raise _ReleasedError
        return self._call_result.unwrap()

    def release(self) -> None:
        """End the pass where it waits next, and wait for that."""
        if self.ident is not None and self.is_alive():
            self._released = True
            self._go.release()
            self.join()


class BlockLoader(Protocol):
    """Loads and frees blocks for the scheduler."""

    def loaded(self, block: nn.Module) -> AbstractContextManager[None]:
        """Have the weights of a block in place while the context is open."""

    def prefetch(self, block: nn.Module) -> None:
        """Begin to load the block that will be called next."""


class PassObserver(Protocol):
    """Callbacks around the steps of the passes."""

    def running(self, index: int) -> AbstractContextManager[None]:
        """Be entered whenever pass number `index` runs, itself or a block for it."""

    def on_wait(self, index: int, call: Call) -> None:
        """Be called when a pass waits for a block."""

    def on_call(self, index: int, call: Call) -> None:
        """Be called before a call is made."""

    def on_result(self, index: int, call_result: CallResult) -> None:
        """Be called after a call was made."""


@contextlib.contextmanager
def intercepted_calls(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Hand every call that a pass makes of a block to the scheduler, for the length of the context.

    A call from outside a pass is made at once.
    """

    def interceptor(block: nn.Module, forward: Callable[..., object]) -> Callable[..., object]:
        def submit(*arguments: object, **options: object) -> object:
            thread = threading.current_thread()
            if isinstance(thread, Pass):
                return thread.submit(Call(block, forward, arguments, options))
            return forward(*arguments, **options)

        return submit

    before = {block: vars(block).get("forward") for block in blocks}
    try:
        for block in blocks:
            block.forward = interceptor(block, block.forward)
        yield
    finally:
        for block, forward in before.items():
            if forward is not None:
                block.forward = forward
            else:
                vars(block).pop("forward", None)


def run_in_lockstep(
    passes: Sequence[Pass],
    loader: BlockLoader,
    observer: PassObserver,
    fatal: Callable[[BaseException], bool],
) -> None:
    """Run all passes to their end; their results and errors stand in them afterwards.

    Args:
        passes: The passes, none of which has been started.
        loader: Loads the blocks.
        observer: Its callbacks are called at every step.
        fatal: Whether an error of one pass ends all of them; it is raised here.
    """
    try:
        for index, one in enumerate(passes):
            _advance(index, one, observer, fatal)
        while True:
            waiting = [one.call.block for one in passes if one.call is not None]
            if not waiting:
                return
            # Where a model skips a block for some batches, passes wait for different blocks.
            (block, _), *_ = Counter(waiting).most_common(1)
            with loader.loaded(block):
                _serve(block, passes, loader, observer, fatal)
    finally:
        for one in passes:
            one.release()


def _serve(
    block: nn.Module,
    passes: Sequence[Pass],
    loader: BlockLoader,
    observer: PassObserver,
    fatal: Callable[[BaseException], bool],
) -> None:
    """Make the calls that wait for a loaded block, one pass after another."""
    for index, one in enumerate(passes):
        call = one.call
        if call is None or call.block is not block:
            continue
        observer.on_call(index, call)
        with observer.running(index):
            call_result = call.run()
        observer.on_result(index, call_result)
        del call
        _advance(index, one, observer, fatal, call_result)
        del call_result
        if one.call is not None:
            loader.prefetch(one.call.block)


def _advance(
    index: int,
    one: Pass,
    observer: PassObserver,
    fatal: Callable[[BaseException], bool],
    call_result: CallResult | None = None,
) -> None:
    with observer.running(index):
        one.advance(call_result)
    if one.error is not None:
        if fatal(one.error):
            raise one.error
        # A traceback holds the frames of the pass, and they its tensors.
        one.error = one.error.with_traceback(None)
    if one.call is not None:
        observer.on_wait(index, one.call)
