"""A record as a notebook draws it: the figures of its report, apart from the notebook's styles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from plop_lora.files import atomic_file
from plop_lora.records import Record
from plop_lora.reports.page.blocks import Page
from plop_lora.reports.page.html import fragment, html_page
from plop_lora.reports.page.results import results_of

BESIDE = ("study", "provenance")
"""Sections that say nothing of the record itself, which a notebook leaves out."""


@dataclass(frozen=True, slots=True, repr=False)
class Drawing:
    """The figures of a record, which a notebook draws where the object is the value of a cell."""

    page: Page

    def __repr__(self) -> str:
        """Return the titles of the figures, for a prompt that draws nothing."""
        titles = (figure.title for section in self.page.sections for figure in section.figures)
        return f"<Drawing: {'; '.join(titles)}>"

    def _repr_html_(self) -> str:
        return fragment(self.page)

    def save(self, path: str | Path) -> Path:
        """Write the drawing as one HTML file that needs no other, and return the path.

        Raises:
            OutputError: The path cannot be written. An older file there is left unchanged.
        """
        with atomic_file(Path(path)) as file:
            file.write(html_page(self.page))
        return Path(path)


def drawing_of(record: Record, language: str = "en") -> Drawing:
    """Return the figures of one record, each with its table.

    Args:
        record: A record that a report shows.
        language: Language of the words, `en` or `ja`.

    Raises:
        UsageError: A report does not show such records, or the language is unknown.
    """
    page = results_of([record], language)
    drawn = tuple(section for section in page.sections if section.name not in BESIDE)
    return Drawing(replace(page, sections=drawn))
