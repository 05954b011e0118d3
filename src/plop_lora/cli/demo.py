"""`plop demo`: all steps on the bundled model and data, offline, from any folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import Format, waiting
from plop_lora.cli.words import OUTPUT, with_examples


@with_examples(("Run all steps in a minute, offline", "plop demo"))
def demo(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Write the records into this folder.", rich_help_panel=OUTPUT
        ),
    ] = Path("plop-demo"),
) -> None:
    """Score the bundled model, place adapters, export them, and load the result with PEFT."""
    from plop_lora.demo import check, run
    from plop_lora.reports.terminal import printable

    check(output)
    with waiting("loading torch and transformers", Format.table):
        from plop_lora.models.loading import quiet_loading
    quiet_loading()
    run(output, echo=lambda text: typer.echo(printable(text)))
