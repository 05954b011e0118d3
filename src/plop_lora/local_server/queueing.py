"""Requests wait in a line of bounded length, and one at a time is answered in a thread.

The event loop of the server stays free meanwhile, so that it can refuse, list models, and notice
that a client has left. Imports no torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from plop_lora.local_server.refusals import RefusedError

RETRY_AFTER = 1
"""Seconds after which a client that met a full line is told to come again."""


class Job:
    """The work of one request: what it gives so far, and whether anybody still waits for it."""

    def __init__(self) -> None:
        """Begin without anything; must be called in the event loop."""
        self.cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._parts: asyncio.Queue[object] = asyncio.Queue()
        self._future: asyncio.Future[None] | None = None

    def put(self, part: object) -> None:
        """Give a part of the answer; an exception ends it, and None says that it is whole."""
        with contextlib.suppress(RuntimeError):  # the server has ended, and its loop is closed
            self._loop.call_soon_threadsafe(self._parts.put_nowait, part)

    async def parts(self) -> AsyncGenerator[Any, None]:
        """Yield the parts as they come.

        Raises:
            RefusedError: The request cannot be answered, or nobody waits for the answer any more.
        """
        while (part := await self._parts.get()) is not None:
            if isinstance(part, BaseException):
                raise part
            yield part

    def cancel(self) -> None:
        """Take the work out of the line, or end it after the next token."""
        self.cancelled.set()
        if self._future is not None:
            self._future.cancel()
        self.put(RefusedError(499, "The client has left."))


class Line:
    """A line of jobs, the first of which is worked on.

    Attributes:
        longest: Most jobs that may wait behind the one that is worked on.
    """

    def __init__(self, longest: int) -> None:
        """Start the thread that works."""
        self.longest = longest
        self._jobs = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")

    def join(self, work: Callable[[Job], None]) -> Job:
        """Put work at the end of the line.

        Args:
            work: Function that gives the job the parts of the answer. It is called in the thread.

        Raises:
            RefusedError: The line is full.
        """
        if self._jobs > self.longest:
            raise RefusedError(
                503,
                f"{self.longest} requests are waiting already, which is the most that may. Send "
                "fewer at a time, or start plop serve with a larger --queue.",
                code="queue_full",
                retry_after=RETRY_AFTER,
            )
        job = Job()
        loop = asyncio.get_running_loop()
        self._jobs += 1
        job._future = loop.run_in_executor(self._thread, _carry_out, work, job)
        job._future.add_done_callback(self._leave)
        return job

    def _leave(self, _: object) -> None:
        self._jobs -= 1


def _carry_out(work: Callable[[Job], None], job: Job) -> None:
    if job.cancelled.is_set():
        return
    try:
        work(job)
        job.put(None)
    except Exception as error:  # whatever fails is told to the client, and the next is answered
        job.put(error)
