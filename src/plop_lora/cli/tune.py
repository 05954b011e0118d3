"""`plop tune`: search for the best configuration and confirm it at new seeds."""

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
from plop_lora.cli.words import PLACEMENT, RUN, STOPPING, among, strategies, with_examples
from plop_lora.recipe import TuneRecipe

KEYS = (
    *proof.TASK,
    Key("placements", PLACEMENT, among(strategies)),
    Key("trials", STOPPING),
    Key("hours", STOPPING),
    Key("seeds", STOPPING),
    *proof.HIDDEN,
)


@with_examples(
    (
        "Search at most ten million adapter parameters",
        "plop tune scores.json --train train.jsonl --eval eval.jsonl --task sft --budget 10M",
    ),
    ("Limit a search to two device-hours", "plop tune scores.json --recipe t.yaml --hours 2"),
)
@takes_recipe(TuneRecipe, KEYS)
def tune(
    scores: Annotated[Path, typer.Argument(help="The file that plop score has written.")],
    given: dict[str, object],
    recipe: proof.RecipeOption = None,
    plan: proof.PlanOption = False,
    folder: Annotated[
        Path,
        typer.Option(
            help="The folder of the run. A run that is started again in it is resumed.",
            rich_help_panel=RUN,
        ),
    ] = Path("plop-tune"),
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Search placement, rank, initialisation and learning rate: exit 0 confirmed, 4 otherwise.

    The search begins at the shortlist, which is the placement that the scores suggest.
    """
    from plop_lora.records import Scores
    from plop_lora.tuning import plan as plan_of
    from plop_lora.tuning import tune as run

    wanted = TuneRecipe.read(recipe, given)
    check(output, scores, recipe, wanted.train, wanted.eval, force=force)
    if plan:
        with waiting("reading the data", form):
            found = plan_of(Scores.load(scores), wanted, folder=folder)
        finish(found, output, form)
        return
    with proof.live_progress(wanted.price, folder, form) as watch:
        tuning = run(Scores.load(scores), wanted, folder=folder, watch=watch)
    finish(tuning, output, form)
    if form is not Format.quiet:
        say(f"Wrote {folder / 'placement.json'} and {folder / 'recipe.yaml'}", err=True)
    raise typer.Exit(tuning.exit_code)
