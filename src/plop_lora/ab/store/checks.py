"""What the store refuses before it stands in it, where nobody can take it back.

Imports the standard library and records; no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC

from plop_lora.ab.events import EXPOSURE, Event
from plop_lora.ab.store.history import DECISIONS, SHIP, ChangeKind
from plop_lora.errors import DataError, UnknownNameError, UsageError, nearest
from plop_lora.escapes import acting, escaped
from plop_lora.records import Experiment
from plop_lora.records.experiment import SHARE

_LONGEST = 256
"""Characters of a unit, an arm or a name at most."""


def check_switch(experiment: Experiment, arm: str) -> None:
    """Refuse to switch an arm that is none, or the control.

    Raises:
        UnknownNameError: The experiment has no such arm.
        UsageError: The arm is the control.
    """
    _check_arm(experiment, arm)
    if arm == experiment.control:
        raise UsageError(
            f"The arm {arm!r} is the control and stays on: units of an arm that is off get it. "
            f"Other arms: {', '.join(experiment.candidates)}."
        )


def check_decision(experiment: Experiment, decision: str, arm: str) -> ChangeKind:
    """Return the decision with which an experiment ends.

    Raises:
        UnknownNameError: The experiment has no such arm.
        UsageError: The decision is unknown, or does not fit the arm.
    """
    names = [str(kind) for kind in DECISIONS]
    if decision not in names:
        raise UsageError(
            f"There is no decision {decision!r}; it is {' or '.join(names)}."
            f"{nearest(decision, names)}"
        )
    _check_arm(experiment, arm)
    kind = ChangeKind(decision)
    fitting = experiment.candidates if kind is SHIP else (experiment.control,)
    if arm not in fitting:
        raise UsageError(
            f"The arm {arm!r} cannot be the one to {decision}; it is {' or '.join(fitting)}."
        )
    return kind


def check_events(experiment: Experiment, events: Iterable[Event]) -> None:
    """Refuse events that are not of this experiment, or that no analysis could take.

    Raises:
        DataError: The arm of an exposure is unknown, a value is not what its metric allows, or a
            text is empty, too long, or has a character that acts instead of being read.
    """
    arms = list(experiment.split)
    shares = {metric.name for metric in experiment.metrics if metric.kind is SHARE}
    denominators = {metric.denominator for metric in experiment.metrics} - {""}
    for event in events:
        _check_form(event)
        if event.kind == EXPOSURE:
            if event.arm not in arms:
                raise DataError(
                    f"An event is of the arm {event.arm!r}, which the experiment "
                    f"{experiment.name!r} does not have; its arms are {', '.join(arms)}."
                    f"{nearest(event.arm, arms)}"
                )
        elif event.name in shares and not 0 <= event.value <= 1:
            raise DataError(_wrong_value(event, "from 0 to 1, because its metric is a share"))
        elif event.name in denominators and event.value < 0:
            raise DataError(_wrong_value(event, "0 or more, because a ratio divides by it"))


def _check_form(event: Event) -> None:
    try:
        event.at.astimezone(UTC)
    except OverflowError:
        raise DataError(
            f"The time {event.at.isoformat()} of an event has no equal in UTC: the years go from 1 "
            "to 9999."
        ) from None
    named = {"id": event.id, "unit": event.unit}
    named |= {"arm": event.arm} if event.kind == EXPOSURE else {"name": event.name}
    for what, text in named.items():
        if not 0 < len(text) <= _LONGEST:
            raise DataError(
                f"The {what} of an event has 1 to {_LONGEST} characters, not {len(text)}."
            )
        if acting(text):
            raise DataError(
                f"The {what} {escaped(text)!r} of an event has a character that acts instead of "
                "being read, such as a line break. Leave it out."
            )


def _wrong_value(event: Event, allowed: str) -> str:
    return (
        f"{event.name!r} is {event.value} for the unit {event.unit!r} at {event.at.isoformat()}; "
        f"it must be {allowed}."
    )


def _check_arm(experiment: Experiment, arm: str) -> None:
    arms: Sequence[str] = list(experiment.split)
    if arm not in arms:
        raise UnknownNameError(
            f"The experiment {experiment.name!r} has no arm {arm!r}; its arms are "
            f"{', '.join(arms)}.{nearest(str(arm), arms)}"
        )
