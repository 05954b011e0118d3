"""Tables in Markdown, and the parts of a page of the documentation that a script writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from plop_lora.files import atomic_file


class PageError(Exception):
    """A page without the mark of the part that is to be written."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def turned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown whose columns are the rows that are given, and the reverse."""
    first, *others = zip(head, *rows, strict=True)
    return table(first, others)


def write_below(page: Path, mark: str, text: str, end: str | None = None) -> None:
    """Replace what stands on a page below a mark, up to another one or to the end of the page.

    Raises:
        PageError: the page does not have the marks.
    """
    before, found, rest = (page.read_text("utf-8") if page.is_file() else "").partition(mark)
    after = "" if end is None else end + rest.partition(end)[2]
    if not found or (end is not None and end not in rest):
        raise PageError(f"{page} is no page with the line {mark if not found else end}.")
    with atomic_file(page) as file:
        file.write(f"{before}{mark}\n\n{text}" + f"\n{after}" * (end is not None))


def put(page: Path | None, mark: str, text: str, end: str | None = None) -> int:
    """Write below the mark of a page, or print where there is none; return the exit code."""
    if page is None:
        print(text, end="")
        return 0
    try:
        write_below(page, mark, text, end)
    except PageError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def part_below(page: Path, mark: str, end: str | None = None) -> str:
    """Return what `write_below` wrote last."""
    text = page.read_text(encoding="utf-8").partition(f"{mark}\n\n")[2]
    return text if end is None else text.partition(f"\n{end}")[0]
