"""`plop ab switch`: take an arm out of service at once, and put it back."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from plop_lora.cli.ab.options import DatabaseOption, ExperimentOption, ReasonOption, now, running
from plop_lora.cli.output import say
from plop_lora.cli.words import with_examples


class Position(enum.StrEnum):
    """Whether an arm serves its units."""

    on = "on"
    off = "off"


@with_examples(
    (
        "Give the units of an arm the control, at once",
        "plop ab switch next off -e experiment.json --reason 'answers in the wrong language'",
    ),
    (
        "And the arm again",
        "plop ab switch next on -e experiment.json --reason 'the prompt is mended'",
    ),
)
def switch(
    arm: Annotated[str, typer.Argument(help="The name of the arm.")],
    position: Annotated[Position, typer.Argument(help="Whether it serves its units: on or off.")],
    experiment: ExperimentOption,
    reason: ReasonOption,
    database: DatabaseOption = None,
) -> None:
    """Switch ARM off, so that its units get the control in every process, or on again."""
    with running(experiment, database) as run:
        control = run.experiment.control
        run.switch(arm, on=position is Position.on, reason=reason, at=now())
    effect = (
        "gets its units again" if position is Position.on else f"is off; its units get {control}"
    )
    say(f"The arm {arm} {effect}. Processes that serve it see this within seconds.", err=True)
