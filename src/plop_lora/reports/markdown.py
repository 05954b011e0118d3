"""A table in Markdown, as for a pull request: every text of others is shown as it is."""

from __future__ import annotations

from collections.abc import Sequence

from plop_lora.reports.rows import Table, shown


def markdown(head: str, table: Table) -> str:
    """Return a table with its title as a heading and its lines as a list.

    Args:
        head: Beginning of the heading, by which the file is recognised.
        table: What to draw; control characters are shown as escapes.
    """
    table = shown(table)
    lines = [f"{head}: {cell(table.title)}", ""]
    if table.rows:
        lines += [
            _row([column.name for column in table.columns]),
            _row(["---:" if column.right else "---" for column in table.columns]),
            *(_row(row) for row in table.rows),
            "",
        ]
    return "\n".join([*lines, *(f"- {cell(line)}" for line in table.lines)]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(cell, cells))} |"


def cell(text: str) -> str:
    r"""Return a text that Markdown shows as it is and that ends no cell.

    >>> cell("a|b <c>")
    'a\\|b &lt;c>'
    """
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
