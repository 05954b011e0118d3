"""`plop verify`: compare placements by finetunes with an equal budget, and give a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    waiting,
)
from plop_lora.cli.words import PLACEMENT, RUN, STOPPING, among, arms, with_examples
from plop_lora.recipe import VerifyRecipe
from plop_lora.recipe.verify import DESIGNS, OUTCOMES

if TYPE_CHECKING:
    from plop_lora.records import Scores

KEYS = (
    *proof.TASK,
    Key("arms", PLACEMENT, among(arms)),
    Key("design", STOPPING, among(lambda: DESIGNS)),
    Key("seeds", STOPPING),
    Key("decide_by", STOPPING, among(lambda: OUTCOMES)),
    Key("margin", STOPPING),
    Key("quick", STOPPING),
    *proof.HIDDEN,
)


@with_examples(
    (
        "Print what it would cost, without running anything",
        "plop verify scores.json --train train.jsonl --eval eval.jsonl --task sft --plan",
    ),
    (
        "Compare with two rivals at three seeds",
        "plop verify scores.json --recipe study.yaml --arms attention,all-linear --seeds 3",
    ),
)
@takes_recipe(VerifyRecipe, KEYS)
def verify(
    scores: Annotated[Path, typer.Argument(help="The file that plop score has written.")],
    given: dict[str, object],
    recipe: proof.RecipeOption = None,
    plan: proof.PlanOption = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the run. A run that is started again in it is resumed. By default "
            "a folder in plop-verify that follows from recipe and scores.",
            rich_help_panel=RUN,
        ),
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Verify SCORES by equal-budget finetunes: exit 0 confirmed, 3 beaten, 4 cannot separate.

    The shortlist, which is the placement that the scores suggest, is compared with rival
    placements. Each of them is an arm: trained on the same rows, with as many adapter parameters
    and a learning rate of its own.
    """
    from plop_lora.records import Scores

    wanted = VerifyRecipe.read(recipe, given)
    check(output, scores, recipe, wanted.train, wanted.eval, *wanted.arms, force=force)
    _run(Scores.load(scores), wanted, folder, output, form, plan=plan)


def _run(
    scores: Scores,
    recipe: VerifyRecipe,
    folder: Path | None,
    output: Path | None,
    form: Format,
    *,
    plan: bool,
) -> None:
    from plop_lora.study.folder import default_folder
    from plop_lora.verification import run as step

    folder = folder or default_folder(recipe, scores)
    if plan:
        with waiting("reading the data", form):
            found = step.plan(scores, recipe, folder=folder)
        finish(found, output, form)
        return
    with proof.live_progress(recipe.price, folder, form) as watch:
        record = step.verify(scores, recipe, folder=folder, watch=watch)
    finish(record, output, form)
    raise typer.Exit(record.exit_code)
