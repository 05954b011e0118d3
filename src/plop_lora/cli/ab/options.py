"""Options that the verbs of `plop ab` share, and the running experiment that they name."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from plop_lora.cli.words import RUN
from plop_lora.errors import UsageError

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
ReasonOption = Annotated[
    str,
    typer.Option(
        "--reason",
        help="Why this is done; the reason is kept with the experiment.",
        rich_help_panel=RUN,
    ),
]


def database_of(experiment: Path, given: str | None) -> str:
    """Return the URL of the database: the one given, or a file beside the experiment."""
    return given or f"sqlite:///{experiment.resolve().with_suffix('.db')}"


def shown_url(url: str) -> str:
    """Return a URL without its password.

    >>> shown_url("postgresql://plop:secret@db/events"), shown_url("sqlite:///a.db")
    ('postgresql://plop@db/events', 'sqlite:///a.db')
    """
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}@{host}").geturl()


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
