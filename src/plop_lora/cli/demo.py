"""`plop demo`: the whole way on the bundled model and data, offline, from any folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the records it writes.")
    ] = Path("plop-demo"),
) -> None:
    """Score the bundled model, place adapters, export, and load the result into real PEFT."""
    from plop_lora.demo import run
    from plop_lora.report.terminal import printable

    run(output, echo=lambda text: typer.echo(printable(text)))
