"""`plop doctor`: what is installed, and what would be used."""

from __future__ import annotations

import typer

from plop_lora.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    OutputOption,
    check,
    finish,
    waiting,
)
from plop_lora.cli.words import with_examples


@with_examples(
    ("See versions, devices and caches", "plop doctor"),
    ("For a report of a problem", "plop doctor --format json"),
)
def doctor(
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Show versions, devices, caches and what would be used; nothing secret is read or shown."""
    check(output, force=force)
    with waiting("looking at torch and the devices", form):
        from plop_lora.installation import examine

        found = examine()
    finish(found, output, form)
    raise typer.Exit(found.exit_code)
