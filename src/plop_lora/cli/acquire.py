"""`plop acquire`: read, split and clean the rows that all other verbs use. No torch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plop_lora.cli.keys import Key, takes_recipe
from plop_lora.cli.output import (
    STDOUT,
    ForceOption,
    Format,
    FormatOption,
    MarkdownOutputOption,
    check,
    finish,
    say,
    waiting,
)
from plop_lora.cli.proof import RecipeOption
from plop_lora.cli.words import DATA, OUTPUT, TRAINING, among, tasks, with_examples
from plop_lora.errors import UsageError
from plop_lora.recipe import AcquireRecipe

if TYPE_CHECKING:
    from plop_lora.records import Acquisition

KEYS = (
    Key("train", DATA),
    Key("eval", DATA),
    Key("task", TRAINING, among(tasks)),
    Key("acquire.licence", DATA),
    Key("prompt", DATA, hidden=True),
    Key("completion", DATA, hidden=True),
    Key("text", DATA, hidden=True),
    Key("label", DATA, hidden=True),
)


@with_examples(
    ("Hold out evaluation rows, and clean both sets", "plop acquire --train rows.jsonl"),
    (
        "Remove training rows that hold an evaluation row",
        "plop acquire --train train.jsonl --eval eval.jsonl --folder acquired",
    ),
    (
        "Hold out whole customers, and refuse rows with personal data",
        "plop acquire --train rows.jsonl --set acquire.split.by=group "
        "--set acquire.split.column=customer --set acquire.personal.action=refuse",
    ),
)
@takes_recipe(AcquireRecipe, KEYS, example="acquire.split.share=0.2")
def acquire(
    given: dict[str, object],
    recipe: RecipeOption = None,
    folder: Annotated[
        Path,
        typer.Option(
            help="The folder that is written: train.jsonl, eval.jsonl and acquisition.json.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("acquired"),
    output: MarkdownOutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Split, clean and check the rows that all other commands read: exit 0 written, 3 refused.

    Rows are refused where the settings say so, such as acquire.personal.action=refuse.
    """
    wanted = AcquireRecipe.read(recipe, given)
    check(output, recipe, wanted.train, wanted.eval, force=force)
    _check_outside(output, folder)
    from plop_lora.acquisition import TRAIN_FILE
    from plop_lora.acquisition import acquire as step

    with waiting("reading and comparing the rows", form):
        record = step(wanted, folder)
    _finish(record, output, form)
    if not record.refused and form is not Format.quiet:
        data = shlex.quote(str(folder / TRAIN_FILE))
        say(f"Wrote {folder}. Next: plop score MODEL --data {data}", err=True)
    raise typer.Exit(record.exit_code)


def _check_outside(output: Path | None, folder: Path) -> None:
    """Refuse an output in the folder, which is replaced whole the next time."""
    if output is None or output == STDOUT:
        return
    if output.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"-o {output} lies in {folder}, which is replaced as a whole. Give a path outside of "
            "it; the folder has the record anyway."
        )


def _finish(record: Acquisition, output: Path | None, form: Format) -> None:
    """Print the record and save it, as Markdown where the path ends in .md."""
    from plop_lora.reports.acquisition import acquisition_markdown

    finish(record, output, form, markdown=acquisition_markdown)
