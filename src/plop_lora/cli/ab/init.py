"""`plop ab init`: write the file of an experiment, which never changes again, and start it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plop_lora.cli import proof
from plop_lora.cli.ab.options import DatabaseOption, database_of, now, options_of
from plop_lora.cli.keys import takes_recipe
from plop_lora.cli.output import STDOUT, Format, FormatOption, check, finish, say, write_new
from plop_lora.cli.words import OUTPUT, RUN, with_examples
from plop_lora.errors import UsageError
from plop_lora.recipe import ExperimentRecipe

if TYPE_CHECKING:
    from plop_lora.records import Experiment


@with_examples(
    ("Write a recipe to start from", "plop ab init --template -o ab.yaml"),
    ("Write the experiment and start it", "plop ab init --recipe ab.yaml -o experiment.json"),
    (
        "With another coverage, and the events in PostgreSQL",
        "plop ab init --recipe ab.yaml --set ab.coverage=0.02 -o experiment.json "
        "--database postgresql://plop@db/events",
    ),
    ("Start an experiment that was written before", "plop ab init --from experiment.json"),
)
@takes_recipe(ExperimentRecipe, (), example="ab.coverage=0.05")
def init(
    given: dict[str, Any],
    recipe: proof.RecipeOption = None,
    designed: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Start the experiment of this file, in place of a new one from a recipe.",
            rich_help_panel=RUN,
        ),
    ] = None,
    template: Annotated[
        bool,
        typer.Option(
            "--template",
            help="Only write a recipe with every key of the section ab, to -o or to stdout.",
            rich_help_panel=RUN,
        ),
    ] = False,
    force: Annotated[
        str,
        typer.Option(
            "--force",
            metavar="REASON",
            help="Start although the gate of an arm failed, was not decided or was not run. The "
            "reason is kept in the experiment.",
            rich_help_panel=RUN,
        ),
    ] = "",
    database: DatabaseOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the experiment to this file, which is never overwritten.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Write an experiment from the section ab of a recipe, and start it in the database."""
    if template:
        from plop_lora.ab.design import recipe_template

        write_new(recipe_template(given), output or STDOUT)
        return
    if designed is not None:
        from plop_lora.records import Experiment

        _start(Experiment.load(designed), designed, database, form)
        return
    path = _new(output)
    check(path, recipe)
    from plop_lora.ab.design import design

    experiment = design(ExperimentRecipe.read(recipe, given).ab, accepted=force.strip())
    _start(experiment, path, database, form, write=True)


def _new(path: Path | None) -> Path:
    """Return the path of a file that is not there yet."""
    if path is None or path == STDOUT:
        raise UsageError("Name the file that is to hold the experiment with -o experiment.json.")
    if path.exists():
        raise UsageError(
            f"{path} is there already. An experiment never changes and is never overwritten: give "
            f"another path with -o, or start the one that is there with plop ab init --from {path}."
        )
    return path


def _start(
    experiment: Experiment,
    path: Path,
    database: str | None,
    form: Format,
    *,
    write: bool = False,
) -> None:
    """Start an experiment; a file that was just written goes again if it cannot be started."""
    from plop_lora.ab.store import Store

    with Store.open(database_of(path, database)) as store:
        if write:
            experiment.save(path)
            path.chmod(0o600)
        try:
            store.run(experiment).start(now())
        except BaseException:
            if write:
                path.unlink(missing_ok=True)
            raise
    finish(experiment, None, form)
    if form is Format.quiet:
        return
    if write:
        say(f"Wrote {path}. It holds the salt, a secret, and only you can read it.", err=True)
    more = options_of(path, database)
    commands = {
        "Started. The arm of a unit": f"plop ab assign UNIT {more}",
        "How it goes": f"plop ab status {more}",
    }
    if experiment.coverage < 1:
        raised = min(100, max(1, round(200 * experiment.coverage)))
        commands["More units"] = f"plop ab ramp {raised}% --reason REASON {more}"
    say("\n".join(f"{what}: {words.rstrip()}" for what, words in commands.items()), err=True)
