"""`plop tune`: scores and data in, the configuration that a search confirms out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli import proof
from plop_lora.cli.numbers import bounded
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
from plop_lora.cli.words import PLACEMENT, RUN, STOPPING, with_examples


@with_examples(
    (
        "Search at most ten million adapter parameters",
        "plop tune scores.json --train train.jsonl --eval eval.jsonl --task sft --budget 10M",
    ),
    ("Go on with a search for two device-hours", "plop tune scores.json --recipe t.yaml --hours 2"),
)
def tune(
    scores: Annotated[Path, typer.Argument(help="The file that plop score has written.")],
    train: proof.TrainOption = None,
    evaluation: proof.EvalOption = None,
    task: proof.TaskOption = None,
    recipe: proof.RecipeOption = None,
    model: proof.ModelOption = None,
    revision: proof.RevisionOption = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Spend at most this many adapter parameters: 10M, or 0.5% of the model's.",
            rich_help_panel=PLACEMENT,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="Run this many trials of the ladder and the search; 20 by default.",
            callback=bounded(1),
            rich_help_panel=STOPPING,
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            help="Start no trial after this many device-hours.",
            callback=bounded(above=0),
            rich_help_panel=STOPPING,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Confirm with this many fresh seeds; 3 by default.",
            callback=bounded(1),
            rich_help_panel=STOPPING,
        ),
    ] = None,
    plan: proof.PlanOption = False,
    folder: Annotated[
        Path,
        typer.Option(
            help="Keep the run in this folder; started again in it, the search goes on.",
            rich_help_panel=RUN,
        ),
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
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Search placement, rank, initialisation and learning rate under a budget."""
    from plop_lora.recipe import TuneRecipe
    from plop_lora.records import Scores
    from plop_lora.tuning import plan as plan_of
    from plop_lora.tuning import tune as run

    options = proof.given(
        train=train, evaluation=evaluation, task=task, model=model,
        revision=revision, budget=budget, trials=trials,
        hours=hours, seeds=seeds, metric=metric, rewards=rewards, prompt=prompt,
        completion=completion, text=text, label=label, price=price, workers=workers, runner=runner,
    )  # fmt: skip
    wanted = TuneRecipe.read(recipe, options)
    check(output, scores, recipe, wanted.train, wanted.eval, force=force)
    if plan:
        with waiting("reading the data", form):
            found = plan_of(Scores.load(scores), wanted, folder=folder)
        finish(found, output, form)
        return
    with proof.watched(wanted, folder, form) as watch:
        tuning = run(Scores.load(scores), wanted, folder=folder, watch=watch)
    finish(tuning, output, form)
    if form is not Format.quiet:
        say(f"Wrote {folder / 'placement.json'} and {folder / 'recipe.yaml'}", err=True)
    raise typer.Exit(tuning.exit_code)
