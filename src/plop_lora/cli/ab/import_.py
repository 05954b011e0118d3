"""`plop ab import`: store the events of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.ab.options import DatabaseOption, ExperimentOption, TimezoneOption, running
from plop_lora.cli.output import Format, FormatOption, finish
from plop_lora.cli.words import with_examples
from plop_lora.status import counting


@with_examples(
    ("Values and exposures, one a row", "plop ab import events.csv -e experiment.json"),
    (
        "Times without a zone, of a machine in Berlin",
        "plop ab import events.parquet -e experiment.json --timezone Europe/Berlin",
    ),
)
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="The file: .csv, .tsv, .jsonl or .parquet, or - for standard input. Columns: "
            "unit, at, and name with value or a column for each value; optional arm, id and kind."
        ),
    ],
    experiment: ExperimentOption,
    timezone: TimezoneOption = "",
    database: DatabaseOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Store the events of FILE; all rows are checked first, and a second import adds nothing."""
    from plop_lora.ab.event_file import open_events
    from plop_lora.ab.importing import import_events

    with running(experiment, database) as run:
        source = open_events(file, run.experiment, timezone=timezone)
        with counting(f"{file}: rows", wanted=form is not Format.quiet) as told:
            found = import_events(source, run, told)
    finish(found, None, form)
