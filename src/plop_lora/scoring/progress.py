"""A progress bar on stderr."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(total: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances the bar by a number of sequences.

    Nothing is drawn unless `wanted` is true and stderr is a terminal. Control batches and batches
    that run a second time do not move the bar past `total`.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not wanted or not (console.is_terminal or console.is_jupyter) or console.is_dumb_terminal:
        yield lambda rows: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("scoring", total=total)
        made = itertools.count()

        def advance(rows: int) -> None:
            for _, row in zip(range(rows), made, strict=False):
                if row < total:
                    bar.advance(task)

        yield advance
