"""`plop ab log`: store one value of one unit."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from plop_lora.cli.ab.options import DatabaseOption, ExperimentOption, TimezoneOption, now
from plop_lora.cli.words import DATA, with_examples
from plop_lora.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

_NEGATIVE = re.compile(r"-(\d|\.\d|inf|nan).*", re.IGNORECASE)
_MARK = "\0"
"""Character that no word of a command line can hold."""


class NegativeNumbers(TyperCommand):
    """A command that takes a word such as -0.5 for a number, where others see an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Hide the minus sign from the parser, and show it again in what was parsed."""
        hidden = [f"{_MARK}{word}" if _NEGATIVE.fullmatch(word) else word for word in args]
        rest: list[str] = super().parse_args(ctx, hidden)
        ctx.params = {
            name: value.removeprefix(_MARK) if isinstance(value, str) else value
            for name, value in ctx.params.items()
        }
        return rest


@with_examples(
    ("The request of an account was resolved", "plop ab log account-17 resolved 1 -e e.json"),
    (
        "A value from a job that may run again, which counts once",
        "plop ab log account-17 score -0.5 -e e.json --id review-2041 --at 2026-03-02T09:00:00Z",
    ),
    (
        "A value from before the experiment, for a metric with cuped",
        "plop ab log account-17 resolved 0.8 -e e.json --before",
    ),
)
def log(
    unit: Annotated[str, typer.Argument(help="The id of the unit that was assigned.")],
    name: Annotated[
        str, typer.Argument(help="The name of the value in the metrics, such as resolved.")
    ],
    value: Annotated[str, typer.Argument(help="The value, such as 1, 0.25 or -3.")],
    experiment: ExperimentOption,
    at: Annotated[
        str,
        typer.Option(
            help="The time of the value, such as 2026-03-02T09:00:00+00:00; by default now.",
            rich_help_panel=DATA,
        ),
    ] = "",
    timezone: TimezoneOption = "",
    identity: Annotated[
        str,
        typer.Option(
            "--id",
            help="The identity of the value, by which it counts once however often it is sent.",
            rich_help_panel=DATA,
        ),
    ] = "",
    before: Annotated[
        bool,
        typer.Option(
            "--before",
            help="Store the value as one from before the experiment.",
            rich_help_panel=DATA,
        ),
    ] = False,
    database: DatabaseOption = None,
) -> None:
    """Store the VALUE of a UNIT; without the database it waits in a file."""
    from plop_lora.ab.event_file import check_name
    from plop_lora.ab.events import BEFORE, VALUE, measured
    from plop_lora.cli.ab.delivery import deliver
    from plop_lora.records import Experiment

    loaded = Experiment.load(experiment)
    check_name(name, loaded)
    pseudonym = loaded.pseudonym(unit)
    kind = BEFORE if before else VALUE
    event = measured(pseudonym, name, _number(value), _time(at, timezone), kind=kind, id=identity)
    deliver(loaded, experiment, database, [event])


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"VALUE is {text!r}; it must be a finite number, such as 1 or -0.5.")
    return value


def _time(text: str, timezone: str) -> datetime:
    from plop_lora.ab.event_file import read_time, read_zone

    if not text:
        return now()
    try:
        return read_time(text, read_zone(timezone) if timezone else None)
    except (ValueError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"--at {error}.") from None
