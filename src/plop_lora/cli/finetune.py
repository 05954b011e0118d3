"""`plop finetune`: train the adapter that ships, and compare it with the base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli import proof
from plop_lora.cli.keys import Key, takes_recipe
from plop_lora.cli.output import (
    ForceOption,
    Format,
    FormatOption,
    OutputOption,
    check,
    finish,
    say,
    waiting,
)
from plop_lora.cli.words import PLACEMENT, RUN, STOPPING, TRAINING, with_examples
from plop_lora.recipe import FinalRecipe

KEYS = (
    *(key for key in proof.TASK if key.path != "budget"),
    Key("finetune.learning_rate", TRAINING),
    Key("finetune.epochs", TRAINING),
    Key("finetune.patience", STOPPING),
    *(key for key in proof.HIDDEN if key.path not in ("rank", "top")),
)


@with_examples(
    (
        "Train what a verification has chosen",
        "plop finetune verification.json --recipe recipe.yaml --folder adapter-v1",
    ),
    (
        "Print what would run, without loading the model",
        "plop finetune placement.json --recipe recipe.yaml --plan",
    ),
    (
        "Train on all rows, without early stopping",
        "plop finetune placement.json --recipe recipe.yaml --patience 0 --epochs 3",
    ),
)
@takes_recipe(FinalRecipe, KEYS)
def finetune(
    source: Annotated[
        Path,
        typer.Argument(
            help="The file of a placement, of a verification or of a tuning: plop place -o, plop "
            "verify -o and plop tune -o write them."
        ),
    ],
    given: dict[str, object],
    recipe: proof.RecipeOption = None,
    arm: Annotated[
        str | None,
        typer.Option(
            help="The arm of a verification, which is one of its placements, that is trained. By "
            "default the shortlist, or the arm that was better.",
            rich_help_panel=PLACEMENT,
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Only print what would be trained, on which rows, and how long it would take.",
            rich_help_panel=RUN,
        ),
    ] = False,
    folder: Annotated[
        Path,
        typer.Option(
            help="The folder of the run, which gets the adapter. A run that is started again in it "
            "is resumed.",
            rich_help_panel=RUN,
        ),
    ] = Path("plop-finetune"),
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Train the adapter that ships: exit 0 better than the base, 3 worse, 4 cannot separate."""
    from plop_lora.finetuning import finetune as run
    from plop_lora.finetuning import plan as plan_of

    wanted = FinalRecipe.read(recipe, given)
    check(output, source, recipe, wanted.train, wanted.eval, force=force)
    if plan:
        with waiting("reading the data", form):
            found = plan_of(source, wanted, folder=folder, arm=arm)
        finish(found, output, form)
        return
    kept = "Complete checkpoints are kept."
    with proof.live_progress(wanted.price, folder, form, kept) as watch:
        record = run(source, wanted, folder=folder, arm=arm, watch=watch)
    finish(record, output, form)
    if form is not Format.quiet:
        say(f"Wrote {folder / 'adapter'} and {folder / 'finetune.json'}", err=True)
    raise typer.Exit(record.exit_code)
