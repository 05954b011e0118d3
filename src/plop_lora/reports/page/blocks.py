"""What a page consists of, before it is HTML or Markdown: facts, sections, figures and tables.

Every text is plain: markup is added, and hostile characters are escaped, where a page is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Tone(StrEnum):
    """How a fact is to be taken; shown by a sign as well as by a colour."""

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"
    PLAIN = "plain"


SIGNS = {Tone.GOOD: "✓ ", Tone.BAD: "✗ ", Tone.OPEN: "? ", Tone.PLAIN: ""}
"""The sign before a text that has a tone."""


class Fold(StrEnum):
    """Whether a table can be folded away on the page, and how it is shown at first."""

    NEVER = "never"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataTable:
    """A table of texts.

    Attributes:
        caption: What it shows.
        columns: Names of the columns.
        rows: The cells, row by row.
        numeric: Of each column whether it is aligned to the right.
        fold: Whether it can be folded away on the page.
        brief: The most rows in Markdown; None shows all of them, or none of a long table.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    fold: Fold = Fold.NEVER
    brief: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A drawing, with the table that says the same.

    Attributes:
        name: Name of the figure in the page, in letters and hyphens.
        title: What it shows.
        alt: Text for those who do not see it.
        spec: Vega-Lite specification with its data. The name of a field is fixed, and no text of a
            record is part of an expression.
        table: The values as a table.
        canvas: Whether it has too many marks for an element each.
    """

    name: str
    title: str
    alt: str
    spec: dict[str, Any]
    table: DataTable
    canvas: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Explorer:
    """What the page needs to give every budget its ranks, by the rule of `plop place --budget`.

    Attributes:
        types: The chosen module types, by preference.
        weights: For each type the (parameters of one rank, largest rank, number) of its weights in
            their order, those alike and next to each other together.
        smallest: Parameters of rank 1 on every weight.
        largest: Parameters of the largest rank on every weight.
        start: The budget that is shown first.
        command: The command without its budget, which follows at the end.
    """

    types: tuple[str, ...]
    weights: tuple[tuple[tuple[int, int, int], ...], ...]
    smallest: int
    largest: int
    start: int
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file that the page holds."""

    name: str
    content: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One fact of the first screen."""

    label: str
    value: str
    detail: str = ""
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the page; `quotes` are sentences of a record, which are not translated."""

    name: str
    title: str
    lines: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    explorer: Explorer | None = None
    tables: tuple[DataTable, ...] = ()
    quotes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A report: what was asked, the answer, the facts of the first screen, and the sections."""

    language: str
    title: str
    question: str
    answer: str
    tone: Tone
    facts: tuple[Fact, ...]
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
