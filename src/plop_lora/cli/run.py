"""`plop run` and `plop status`: the whole pipeline, from data to a decision, in one folder."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from plop_lora.cli.words import MODEL, RUN, with_examples
from plop_lora.recipe import RunKeys

if TYPE_CHECKING:
    from plop_lora.records.run import StageRun
    from plop_lora.training.runners.events import Watch

KEYS = (Key("run.adapter", MODEL),)

FolderOption = Annotated[
    Path,
    typer.Option(
        help="The folder of the run. A run that is started again in it is resumed.",
        rich_help_panel=RUN,
    ),
]
UntilOption = Annotated[
    str,
    typer.Option(
        help="The last stage to run: acquire, score, place, verify or tune, finetune, gate or "
        "export.",
        rich_help_panel=RUN,
    ),
]


@with_examples(
    ("See what would run, why, and how long it takes", "plop run recipe.yaml --dry-run"),
    ("Run everything that is not done yet", "plop run recipe.yaml --folder support"),
    ("Stop before anything is trained", "plop run recipe.yaml --until place"),
    (
        "Gate again with another margin; the trials are kept",
        "plop run recipe.yaml --set gate.task.margin=0.05",
    ),
    (
        "Go on with an adapter that your own trainer has made",
        "plop run recipe.yaml --adapter out/adapter",
    ),
)
@takes_recipe(RunKeys, KEYS)
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file; plop init writes one.")],
    given: dict[str, Any],
    folder: FolderOption = Path("plop-run"),
    until: UntilOption = "",
    redo: Annotated[
        str,
        typer.Option(
            "--from",
            help="Repeat this stage and all after it, even if they are done. --until lists the "
            "stages.",
            rich_help_panel=RUN,
        ),
    ] = "",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            "--plan",
            help="Only print which stages would run, why, and how long they would take. The time "
            "of verify is known once the model is scored, that of finetune once verify is done.",
            rich_help_panel=RUN,
        ),
    ] = False,
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Run the pipeline of RECIPE: exit 0 confirmed, 3 gate failed, 4 undecided, 5 beaten."""
    check(output, recipe, force=force)
    from plop_lora.pipeline import RunRecipe, plan, start

    asked = RunRecipe.read(recipe, given)
    if dry_run:
        with waiting("reading the recipe and the data", form):
            planned = plan(asked, folder, until=until, redo=redo)
        finish(planned, output, form)
        return
    with _progress(asked.price, folder, form) as watch:
        record = start(asked, folder, until=until, redo=redo, watch=watch, tell=_teller(form))
    finish(record, output, form)
    raise typer.Exit(record.exit_code)


@with_examples(("See how the run in the folder support stands", "plop status support"))
def status(
    folder: Annotated[Path, typer.Argument(help="The folder of the run.")] = Path("plop-run"),
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Show which stages of the run in FOLDER are done, and what is left of it."""
    check(output, force=force)
    from plop_lora.pipeline import stands

    finish(stands(folder), output, form)


def _teller(form: Format) -> Any:
    from plop_lora.reports.pipeline import stage_line

    def tell(stage: StageRun) -> None:
        if form is not Format.quiet:
            say(stage_line(stage), err=True)

    return tell


@contextlib.contextmanager
def _progress(price: Any, folder: Path, form: Format) -> Iterator[Watch]:
    """Show trials while they run. On Ctrl-C, say how to go on."""
    from plop_lora.reports.live import live
    from plop_lora.training.runners.events import ignore

    try:
        if form is Format.quiet:
            yield ignore
        else:
            with live(price=price) as watch:
                yield watch
    except KeyboardInterrupt:
        say(
            "Stopped. Finished stages and trials are kept. To go on, run the same command again "
            f"with --folder {shlex.quote(str(folder))}.",
            err=True,
        )
        raise typer.Exit(130) from None
