"""A few requests at the same time, in threads. Imports the standard library and the errors only."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from plop_lora.errors import PlopError

T = TypeVar("T")
R = TypeVar("R")


def each_answered(
    items: Iterable[T], ask: Callable[[T], R], concurrency: int
) -> Generator[tuple[T, R], None, None]:
    """Yield each item with its answer, as soon as it is known, in any order.

    After the first failure no further item is asked about; those under way are waited for, and
    what they give is yielded before the error is raised. Ctrl-C waits for none: a pool of
    `concurrent.futures` would be joined when the process ends, for as long as a request may take.

    Args:
        items: The items, which are asked about in their order.
        ask: Function that is called with an item in one of the threads.
        concurrency: Number of threads.

    Raises:
        PlopError: The first error that `ask` raised.
    """
    found: queue.SimpleQueue[tuple[T, R] | BaseException | None] = queue.SimpleQueue()
    waiting, turn, stopped = iter(items), threading.Lock(), threading.Event()

    def work() -> None:
        try:
            while not stopped.is_set():
                with turn:
                    item = next(waiting)
                found.put((item, ask(item)))
        except StopIteration:
            pass
        except BaseException as error:  # raised again in the thread that reads
            stopped.set()
            found.put(error)
        found.put(None)

    for number in range(concurrency):
        threading.Thread(target=work, name=f"requests-{number}", daemon=True).start()
    try:
        yield from _read(found, concurrency)
    finally:
        stopped.set()


def _read(
    found: queue.SimpleQueue[tuple[T, R] | BaseException | None], running: int
) -> Generator[tuple[T, R], None, None]:
    """Yield what the threads find until all of them have ended."""
    failure: PlopError | None = None
    while running:
        one = found.get()
        if one is None:
            running -= 1
        elif isinstance(one, PlopError):
            failure = failure or one
        elif isinstance(one, BaseException):
            raise one
        else:
            yield one
    if failure is not None:
        raise failure
