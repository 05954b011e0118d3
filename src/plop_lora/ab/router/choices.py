"""Which arm answers a request, and under which pseudonym it is logged.

Imports the standard library, records and what the router knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from plop_lora.ab.router.known import Known
from plop_lora.records import Experiment

NO_UNIT = "no unit"
NOT_COVERED = "not covered"
ARM_OFF = "arm off"
FAILED = "router failure"
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Choice:
    """The arm that answers.

    Attributes:
        arm: Name of the arm.
        unit: Pseudonym of the unit, empty where the request is logged nowhere.
        reason: Why it is logged nowhere; empty where it is logged.
    """

    arm: str
    unit: str = ""
    reason: str = ""


def choose(
    experiment: Experiment, known: Known, unit: str | None, failed: Callable[[str, Exception], None]
) -> Choice:
    """Return the arm of a request. Never raises: what fails gives the control.

    Args:
        experiment: Experiment.
        known: Coverage, and the arms that are off.
        unit: Id of the unit, or None where the request names none.
        failed: Function that is told what failed, and the error.
    """
    control = experiment.control
    if not unit:
        return Choice(control, reason=NO_UNIT)
    try:
        arm = experiment.assign(unit, coverage=known.coverage)
        if arm is None:
            return Choice(control, reason=NOT_COVERED)
        if known.is_off(arm):
            return Choice(control, reason=ARM_OFF)
        return Choice(arm, unit=experiment.pseudonym(unit))
    except Exception as error:  # no request is lost to a fault of the experiment
        failed("assign", error)
        return Choice(control, reason=FAILED)
