"""The example of a report in the documentation: written from its records, and never by hand."""

from __future__ import annotations

import re
from pathlib import Path

from plop_lora.records import GateVerdict, PipelineRun, Record, Verification
from plop_lora.reports.page import html_page, read_records, results_of

DOCS = Path(__file__).parents[1] / "docs"
RUN = DOCS / "example" / "run"


def records() -> list[Record]:
    return list(read_records([RUN]))


def test_the_page_is_the_report_of_its_records() -> None:
    """After a change of the report: make example."""
    written = (DOCS / "example" / "report.html").read_text(encoding="utf-8")
    assert written == html_page(results_of(records(), "en"))
    assert len(written.encode()) < 1_500_000


def test_what_the_page_says_of_the_run_is_so() -> None:
    """A page that is written by hand would keep an answer that the records no longer give."""
    text = (DOCS / "example.md").read_text(encoding="utf-8")
    (run,) = (record for record in records() if isinstance(record, PipelineRun))
    (verification,) = (record for record in records() if isinstance(record, Verification))
    (verdict,) = (record for record in records() if isinstance(record, GateVerdict))
    assert f"ends with {run.exit_code}" in text
    assert f"**{verification.verdict}**" in text
    assert f"**{verdict.verdict}**" in text


def test_the_example_holds_no_rows_and_no_path_of_a_machine() -> None:
    names = {path.name for path in RUN.rglob("*") if path.is_file()}
    assert not any(name.endswith(".jsonl") for name in names)
    for path in RUN.rglob("*.json"):
        assert not re.search(r'"/[a-z]+/', path.read_text(encoding="utf-8")), path
