"""`plop verify`: scores, data and a task in; finetunes of rival placements; a verdict out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plop_lora.cli import proof
from plop_lora.cli.output import Format, FormatOption, OutputOption, check, finish, say, waiting
from plop_lora.recipe import VerifyRecipe
from plop_lora.records import Scores


def verify(
    scores: Annotated[Path, typer.Argument(help="File written by plop score.")],
    train: proof.TrainOption = None,
    evaluation: proof.EvalOption = None,
    task: proof.TaskOption = None,
    output: OutputOption = None,
    recipe: proof.RecipeOption = None,
    model: proof.ModelOption = None,
    arms: Annotated[
        str | None, typer.Option(help="Rivals by name, or files of placements, with commas.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Of the shortlist, whose size is the budget; 16.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Adapter parameters of every arm: 10M, 0.5%.")
    ] = None,
    top: Annotated[int | None, typer.Option(help="Types of the shortlist; 3.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds an arm; 5.")] = None,
    margin: Annotated[
        float | None, typer.Option(help="Loss of the metric that is accepted; 0.01.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two seeds: a smoke test, marked as one.")
    ] = False,
    plan: proof.PlanOption = False,
    folder: Annotated[
        Path | None, typer.Option(help="Of the run; the same folder goes on with it.")
    ] = None,
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
    """Prove SCORES with equal-budget finetunes: exit 0 confirmed, 3 beaten, 4 cannot separate."""
    check(output)
    options = proof.given(
        train=train, evaluation=evaluation, task=task, model=model, arms=proof.names(arms),
        rank=rank, budget=budget, top=top, seeds=seeds, margin=margin, quick=quick or None,
        metric=metric, rewards=rewards, prompt=prompt, completion=completion, text=text,
        label=label, price=price, workers=workers, runner=runner,
    )  # fmt: skip
    wanted = VerifyRecipe.read(recipe, options)
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
    from plop_lora.verify import run as step
    from plop_lora.verify.folder import default_folder

    folder = folder or default_folder(recipe, scores)
    if plan:
        with waiting("reading the data", form):
            found = step.plan(scores, recipe, folder=folder)
        finish(found, output, form)
        return
    if form is not Format.quiet:
        say(f"Folder of the run: {folder}", err=True)
    with proof.watched(recipe, folder, form) as watch:
        record = step.verify(scores, recipe, folder=folder, watch=watch)
    finish(record, output, form)
    raise typer.Exit(record.exit_code)
