"""What a runner tells whoever watches it, and what it is asked to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from plop_lora.recipe import Runner
from plop_lora.records import TrialResult, TrialSpec

WAITING, RUNNING, FINISHED = "waiting", "running", "finished"


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """A trial changed its state; `folder` has its growing curve, `result` is there at its end."""

    spec: TrialSpec
    folder: Path
    state: str
    result: TrialResult | None = None


Watch = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Watch nothing."""


class RunTrials(Protocol):
    """Goes through trials in a folder; returns their results in the order of the specs."""

    def __call__(
        self,
        specs: Sequence[TrialSpec],
        root: Path,
        runner: Runner,
        *,
        report_to: tuple[str, ...] = (),
        watch: Watch = ignore,
    ) -> tuple[TrialResult, ...]:
        """Run what has no result yet."""
        ...
