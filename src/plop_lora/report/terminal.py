"""Draw the rows: rich tables for a terminal, plain text for `print`, HTML for a notebook."""

from __future__ import annotations

import html
import io
from typing import Any

from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from plop_lora.records import Comparison, Placement, Record, Scores
from plop_lora.report.rows import Table, comparison_table, placement_table, scores_table

PLAIN_WIDTH = 120


def table_of(record: Record) -> Table:
    """Return the table of a record.

    Raises:
        TypeError: no table is known for this kind of record.
    """
    if isinstance(record, Scores):
        return scores_table(record)
    if isinstance(record, Placement):
        return placement_table(record)
    if isinstance(record, Comparison):
        return comparison_table(record)
    raise TypeError(f"no table for a {type(record).__name__}")


def as_rich(record: Record) -> Group:
    """Return the record as a rich renderable."""
    table = table_of(record)
    drawn = RichTable(title=table.title, title_justify="left", title_style="bold")
    for column in table.columns:
        right = column.startswith(">")
        drawn.add_column(
            column.removeprefix(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap="interval" in column,
        )
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return Group(drawn, *(Text(line) for line in table.lines))


def as_text(record: Record) -> str:
    """Return the table as plain text, without colours."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=PLAIN_WIDTH, color_system=None)
    console.print(as_rich(record))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def as_html(record: Record) -> str:
    """Return the table as an HTML fragment; every cell is escaped."""
    table = table_of(record)
    heads = "".join(f"<th>{html.escape(name.removeprefix('>'))}</th>" for name in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in table.lines)
    caption = f"<caption>{html.escape(table.title)}</caption>"
    return f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{lines}"


def show(record: Record, console: Any = None) -> None:
    """Print the table to stdout, or to the given console."""
    (console or Console()).print(as_rich(record))
