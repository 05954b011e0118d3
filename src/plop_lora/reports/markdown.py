"""Draw rows as Markdown, as for a pull request or a message."""

from __future__ import annotations

from plop_lora.reports.rows import Table, shown


def table_markdown(table: Table, head: str) -> str:
    """Return a table in Markdown: a heading, the rows, and the lines below them as a list.

    Names that others chose move no cursor and end no cell.

    Args:
        table: Rows of text.
        head: Beginning of the heading, with its mark.
    """
    table = shown(table)
    lines = [f"{head}{_cell(table.title)}", ""]
    lines += [
        _row([column.name for column in table.columns]),
        _row(["---:" if column.right else "---" for column in table.columns]),
        *(_row(row) for row in table.rows),
        "",
    ]
    text = "\n".join([*lines, *(f"- {_cell(line)}" for line in table.lines)]) + "\n"
    return text + "".join(f"\n{table_markdown(other, '## ')}" for other in table.more)


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    r"""Return a text that Markdown shows as it is and that ends no cell.

    >>> _cell("a|b <c>")
    'a\\|b &lt;c>'
    """
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
