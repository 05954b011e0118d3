"""A few requests at the same time, in threads. Imports the standard library and the errors only."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from plop_lora.errors import PlopError

T = TypeVar("T")
R = TypeVar("R")


def each_answered(
    items: Iterable[T], ask: Callable[[T], R], concurrency: int
) -> Generator[tuple[T, R], None, None]:
    """Yield each item with its answer, as soon as it is known, in any order.

    After the first failure no further item is asked about; those under way are waited for, and
    what they give is yielded before the error is raised.

    Args:
        items: The items, which are asked about in their order.
        ask: Function that is called with an item in one of the threads.
        concurrency: Number of threads.

    Raises:
        PlopError: The first error that `ask` raised.
    """
    waiting, running = iter(items), dict[Future[R], T]()
    failure: PlopError | None = None
    with _pool(concurrency) as pool:
        while True:
            free = 0 if failure else concurrency - len(running)
            for item in itertools.islice(waiting, free):
                running[pool.submit(ask, item)] = item
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                item = running.pop(done)
                try:
                    yield item, done.result()
                except PlopError as error:
                    failure = failure or error
    if failure is not None:
        raise failure


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads; whatever ends the block early, such as Ctrl-C, does not wait."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="requests")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
