"""`plop ab assign`: which arm a unit gets."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plop_lora.cli.ab.options import DatabaseOption, ExperimentOption, now, running
from plop_lora.cli.output import say
from plop_lora.cli.words import RUN, with_examples
from plop_lora.errors import DataError, StoreError

if TYPE_CHECKING:
    from plop_lora.records import Experiment

_STDIN = "-"


@with_examples(
    ("Print the arm of an account", "plop ab assign account-17 -e experiment.json"),
    ("And store that it meets its arm now", "plop ab assign account-17 -e e.json --expose"),
    ("The arms of many accounts, one a line", "plop ab assign - -e experiment.json"),
)
def assign(
    units: Annotated[
        list[str],
        typer.Argument(metavar="UNIT", help="The ids of the units, or - for one a line of stdin."),
    ],
    experiment: ExperimentOption,
    expose: Annotated[
        bool,
        typer.Option(
            "--expose",
            help="Store that the units meet their arms now, as a gateway does when it answers.",
            rich_help_panel=RUN,
        ),
    ] = False,
    database: DatabaseOption = None,
) -> None:
    """Print the arm of UNIT, or an empty line where it takes no part; of several, the id first."""
    from plop_lora.records import Experiment

    loaded = Experiment.load(experiment)
    coverage, off = _state(loaded, experiment, database)
    named = list(units) != [_STDIN]
    alone = named and len(units) == 1
    met: dict[str, str] = {}
    for unit in units if named else _lines():
        arm = loaded.assign(unit, coverage=coverage)
        given = loaded.control if arm in off else arm
        say(given or "" if alone else f"{unit}\t{given or ''}")
        if arm is not None and arm not in off:
            met[unit] = arm
    if expose and met:
        _expose(loaded, experiment, database, met)


def _state(
    experiment: Experiment, path: Path, database: str | None
) -> tuple[float, Mapping[str, str]]:
    """Return the coverage and the arms that are off, and say which coverage it is."""
    if database is None and not path.with_suffix(".db").exists():
        say(
            f"Coverage {experiment.coverage:.3g}, that of the start: there is no database of the "
            f"experiment. Start it with: plop ab init --from {shlex.quote(str(path))}",
            err=True,
        )
        return experiment.coverage, {}
    try:
        with running(path, database) as run:
            state = run.state()
    except StoreError as error:
        say(f"Coverage {experiment.coverage:.3g}, that of the start. {error}", err=True)
        return experiment.coverage, {}
    say(f"Coverage {state.ramp.coverage:.3g}, as of now.", err=True)
    for arm, reason in state.off.items():
        say(f"The arm {arm} is off ({reason}); its units get {experiment.control}.", err=True)
    return state.ramp.coverage, state.off


def _lines() -> Iterator[str]:
    """Yield the lines of standard input as they come."""
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            unit = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"Standard input, line {number}, is not UTF-8 text.") from error
        if unit:
            yield unit


def _expose(
    experiment: Experiment, path: Path, database: str | None, met: Mapping[str, str]
) -> None:
    from plop_lora.ab.events import exposure
    from plop_lora.cli.ab.delivery import deliver

    at = now()
    events = [exposure(experiment.pseudonym(unit), arm, at) for unit, arm in met.items()]
    deliver(experiment, path, database, events)
