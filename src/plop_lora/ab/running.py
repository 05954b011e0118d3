"""What may change while an experiment runs, and who keeps it.

The experiment itself never changes. Its coverage is raised, an arm may be switched off, and events
arrive; every process that serves the experiment reads these from one place.

Imports the standard library and records; no torch, no database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from plop_lora.ab.observations import Observation
from plop_lora.records import Experiment, Ramp


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What holds now.

    Attributes:
        ramp: Coverage over time; its last step holds now.
        off: Arm that is switched off → the reason. Its units get the control.
    """

    ramp: Ramp
    off: Mapping[str, str] = field(default_factory=dict)


class ExperimentRun(Protocol):
    """A running experiment as its processes see it."""

    @property
    def experiment(self) -> Experiment:
        """The experiment."""
        ...

    def state(self) -> RunState:
        """Return what holds now.

        Raises:
            StoreError: It cannot be read now.
        """
        ...

    def switch(self, arm: str, *, on: bool, reason: str, at: datetime) -> None:
        """Switch an arm on or off for all processes.

        Raises:
            UnknownNameError: The experiment has no such arm.
            UsageError: The arm is the control, which stays on.
            StoreError: It cannot be written now.
        """
        ...

    def observations(self) -> Sequence[Observation]:
        """Return what was seen so far of every unit, as `analyze` takes it.

        Raises:
            StoreError: It cannot be read now.
        """
        ...
