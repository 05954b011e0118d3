"""One line on stderr, in a terminal only, that says what the user is waiting for.

Imports no more than the standard library until there is a terminal to draw on.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from plop_lora.escapes import escaped


def status(what: str, *, wanted: bool = True) -> contextlib.AbstractContextManager[object]:
    """Show a line with a spinner while the block lasts; it leaves nothing behind.

    Args:
        what: what is being done, such as `loading the model`.
        wanted: False shows nothing, as does a stderr that is no terminal.
    """
    if not wanted or not sys.stderr.isatty():
        return contextlib.nullcontext()
    from rich.console import Console
    from rich.text import Text

    return Console(stderr=True).status(Text(escaped(what)))


@contextlib.contextmanager
def counting(what: str, *, wanted: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a line with a spinner and a number, and yield the function that sets the number.

    Args:
        what: What is counted, such as "events.csv: rows".
        wanted: False shows nothing, as does a stderr that is no terminal.
    """
    if not wanted or not sys.stderr.isatty():
        yield lambda number: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(escaped(what))) as shown:
        yield lambda number: shown.update(Text(escaped(f"{what} {number:,}")))
