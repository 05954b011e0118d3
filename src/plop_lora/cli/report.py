"""`plop report`: records of one project joined in one page. No torch."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import STDOUT, ForceOption, check, write_text
from plop_lora.cli.words import OUTPUT, with_examples
from plop_lora.errors import UsageError


class PageFormat(enum.StrEnum):
    """The form of a report."""

    html = "html"
    md = "md"


class Language(enum.StrEnum):
    """The language of a report."""

    en = "en"
    ja = "ja"


@with_examples(
    ("All of a run", "plop report plop-run"),
    ("Join what there is", "plop report scores.json placement.json verification.json"),
    ("Does the choice hold?", "plop report scores.json placement.json robustness.json"),
    ("For a pull request", "plop report scores.json verdict.json -o report.md"),
    ("With what both sides answered", "plop report verdict.json --answers"),
    ("In Japanese", "plop report scores.json placement.json --lang ja -o report.html"),
)
def report(
    records: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORD",
            help="The folder of a run, or the records that plop score, place, robustness, verify, "
            "tune, finetune and gate have written, and analyses of experiments, in any order.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Write the report to this file; - is stdout.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("report.html"),
    form: Annotated[
        PageFormat | None,
        typer.Option(
            "--format",
            help="Write an HTML page or Markdown. By default the ending of the file decides.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    language: Annotated[
        Language,
        typer.Option(
            "--lang",
            help="The language of the report, English or Japanese.",
            rich_help_panel=OUTPUT,
        ),
    ] = Language.en,
    answers: Annotated[
        bool,
        typer.Option(
            "--answers",
            help="Show the answers of base and adapter to the items that a gate lists, from the "
            "evidence beside its verdict. By default no text of an item gets into a report.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    force: ForceOption = False,
) -> None:
    """Join records in one page, for whoever decides and for whoever checks the decision."""
    marked_down = _is_markdown(output, form)
    check(output, *records, force=force)
    from plop_lora.reports.page import (
        html_page,
        markdown_page,
        read_answers,
        read_files,
        results_of,
    )

    found = read_files(records)
    page = results_of(
        [record for _, record in found],
        language.value,
        answers=read_answers(found) if answers else None,
    )
    write_text(markdown_page(page) if marked_down else html_page(page), output)


def _is_markdown(output: Path, form: PageFormat | None) -> bool:
    """Return whether the report is Markdown, by `--format` or else by the ending of the file."""
    if form is not None:
        return form is PageFormat.md
    ending = output.suffix.lower()
    if output != STDOUT and ending not in (".html", ".htm", ".md"):
        raise UsageError(
            f"-o {output} ends neither in .html nor in .md. Give such a path, or say with --format "
            "html or --format md what is written."
        )
    return ending == ".md"
