"""`plop export`: a placement in, a trainer's configuration out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import Format, FormatOption


def export(
    placement: Annotated[Path, typer.Argument(help="File written by plop place.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into.")],
    to: Annotated[str, typer.Option(help="The trainer; plop export --help lists them.")] = "peft",
    dry_run: Annotated[
        bool, typer.Option(help="First apply it with the real library and read it back.")
    ] = True,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Write even if the file cannot say everything.")
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Write PLACEMENT as a trainer's configuration, checked by the real library."""
    from plop_lora.export import export as run
    from plop_lora.records import Placement

    loaded = Placement.load(placement)
    done = run(loaded, output, to=to, dry_run=dry_run, allow_loss=allow_loss)
    for loss in done.losses:
        typer.echo(f"Lost: {loss.what}: {loss.effect}.", err=True)
    if form is Format.json:
        typer.echo(done.rendered.text, nl=False)
    elif form is Format.table:
        reader = done.target.read_by or to
        checked = f"read back from {reader}" if done.checked else "not read back"
        typer.echo(f"{done.path}: {len(loaded.sites)} adapters, {checked}")
        typer.echo(done.target.description)
