"""What `plop verify` and `plop tune` share: the keys that have an option, and the live table."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plop_lora.cli.keys import Key
from plop_lora.cli.output import Format, say
from plop_lora.cli.words import DATA, ENGINE, MODEL, PLACEMENT, RUN, TRAINING, among, metrics, tasks
from plop_lora.recipe import RUNNERS

if TYPE_CHECKING:
    from plop_lora.recipe import Price
    from plop_lora.training.runners.events import ArmEnded, Event, Watch

TASK = (
    Key("train", DATA),
    Key("eval", DATA),
    Key("task", TRAINING, among(tasks)),
    Key("evaluation.metric", TRAINING, metrics),
    Key("model", MODEL),
    Key("budget", PLACEMENT),
)
"""The keys that both verbs list in their help."""
HIDDEN = (
    Key("revision", MODEL, hidden=True),
    Key("rank", PLACEMENT, hidden=True),
    Key("top", PLACEMENT, hidden=True),
    Key("training.rewards", TRAINING, hidden=True),
    Key("prompt", DATA, hidden=True),
    Key("completion", DATA, hidden=True),
    Key("text", DATA, hidden=True),
    Key("label", DATA, hidden=True),
    Key("price.hourly", RUN, hidden=True),
    Key("runner.workers", ENGINE, hidden=True),
    Key("runner.kind", ENGINE, among(lambda: RUNNERS), hidden=True),
)
"""Keys with an option that the help does not list; it is a short form of `--set`."""

RecipeOption = Annotated[
    Path | None,
    typer.Option(
        help="Read settings from this YAML file; options take precedence over it.",
        rich_help_panel=RUN,
    ),
]
PlanOption = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="Only print which trials would run, how long they would take, and which difference "
        "they could detect.",
        rich_help_panel=RUN,
    ),
]


def _naming(folder: Path, watch: Watch) -> Watch:
    """Print the folder of the run at its first event, by which time all checks have passed."""
    named = False

    def name_and_watch(event: Event | ArmEnded) -> None:
        nonlocal named
        if not named:
            named = True
            say(f"Folder of the run: {folder}", err=True)
        watch(event)

    return name_and_watch


@contextlib.contextmanager
def live_progress(
    price: Price, folder: Path, form: Format, kept: str = "Finished trials are kept."
) -> Iterator[Watch]:
    """Show trials on stderr while they run. On Ctrl-C, print what is kept and how to resume."""
    from plop_lora.reports.live import live
    from plop_lora.training.runners.events import ignore

    quiet = form is Format.quiet
    try:
        with contextlib.nullcontext(ignore) if quiet else live(price=price) as watch:
            yield watch if quiet else _naming(folder, watch)
    except KeyboardInterrupt:
        again = f"--folder {shlex.quote(str(folder))}"
        say(
            f"Stopped. {kept} To resume, run the same command with {again}.",
            err=True,
        )
        raise typer.Exit(130) from None
