"""The page as Markdown, as for a pull request: everything but the drawings, whose tables stay.

A table that is long, as that of a map, would fill the request, and is left to the HTML page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from plop_lora.escapes import escaped
from plop_lora.reports.page.blocks import SIGNS, DataTable, Page, Section, Tone
from plop_lora.reports.page.html import MARK
from plop_lora.reports.text import Text, text

LONGEST = 30
"""The most rows of a table that is shown."""
WIDEST = 12
"""The most columns of one."""
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|<>~@&$])")


def markdown_page(page: Page) -> str:
    """Return the page as Markdown; text of records shows as it is and links nowhere."""
    words = text(page.language)
    lines = [MARK, "", f"# {plain(page.title)}", "", plain(page.question), ""]
    lines += [f"**{SIGNS[page.tone]}{plain(page.answer)}**", ""]
    lines += [f"**{SIGNS[Tone.BAD]}{plain(warning)}**\n" for warning in page.warnings]
    lines += [
        f"- {plain(fact.label)}: **{SIGNS[fact.tone]}{plain(fact.value)}**"
        + (f" ({plain(fact.detail)})" if fact.detail else "")
        for fact in page.facts
    ]
    for section in page.sections:
        lines += ["", *_section(section, words)]
    return "\n".join(lines) + "\n"


def _section(section: Section, words: Text) -> Iterator[str]:
    yield f"## {plain(section.title)}"
    for line in section.lines:
        yield from ("", plain(line))
    shown = dict.fromkeys((*(figure.table for figure in section.figures), *section.tables))
    for table in shown:
        if len(table.rows) <= LONGEST and len(table.columns) <= WIDEST:
            yield from ("", *_table(table))
    if section.commands:
        yield from ("", *(f"    {escaped(command)}" for command in section.commands))
    if section.quotes:
        yield from ("", f"{plain(words('page.notes'))}:", "")
        yield from (f"- {plain(quote)}" for quote in section.quotes)


def _table(table: DataTable) -> list[str]:
    return [
        f"**{plain(table.caption)}**",
        "",
        _row(table.columns),
        _row(["---:" if right else "---" for right in table.numeric], marked=True),
        *map(_row, table.rows[: table.brief]),
    ]


def _row(cells: tuple[str, ...] | list[str], *, marked: bool = False) -> str:
    return f"| {' | '.join(cells if marked else map(plain, cells))} |"


def plain(value: str) -> str:
    r"""Return a text on one line in which Markdown finds nothing to interpret.

    >>> plain("a|b <c> @all")
    'a\\|b \\<c\\> \\@all'
    """
    return _MARKUP.sub(r"\\\1", escaped(" ".join(value.split()))).replace("://", ":\u200b//")
