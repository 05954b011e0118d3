"""`plop verify`: scores, data and a task in; finetunes of rival placements; a verdict out."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from plop_lora.cli.output import Format, FormatOption, OutputOption, check, finish, waiting
from plop_lora.recipe import VerifyRecipe
from plop_lora.records import Scores, Verification


def verify(
    scores: Annotated[Path, typer.Argument(help="File written by plop score.")],
    train: Annotated[
        str | None, typer.Option(help="Training rows: a file, or name:config:split.")
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option("--eval", help="Rows of the report, never trained on.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="sft, classify or grpo.")] = None,
    output: OutputOption = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML with all of this and more; options go before it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub id or folder, instead of the scored model.")
    ] = None,
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
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would run, how long, what it can tell.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Of the run; the same folder goes on with it.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="loss, exact, numeric, accuracy, macro-f1, pass@1, lm-eval:TASK …"),
    ] = None,
    rewards: Annotated[
        str | None, typer.Option(help="For grpo: number, format, module:function; commas.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help='Template of the prompt: "Q: {question}\\nA:".')
    ] = None,
    completion: Annotated[
        str | None, typer.Option(help='Template of the answer: " {answer}".')
    ] = None,
    text: Annotated[str | None, typer.Option(help="Field of the text or of the chat.")] = None,
    label: Annotated[str | None, typer.Option(help="Field of the class, for classify.")] = None,
    price: Annotated[float | None, typer.Option(help="Money a device-hour.")] = None,
    workers: Annotated[int | None, typer.Option(help="Trials at once.")] = None,
    runner: Annotated[str | None, typer.Option(help="local or ray.")] = None,
    form: FormatOption = Format.table,
) -> None:
    """Prove SCORES with equal-budget finetunes: exit 0 confirmed, 3 beaten, 4 cannot separate."""
    given = {
        "train": train,
        "eval": evaluation,
        "task": task,
        "model": model,
        "arms": _names(arms),
        "rank": rank,
        "budget": budget,
        "top": top,
        "seeds": seeds,
        "margin": margin,
        "quick": quick or None,
        "evaluation": {"metric": metric},
        "training": {"rewards": _names(rewards)},
        "prompt": _unescaped(prompt),
        "completion": _unescaped(completion),
        "text": text,
        "label": label,
        "price": {"hourly": price},
        "runner": {"workers": workers, "kind": runner},
    }
    check(output)
    record = VerifyRecipe.read(recipe, _present(given))
    _run(Scores.load(scores), record, folder, output, form, plan=plan)


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
        typer.echo(f"Folder of the run: {folder}", err=True)
    record = _verified(scores, recipe, folder, form)
    finish(record, output, form)
    raise typer.Exit(record.exit_code)


def _verified(scores: Scores, recipe: VerifyRecipe, folder: Path, form: Format) -> Verification:
    from plop_lora.report.live import live
    from plop_lora.training.events import ignore
    from plop_lora.verify import run as step

    quiet = contextlib.nullcontext(ignore)
    shown = quiet if form is Format.quiet else live(price=recipe.price)
    try:
        with shown as watch:
            return step.verify(scores, recipe, folder=folder, watch=watch)
    except KeyboardInterrupt:
        typer.echo(
            f"Stopped. Finished trials are kept; the same command with --folder {folder} goes on.",
            err=True,
        )
        raise typer.Exit(130) from None


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _unescaped(template: str | None) -> str | None:
    return None if template is None else template.replace("\\n", "\n")


def _present(given: dict[str, Any]) -> dict[str, Any]:
    """Return what was given on the line, section by section."""
    kept = {
        key: _present(value) if isinstance(value, dict) else value for key, value in given.items()
    }
    return {key: value for key, value in kept.items() if value not in (None, {})}
