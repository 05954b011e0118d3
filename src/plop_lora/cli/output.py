"""How every verb shows its record: as a table, as one JSON document, or not at all."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from plop_lora.files import check_writable
from plop_lora.records import Record


class Format(enum.StrEnum):
    """What goes to stdout."""

    table = "table"
    json = "json"
    quiet = "quiet"


FormatOption = Annotated[Format, typer.Option("--format", help="What to print on stdout.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write the JSON record to.")
]


def check(path: Path | None) -> None:
    """Refuse an output path before the work is done."""
    if path is not None:
        check_writable(path)


def finish(record: Record, path: Path | None, form: Format) -> None:
    """Save the record, then print it."""
    if path is not None:
        record.save(path)
    if form is Format.json:
        typer.echo(record.to_json())
    elif form is Format.table:
        from plop_lora.report.terminal import show

        show(record)
    if path is not None and form is not Format.quiet:
        typer.echo(f"Wrote {path}", err=True)
