"""Options that the verbs of `plop ab` share, and the running experiment that they name."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plop_lora.cli.words import DATA, RUN
from plop_lora.errors import UsageError

if TYPE_CHECKING:
    from plop_lora.ab.store import StoredRun

EXPERIMENT = "PLOP_EXPERIMENT"
DATABASE = "PLOP_DATABASE"

ExperimentOption = Annotated[
    Path,
    typer.Option(
        "--experiment",
        "-e",
        envvar=EXPERIMENT,
        help="The file of the experiment, which plop ab init has written.",
        rich_help_panel=RUN,
    ),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar=DATABASE,
        help="The database of the events: sqlite:///FILE or postgresql://USER@HOST/NAME. By "
        "default a file of SQLite beside the experiment.",
        rich_help_panel=RUN,
    ),
]


def _not_empty(reason: str) -> str:
    if not reason.strip():
        raise UsageError("--reason is empty. Say why, for those who read it later.")
    return reason


ReasonOption = Annotated[
    str,
    typer.Option(
        "--reason",
        callback=_not_empty,
        help="Why this is done; the reason is kept with the experiment.",
        rich_help_panel=RUN,
    ),
]
TimezoneOption = Annotated[
    str,
    typer.Option(
        "--timezone",
        help="The time zone of times that have none, such as Europe/Berlin. By default they are "
        "refused.",
        rich_help_panel=DATA,
    ),
]


def database_of(experiment: Path, given: str | None) -> str:
    """Return the address of the database: the one given, or a file beside the experiment."""
    from plop_lora.ab.live import database_beside

    return given or database_beside(experiment)


@contextlib.contextmanager
def running(experiment: Path, database: str | None) -> Iterator[StoredRun]:
    """Open the store of an experiment and yield its run.

    Raises:
        RecordError: The file of the experiment cannot be loaded.
        StoreError: The database cannot be reached.
        UsageError: No database is named, and none is beside the experiment.
    """
    from plop_lora.ab.store import Store
    from plop_lora.records import Experiment

    loaded = Experiment.load(experiment)
    if database is None and not experiment.with_suffix(".db").exists():
        raise UsageError(
            f"The experiment {loaded.name!r} has not been started: there is no database "
            f"{experiment.with_suffix('.db')}. Start it with: plop ab init --from "
            f"{shlex.quote(str(experiment))}, or name its database with --database."
        )
    with Store.open(database_of(experiment, database)) as store:
        yield store.run(loaded)


def options_of(experiment: Path, database: str | None) -> str:
    """Return the options by which a command names this experiment, as they can be typed again.

    What the environment gives is left out, and so is a password.
    """
    words = []
    if os.environ.get(EXPERIMENT) != str(experiment):
        words += ["-e", str(experiment)]
    if database is not None and os.environ.get(DATABASE) != database:
        from plop_lora.ab.store.address import read_address, shown_address

        words += ["--database", shown_address(read_address(database))]
    return shlex.join(words)


def share_of(text: str, what: str) -> float:
    """Return a share that was written as 5% or 0.05.

    Args:
        text: What was typed.
        what: Name of the argument, for errors.

    Raises:
        UsageError: It is no number from 0 to 1, or a whole number that may mean a percentage.

    >>> share_of("5%", "COVERAGE"), share_of("0.05", "COVERAGE")
    (0.05, 0.05)
    """
    written = text.strip()
    percent = written.endswith("%")
    try:
        value = float(written.rstrip("%"))
    except ValueError:
        raise UsageError(
            f"{what} is {text!r}; give a percentage such as 5%, or a share such as 0.05."
        ) from None
    if not percent and value >= 1 and "." not in written:
        raise UsageError(
            f"{what} is {text!r}, of which it cannot be told whether a percentage is meant. Write "
            f"{written}% or {value / 100:g} for {value:g} percent; write 100% for all units."
        )
    share = value / 100 if percent else value
    if not 0 <= share <= 1:
        raise UsageError(f"{what} is {text!r}; it must be from 0% to 100%.")
    return share


def now() -> datetime:
    """Return the present time, in UTC."""
    return datetime.now(UTC)
