"""`plop compare`: two score files side by side. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli.output import ForceOption, Format, FormatOption, OutputOption, check, finish
from plop_lora.cli.words import with_examples


@with_examples(
    ("Does another task choose other types?", "plop compare maths.json code.json"),
    ("Did training change the scores?", "plop compare before.json after.json -o change.json"),
)
def compare(
    first: Annotated[Path, typer.Argument(help="The first file of scores.")],
    second: Annotated[
        Path,
        typer.Argument(help="The second file of scores; differences are second minus first."),
    ],
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Compare two score files type by type, of two tasks or of two checkpoints."""
    check(output, first, second, force=force)
    from plop_lora.comparison import compare as run
    from plop_lora.records import Scores

    comparison = run(
        Scores.load(first), Scores.load(second), first_name=str(first), second_name=str(second)
    )
    finish(comparison, output, form)
