"""`plop export`: a placement in, a trainer's configuration out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import Format, FormatOption


def export(
    placement: Annotated[Path, typer.Argument(help="File written by plop place.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")],
    to: Annotated[str, typer.Option(help="Target: peft.")] = "peft",
    dry_run: Annotated[
        bool, typer.Option(help="First apply it with the real library and read it back.")
    ] = True,
    form: FormatOption = Format.table,
) -> None:
    """Write PLACEMENT as a trainer's configuration, checked by the real library."""
    from plop_lora.export import export as run
    from plop_lora.records import Placement

    loaded = Placement.load(placement)
    path = run(loaded, output, to=to, dry_run=dry_run)
    if form is Format.json:
        typer.echo(json.dumps(json.loads(path.read_text(encoding="utf-8"))))
    elif form is Format.table:
        checked = f"read back from {to}" if dry_run else "not read back (--no-dry-run)"
        typer.echo(f"{path}: {len(loaded.sites)} modules, {checked}")
