"""`plop tune`: scores and data in, the configuration that a search confirms out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli import proof
from plop_lora.cli.output import Format, FormatOption, OutputOption, check, finish, say, waiting


def tune(
    scores: Annotated[Path, typer.Argument(help="File written by plop score.")],
    train: proof.TrainOption = None,
    evaluation: proof.EvalOption = None,
    task: proof.TaskOption = None,
    output: OutputOption = None,
    recipe: proof.RecipeOption = None,
    model: proof.ModelOption = None,
    budget: Annotated[
        str | None, typer.Option(help="Adapter parameters at most: 10M, or 0.5% of the model's.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials of ladder and search; 20 by default.")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Device-hours after which no trial starts.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Fresh seeds of the confirmation; 3 by default.")
    ] = None,
    plan: proof.PlanOption = False,
    folder: Annotated[
        Path, typer.Option(help="Of the run; started again in it, a search goes on.")
    ] = Path("plop-tune"),
    metric: proof.MetricOption = None,
    rewards: proof.RewardsOption = None,
    prompt: proof.PromptOption = None,
    completion: proof.CompletionOption = None,
    text: proof.TextOption = None,
    label: proof.LabelOption = None,
    price: proof.PriceOption = None,
    workers: proof.WorkersOption = None,
    runner: proof.RunnerOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Search placement, rank, initialisation and learning rate under a budget."""
    check(output)
    from plop_lora.recipe import TuneRecipe
    from plop_lora.records import Scores
    from plop_lora.tune import plan as plan_of
    from plop_lora.tune import tune as run

    options = proof.given(
        train=train, evaluation=evaluation, task=task, model=model, budget=budget, trials=trials,
        hours=hours, seeds=seeds, metric=metric, rewards=rewards, prompt=prompt,
        completion=completion, text=text, label=label, price=price, workers=workers, runner=runner,
    )  # fmt: skip
    wanted = TuneRecipe.read(recipe, options)
    if plan:
        with waiting("reading the data", form):
            found = plan_of(wanted, Scores.load(scores), folder)
        finish(found, output, form)
        return
    with proof.watched(wanted, folder, form) as watch:
        tuning = run(wanted, Scores.load(scores), folder, watch=watch)
    finish(tuning, output, form)
    if form is not Format.quiet:
        say(f"Wrote {folder / 'placement.json'} and {folder / 'recipe.yaml'}", err=True)
    raise typer.Exit(tuning.exit_code)
