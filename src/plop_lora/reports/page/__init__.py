"""The report page: records of one project joined in one file, to decide by and to check."""

from plop_lora.reports.page.answers import read_answers
from plop_lora.reports.page.blocks import Page, Section
from plop_lora.reports.page.html import fragment, html_page
from plop_lora.reports.page.markdown import markdown_page
from plop_lora.reports.page.notebook import Drawing, drawing_of
from plop_lora.reports.page.reading import read_files, read_records
from plop_lora.reports.page.results import results_of

__all__ = [
    "Drawing",
    "Page",
    "Section",
    "drawing_of",
    "fragment",
    "html_page",
    "markdown_page",
    "read_answers",
    "read_files",
    "read_records",
    "results_of",
]
