"""`plop tune`: scores and data in, the configuration that a search confirms out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plop_lora.cli.output import Format, FormatOption, OutputOption, check, finish
from plop_lora.errors import UsageError

if TYPE_CHECKING:
    from plop_lora.recipe import TuneRecipe
    from plop_lora.training.events import Watch

RecipeOption = Annotated[
    Path | None,
    typer.Option(help="YAML with everything else; the options here come before it."),
]


def tune(
    scores: Annotated[Path, typer.Argument(help="File written by plop score.")],
    train: Annotated[
        str | None, typer.Option(help="Training rows: a local file or a hub data set.")
    ] = None,
    eval_: Annotated[
        str | None, typer.Option("--eval", help="Rows of the report, kept from the search.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="sft, classify or grpo.")] = None,
    recipe: RecipeOption = None,
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
    folder: Annotated[
        Path, typer.Option(help="Of the run; started again in it, a search goes on.")
    ] = Path("plop-tune"),
    plan: Annotated[
        bool, typer.Option("--plan", help="Say how many trials at what cost; run none.")
    ] = False,
    output: OutputOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Search placement, rank, initialisation and learning rate under a budget."""
    check(output)
    from plop_lora.records import Scores
    from plop_lora.tune import plan as plan_of
    from plop_lora.tune import tune as run

    options = {"train": train, "eval": eval_, "task": task, "budget": budget, "trials": trials,
               "hours": hours, "seeds": seeds}  # fmt: skip
    wanted = _recipe(recipe, options)
    if plan:
        finish(plan_of(wanted, Scores.load(scores), folder), output, form)
        return
    tuning = run(wanted, Scores.load(scores), folder, watch=_progress(form))
    finish(tuning, output, form)
    if form is not Format.quiet:
        typer.echo(f"Wrote {folder / 'placement.json'} and {folder / 'recipe.yaml'}", err=True)
    raise typer.Exit(tuning.exit_code)


def _recipe(path: Path | None, options: dict[str, Any]) -> TuneRecipe:
    """Return the recipe of a file with the options that were given in its place."""
    from plop_lora.recipe import TuneRecipe

    given = {name: value for name, value in options.items() if value is not None}
    document = {} if path is None else _document(path)
    missing = [name for name in ("train", "eval", "task") if name not in {**document, **given}]
    if missing:
        raise UsageError(f"Give --{missing[0]}, or {missing[0]}: in a file for --recipe.")
    return TuneRecipe.parse(document | given, "the options" if path is None else str(path))


def _document(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"Cannot read the recipe {path}: {error}.") from error
    if not isinstance(document, dict):
        raise UsageError(f"The recipe {path} is no list of keys and values, such as task: sft.")
    return document


def _progress(form: Format) -> Watch:
    """Say on stderr, in a terminal only, how each trial ended."""
    from plop_lora.training.events import FINISHED, Event, ignore

    if form is Format.quiet or not sys.stderr.isatty():
        return ignore

    def watch(event: Event) -> None:
        result = event.result
        if event.state != FINISHED or result is None:
            return
        value = result.metrics.get(result.metric)
        ending = f"failed: {result.cause}" if value is None else f"{result.metric} {value:.4f}"
        typer.echo(f"{result.phase} {result.arm}, seed {result.seed}: {ending}", err=True)

    return watch
