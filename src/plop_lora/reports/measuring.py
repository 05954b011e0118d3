"""The progress of a gate on stderr: a bar for each suite in a terminal, lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from plop_lora.reports.costs import duration

if TYPE_CHECKING:
    from rich.console import Console

EVERY_SECONDS = 30.0
"""Seconds between two lines of a log."""
Watch = Callable[[str, int, int], None]


@contextlib.contextmanager
def measuring(*, wanted: bool, clock: Callable[[], float] = time.monotonic) -> Iterator[Watch]:
    """Yield a function that takes a suite, the number of its items that are measured, and of all.

    Args:
        wanted: False shows nothing.
        clock: Function that returns the time in seconds.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not wanted:
        yield lambda suite, done, count: None
    elif console.is_terminal and not console.is_dumb_terminal:
        with _bars(console) as watch:
            yield watch
    else:
        yield _lines(clock)


@contextlib.contextmanager
def _bars(console: Console) -> Iterator[Watch]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TaskID as Bar
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=console, transient=True) as progress:
        bars: dict[str, Bar] = {}

        def watch(suite: str, done: int, count: int) -> None:
            if suite not in bars:
                bars[suite] = progress.add_task(suite, total=count)
            progress.update(bars[suite], completed=done)

        yield watch


def _lines(clock: Callable[[], float]) -> Watch:
    """Return a function that writes a line at the end of a suite, and every half a minute."""
    began: dict[str, tuple[float, int]] = {}
    told = clock()

    def watch(suite: str, done: int, count: int) -> None:
        nonlocal told
        now = clock()
        start, before = began.setdefault(suite, (now, done))
        if done < count and now - told < EVERY_SECONDS:
            return
        told = now
        pace = (now - start) / (done - before) if done > before else 0.0
        left = f"; about {duration(pace * (count - done))} to go" if pace and done < count else ""
        print(f"{suite}: {done:,} of {count:,} items{left}", file=sys.stderr, flush=True)

    return watch
