"""The events that a runner reports, and the protocol of functions that run trials."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from plop_lora.recipe import Runner
from plop_lora.records import TrialResult, TrialSpec

WAITING, RUNNING, FINISHED = "waiting", "running", "finished"
ENDED = "ended"


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A change of state of a trial; `folder` holds its curve, `result` is set when it ends."""

    spec: TrialSpec
    folder: Path
    state: str
    result: TrialResult | None = None


@dataclass(frozen=True, slots=True)
class ArmEnded:
    """An arm that is trained no further, with the reason: it is settled, or out of reach."""

    arm: str
    why: str
    state: str = ENDED


Watch = Callable[[Event | ArmEnded], None]


def ignore(event: Event | ArmEnded) -> None:
    """Ignore the event."""


class RunTrials(Protocol):
    """Function that runs trials in a folder and returns their results in the order of the specs."""

    def __call__(
        self,
        specs: Sequence[TrialSpec],
        root: Path,
        runner: Runner,
        *,
        report_to: tuple[str, ...] = (),
        watch: Watch = ignore,
    ) -> tuple[TrialResult, ...]:
        """Run the trials that have no result yet."""
        ...


def runner_of(run: RunTrials | None) -> contextlib.AbstractContextManager[RunTrials]:
    """Return a context of the given function, or of the one that runs trials as the recipe says."""
    if run is not None:
        return contextlib.nullcontext(run)
    from plop_lora.training.runners.run import warm_trials

    return warm_trials()
