"""The report page: records of one project joined in one file, to decide by and to check."""

from plop_lora.reports.page.blocks import Page, Section
from plop_lora.reports.page.html import fragment, html_page
from plop_lora.reports.page.markdown import markdown_page
from plop_lora.reports.page.reading import read_records
from plop_lora.reports.page.results import results_of

__all__ = [
    "Page",
    "Section",
    "fragment",
    "html_page",
    "markdown_page",
    "read_records",
    "results_of",
]
