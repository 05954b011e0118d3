"""`plop verify`: scores, data and a task in; finetunes of rival placements; a verdict out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    waiting,
)
from plop_lora.cli.words import PLACEMENT, RUN, STOPPING, among, with_examples

if TYPE_CHECKING:
    from plop_lora.recipe import VerifyRecipe
    from plop_lora.records import Scores


@with_examples(
    (
        "See what it would cost, without running anything",
        "plop verify scores.json --train train.jsonl --eval eval.jsonl --task sft --plan",
    ),
    (
        "Two rivals by name, at three seeds",
        "plop verify scores.json --recipe study.yaml --arms attention,all-linear --seeds 3",
    ),
)
def verify(
    scores: Annotated[Path, typer.Argument(help="The file that plop score has written.")],
    train: proof.TrainOption = None,
    evaluation: proof.EvalOption = None,
    task: proof.TaskOption = None,
    recipe: proof.RecipeOption = None,
    model: proof.ModelOption = None,
    revision: proof.RevisionOption = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Compare with these rivals: names or files of placements, separated by commas.",
            autocompletion=among("verification.arms:ARMS"),
            rich_help_panel=PLACEMENT,
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            help="Give the shortlist this rank; its size is the budget of every arm. 16 by "
            "default.",
            callback=bounded(1),
            rich_help_panel=PLACEMENT,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Give every arm this many adapter parameters: 10M, or 0.5% of the model's.",
            rich_help_panel=PLACEMENT,
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            help="Take this many types into the shortlist; 3 by default.",
            callback=bounded(1),
            rich_help_panel=PLACEMENT,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Train every arm with this many seeds; 5 by default.",
            callback=bounded(1),
            rich_help_panel=STOPPING,
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Accept that the shortlist is behind by this much of the metric; 0.01 by default.",
            callback=bounded(0),
            rich_help_panel=STOPPING,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Take two seeds: a smoke test, which exits with 0 when every trial ran.",
            rich_help_panel=STOPPING,
        ),
    ] = False,
    plan: proof.PlanOption = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Keep the run in this folder; started again in it, the run goes on.",
            rich_help_panel=RUN,
        ),
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
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Prove SCORES with equal-budget finetunes: exit 0 confirmed, 3 beaten, 4 cannot separate."""
    from plop_lora.recipe import VerifyRecipe
    from plop_lora.records import Scores

    options = proof.given(
        train=train, evaluation=evaluation, task=task, model=model,
        revision=revision, arms=proof.names(arms),
        rank=rank, budget=budget, top=top, seeds=seeds, margin=margin, quick=quick or None,
        metric=metric, rewards=rewards, prompt=prompt, completion=completion, text=text,
        label=label, price=price, workers=workers, runner=runner,
    )  # fmt: skip
    wanted = VerifyRecipe.read(recipe, options)
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
    with proof.watched(recipe, folder, form) as watch:
        record = step.verify(scores, recipe, folder=folder, watch=watch)
    finish(record, output, form)
    raise typer.Exit(record.exit_code)
