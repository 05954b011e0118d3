"""`plop ab analyze`: what the observations show so far, and what to do."""

from __future__ import annotations

import enum
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plop_lora.cli.ab.options import (
    DatabaseOption,
    ExperimentOption,
    TimezoneOption,
    options_of,
    running,
)
from plop_lora.cli.output import (
    STDOUT,
    ForceOption,
    Format,
    MarkdownOutputOption,
    check,
    finish,
    say,
    waiting,
)
from plop_lora.cli.words import DATA, OUTPUT, STOPPING, with_examples
from plop_lora.records.analysis import Action, Design

if TYPE_CHECKING:
    from plop_lora.records import Analysis

HEAD = "# plop ab analyze: "


class ReportFormat(enum.StrEnum):
    """The form in which an analysis is printed on stdout."""

    table = "table"
    json = "json"
    md = "md"
    quiet = "quiet"


_FORMATS = {
    ReportFormat.table: Format.table,
    ReportFormat.json: Format.json,
    ReportFormat.md: Format.quiet,
    ReportFormat.quiet: Format.quiet,
}
"""What the other verbs would print; Markdown is printed here."""


@with_examples(
    ("Say what is known now, as often as you like", "plop ab analyze -e experiment.json"),
    (
        "Keep the analysis in Markdown, as for a pull request",
        "plop ab analyze -e experiment.json -o analysis.md",
    ),
    (
        "Look once, when all planned units have come",
        "plop ab analyze -e experiment.json --design fixed",
    ),
    (
        "With what earlier looks would have shown, for the report",
        "plop ab analyze -e experiment.json --timeline -o analysis.json",
    ),
    (
        "Analyse a file of events without a database",
        "plop ab analyze -e experiment.json --from events.csv",
    ),
)
def analyze(
    experiment: ExperimentOption,
    design: Annotated[
        Design,
        typer.Option(
            help="How often the data may be looked at: at any time (sequential), or once, at the "
            "planned number of units (fixed).",
            rich_help_panel=STOPPING,
        ),
    ] = Design.SEQUENTIAL,
    events: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Analyse this file of events in place of the database: .csv, .tsv, .jsonl or "
            ".parquet.",
            rich_help_panel=DATA,
        ),
    ] = None,
    timeline: Annotated[
        bool,
        typer.Option(
            "--timeline",
            help="Add to the record what earlier looks would have shown of the primary metric, "
            "which a report draws.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    timezone: TimezoneOption = "",
    database: DatabaseOption = None,
    output: MarkdownOutputOption = None,
    force: ForceOption = False,
    form: Annotated[
        ReportFormat,
        typer.Option(
            "--format",
            help="Print a table, one JSON document, Markdown, or nothing (quiet) on stdout.",
            rich_help_panel=OUTPUT,
        ),
    ] = ReportFormat.table,
) -> None:
    """Say what the observations show: exit 0 an arm may ship, 3 stop, 4 continue."""
    check(output, experiment, events, force=force)
    with waiting("reading the events", _FORMATS[form]):
        if events is None:
            found = _stored(experiment, database, design, timeline=timeline)
        else:
            found = _of_file(experiment, events, timezone, design, timeline=timeline)
    _finish(found, output, form)
    if form is not ReportFormat.quiet:
        say(_advice(found, options_of(experiment, database)), err=True)
    raise typer.Exit(found.exit_code)


def _stored(experiment: Path, database: str | None, design: Design, *, timeline: bool) -> Analysis:
    from plop_lora.ab.current import analyze_run

    with running(experiment, database) as run:
        return analyze_run(run, design, timeline=timeline)


def _of_file(
    experiment: Path, events: Path, timezone: str, design: Design, *, timeline: bool
) -> Analysis:
    from plop_lora.ab.current import analyze_file
    from plop_lora.ab.event_file import open_events
    from plop_lora.records import Experiment

    source = open_events(events, Experiment.load(experiment), timezone=timezone)
    return analyze_file(source, design, timeline=timeline)


def _finish(analysis: Analysis, output: Path | None, form: ReportFormat) -> None:
    """Print and save the analysis, each as Markdown where that is asked for."""
    from plop_lora.files import atomic_file
    from plop_lora.reports.markdown import table_markdown
    from plop_lora.reports.terminal import printable, table_of

    text = table_markdown(table_of(analysis), HEAD)
    printed = _FORMATS[form]
    if form is ReportFormat.md:
        typer.echo(printable(text), nl=False)
        output = None if output == STDOUT else output
    if output is None or output.suffix != ".md":
        finish(analysis, output, printed)
        return
    with atomic_file(output) as file:
        file.write(text)
    finish(analysis, None, printed)
    if form is not ReportFormat.quiet:
        say(f"Wrote {output}", err=True)


def _advice(analysis: Analysis, options: str) -> str:
    """Return what to type next."""
    if analysis.action is Action.CONTINUE:
        return "Let it go on, and look again at any time."
    decided = ["--decision", "keep"]
    if analysis.winner is not None:
        decided = ["--decision", "ship", "--arm", analysis.winner]
    command = f"plop ab stop {shlex.join(decided)} {options}".rstrip()
    what = "Keep the control" if analysis.winner is None else f"Ship {analysis.winner}"
    return f"{what}: {command} --reason REASON"
