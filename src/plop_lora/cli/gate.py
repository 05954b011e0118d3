"""`plop gate`: decide whether a tuned adapter may ship."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plop_lora.cli import proof
from plop_lora.cli.keys import Key, takes_recipe
from plop_lora.cli.numbers import bounded
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
from plop_lora.cli.words import (
    DATA,
    MODEL,
    RUN,
    TRAINING,
    among,
    checks,
    metrics,
    tasks,
    with_examples,
)
from plop_lora.errors import UsageError
from plop_lora.recipe import GateRecipe

if TYPE_CHECKING:
    from plop_lora.records import GateVerdict, GateWalk

KEYS = (
    Key("eval", DATA),
    Key("task", TRAINING, among(tasks)),
    Key("evaluation.metric", TRAINING, metrics),
    Key("gate.base", MODEL),
    Key("gate.against", MODEL),
    Key("gate.checks", TRAINING, among(checks)),
    Key("training.rewards", TRAINING, hidden=True),
    Key("prompt", DATA, hidden=True),
    Key("completion", DATA, hidden=True),
    Key("text", DATA, hidden=True),
)


@with_examples(
    ("Write a recipe to start from", "plop gate --init -o gate.yaml"),
    ("Decide, and keep the values of every item", "plop gate adapter --recipe gate.yaml -o v.json"),
    (
        "Find the last checkpoint of a run that may ship",
        "plop gate --checkpoints run --recipe gate.yaml -o walk.json",
    ),
    (
        "Decide again with another margin, without the model",
        "plop gate adapter --recipe gate.yaml --from v.evidence.jsonl --set gate.task.margin=0.05",
    ),
)
@takes_recipe(GateRecipe, KEYS, example="gate.task.margin=0.05")
def gate(
    given: dict[str, object],
    adapter: Annotated[
        Path | None, typer.Argument(help="The folder of the adapter, as PEFT saved it.")
    ] = None,
    recipe: proof.RecipeOption = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            "--checkpoints",
            help="The folder of a training run, in place of ADAPTER: gate its checkpoints from the "
            "last backwards, until one passes.",
            rich_help_panel=DATA,
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Only print what the checks could decide with these numbers of items.",
            rich_help_panel=RUN,
        ),
    ] = False,
    init: Annotated[
        bool,
        typer.Option(
            "--init",
            help="Only write a recipe with every key of the gate, to -o or to stdout.",
            rich_help_panel=RUN,
        ),
    ] = False,
    canaries: Annotated[
        int | None,
        typer.Option(
            "--canaries",
            callback=bounded(1),
            help="Only write so many rows with made-up secrets to -o, to be planted in the "
            "training data.",
            rich_help_panel=RUN,
        ),
    ] = None,
    measured: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Decide from the evidence that an earlier gate wrote beside its verdict, without "
            "loading the model.",
            rich_help_panel=RUN,
        ),
    ] = None,
    output: MarkdownOutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Decide whether ADAPTER may ship: exit 0 it may, 3 a check fails, 4 not enough data."""
    if init:
        _init(given, output, force=force)
        return
    wanted = GateRecipe.read(recipe, given)
    if canaries is not None:
        _plant(canaries, wanted, output, force=force)
        return
    check(output, recipe, wanted.eval, measured, force=force)
    if checkpoints is not None:
        _refuse_beside_checkpoints({"ADAPTER": adapter, "--from": measured, "--plan": plan})
        walk = _walk(checkpoints, wanted, output, form)
        _finish(walk, output, form)
        raise typer.Exit(walk.exit_code)
    if adapter is None:
        raise UsageError("Give the folder of an ADAPTER, or of a run with --checkpoints DIR.")
    if plan:
        _plan(adapter, wanted, output, form)
        return
    verdict = _decide(adapter, wanted, measured, output, form)
    _finish(verdict, output, form)
    raise typer.Exit(verdict.exit_code)


def _refuse_beside_checkpoints(others: Mapping[str, object]) -> None:
    for other, value in others.items():
        if value:
            raise UsageError(
                f"--checkpoints and {other} exclude each other. Leave one of them out."
            )


def _plan(adapter: Path, recipe: GateRecipe, output: Path | None, form: Format) -> None:
    from plop_lora.gating import plan

    with waiting("reading the data", form):
        found = plan(adapter, recipe)
    finish(found, output, form)


def _walk(folder: Path, recipe: GateRecipe, output: Path | None, form: Format) -> GateWalk:
    """Return the verdicts on the checkpoints of a run, each with its evidence."""
    from plop_lora.gating import gate_checkpoints
    from plop_lora.reports.measuring import measuring

    def evidence(checkpoint: Path) -> Path:
        return _evidence_path(folder, output, f".{checkpoint.name}.evidence.jsonl")

    try:
        with measuring(wanted=form is not Format.quiet) as watch:
            return gate_checkpoints(folder, recipe, evidence=evidence, watch=watch)
    except KeyboardInterrupt:
        say("Stopped. To go on, run the same command again.", err=True)
        raise typer.Exit(130) from None


def _init(given: dict[str, object], output: Path | None, *, force: bool) -> None:
    """Write a recipe that has every key of the gate, with what the command line gives."""
    from plop_lora.files import atomic_file
    from plop_lora.gating.template import recipe_template

    check(output, force=force)
    text = recipe_template(given)
    if output is None or output == STDOUT:
        typer.echo(text, nl=False)
        return
    with atomic_file(output) as file:
        file.write(text)
    say(f"Wrote {output}", err=True)


def _plant(count: int, recipe: GateRecipe, output: Path | None, *, force: bool) -> None:
    """Write canaries as JSON lines, in the columns that the recipe names; drawn anew each time."""
    import json
    import secrets

    from plop_lora.evaluation.memorisation import make_canaries
    from plop_lora.files import atomic_file

    if output is None or output == STDOUT:
        raise UsageError("Name the file that is to receive the canaries with -o canaries.jsonl.")
    check(output, force=force)
    rows = make_canaries(
        count, secrets.randbits(64), text=recipe.text, prompt=recipe.prompt,
        completion=recipe.completion,
    )  # fmt: skip
    with atomic_file(output) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    say(
        f"Wrote {output}. Put its rows among those of the training, keep the file secret until "
        "then, and name it with gate.memorisation.canaries.",
        err=True,
    )


def _decide(
    adapter: Path, recipe: GateRecipe, measured: Path | None, output: Path | None, form: Format
) -> GateVerdict:
    """Return the verdict; what is measured is kept beside the output."""
    from plop_lora.gating import gate as run
    from plop_lora.reports.measuring import measuring

    if measured is not None:
        return run(adapter, recipe, measured=measured)
    evidence = _evidence_path(adapter, output)
    try:
        with measuring(wanted=form is not Format.quiet) as watch:
            return run(adapter, recipe, evidence=evidence, watch=watch)
    except KeyboardInterrupt:
        say(f"Stopped. {evidence} is kept; to go on, run the same command again.", err=True)
        raise typer.Exit(130) from None


def _evidence_path(folder: Path, output: Path | None, suffix: str = ".evidence.jsonl") -> Path:
    """Return the path of the evidence: beside the output, else named after the folder, here."""
    if output is not None and output != STDOUT:
        return output.with_suffix(suffix)
    return Path(f"{folder.resolve().name}{suffix}")


def _finish(verdict: GateVerdict | GateWalk, output: Path | None, form: Format) -> None:
    """Print the outcome and save it, as Markdown where the path ends in .md."""
    from plop_lora.reports.gate import gate_markdown

    finish(verdict, output, form, markdown=gate_markdown)
