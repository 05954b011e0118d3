"""`plop compare`: two score files side by side. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import ForceOption, Format, FormatOption, OutputOption, check, finish


def compare(
    first: Annotated[Path, typer.Argument(help="Scores, the base of the difference.")],
    second: Annotated[Path, typer.Argument(help="Scores that the base is taken from.")],
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Lay two score files side by side: two tasks, or two checkpoints."""
    check(output, first, second, force=force)
    from plop_lora.comparison import compare as run
    from plop_lora.records import Scores

    comparison = run(
        Scores.load(first), Scores.load(second), first_name=str(first), second_name=str(second)
    )
    finish(comparison, output, form)
