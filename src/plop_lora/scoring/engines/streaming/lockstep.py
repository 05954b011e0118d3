"""Many forward passes of one model in lockstep, block by block.

Each pass runs in a thread of its own and stops before every block: instead of calling the block, it
submits the call to the scheduler and waits. The scheduler loads one block at a time, runs all
calls that wait for it, and returns the result to each pass, which continues to its next block. The
code of a model between its blocks runs unchanged.

Only one thread runs at any time, so the passes share data without a lock. The blocks run in the
scheduler's thread: pools of compute threads belong to the thread that created them, and a hundred
passes would create a hundred pools.

This file does not depend on weights, probes or files.
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
    """Raised in a waiting pass to end it; not an `Exception`, so that no model code catches it."""


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
        """Run the call; an error is returned, for the pass to raise."""
        try:
            return CallResult(self.forward(*self.arguments, **self.options))
        except Exception as error:
            return CallResult(error=error)


class Pass(threading.Thread):
    """One forward pass, which runs only during `advance`."""

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
        """Run the job; inference mode is local to a thread and is entered here again."""
        try:
            with torch.no_grad():
                self.result = self._job()
        except BaseException as error:
            self.error = error
        finally:
            self._stopped.release()

    def advance(self, call_result: CallResult | None = None) -> None:
        """Resume the pass with the result of its call, until its next call or its end."""
        self._call_result = call_result or CallResult()
        self.call = None
        if self.ident is None:
            self.start()
        else:
            self._go.release()
        self._stopped.acquire()
        self._call_result = CallResult()

    def submit(self, call: Call) -> object:
        """Submit a call to the scheduler and wait for its output, in the thread of the pass."""
        self.call = call
        self._stopped.release()
        self._go.acquire()
        if self._released:
            raise _ReleasedError
        return self._call_result.unwrap()

    def release(self) -> None:
        """End a waiting pass, and join its thread."""
        if self.ident is not None and self.is_alive():
            self._released = True
            self._go.release()
            self.join()


class BlockLoader(Protocol):
    """Loads and frees blocks for the scheduler."""

    def loaded(self, block: nn.Module) -> AbstractContextManager[None]:
        """Provide the weights of a block inside the context."""

    def prefetch(self, block: nn.Module) -> None:
        """Start to load the block that will be called next."""


class PassObserver(Protocol):
    """Callbacks around the steps of the passes."""

    def running(self, index: int) -> AbstractContextManager[None]:
        """Return a context that is entered whenever pass number `index`, or its block, runs."""

    def on_wait(self, index: int, call: Call) -> None:
        """Called when a pass waits for a block."""

    def on_call(self, index: int, call: Call) -> None:
        """Called before the call of a block runs."""

    def on_result(self, index: int, call_result: CallResult) -> None:
        """Called after the call of a block has run."""


@contextlib.contextmanager
def intercepted_calls(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Submit every call of a block by a pass to the scheduler, inside the `with` block.

    A call from outside a pass runs directly.
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
    """Run all passes to their end, and store results and errors in them.

    Args:
        passes: The passes, none of which has been started.
        loader: Loader of the blocks.
        observer: Observer whose callbacks are called at every step.
        fatal: Predicate that is true for an error that ends all passes and is raised here.
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
    """Run the calls that wait for a loaded block, one pass after another."""
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
        # A traceback references the frames of the pass, and they reference its tensors.
        one.error = one.error.with_traceback(None)
    if one.call is not None:
        observer.on_wait(index, one.call)
