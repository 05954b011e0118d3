"""Runs of the whole pipeline: which stages are done, what each says, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from plop_lora.errors import RecordError
from plop_lora.records.base import Record


class StageState(StrEnum):
    """What became of a stage in this run."""

    DONE = "done"
    REUSED = "reused"
    OPEN = "open"
    PARTLY = "partly done"


class RunVerdict(StrEnum):
    """What a stage or a run says, from the best to what stops a release.

    A run is `confirmed` if the finetunes confirm the shortlist and the gate passes, `beaten` if a
    rival was better, which is then trained in its place, `undecided` if they or the gate could not
    tell, and `gate failed` if a check of the gate fails. A stage that decides nothing, and a run
    that has not come to one that does, is `open`.
    """

    OPEN = "open"
    CONFIRMED = "confirmed"
    BEATEN = "beaten"
    UNDECIDED = "undecided"
    GATE_FAILED = "gate failed"


DONE, REUSED, OPEN_STAGE, PARTLY = StageState
OPEN, CONFIRMED, BEATEN, UNDECIDED, GATE_FAILED = RunVerdict
EXIT_CODES = {OPEN: 0, CONFIRMED: 0, GATE_FAILED: 3, UNDECIDED: 4, BEATEN: 5}
_ORDER = (OPEN, CONFIRMED, BEATEN, UNDECIDED, GATE_FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutcome:
    """What a finished stage says.

    Attributes:
        words: One sentence.
        verdict: What follows for the run.
        device_seconds: Time on devices that its trials took, where they say so.
        money: Their cost, where there is a price.
        currency: Its currency.
        waiting: What the user has to do before the run can go on, else empty.
    """

    words: str
    verdict: RunVerdict = OPEN
    device_seconds: float | None = None
    money: float | None = None
    currency: str = ""
    waiting: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEstimate:
    """What a stage that is not done would take.

    `source` says in words where the number comes from. `money` is None where the recipe has no
    price of a device-hour.
    """

    seconds: float
    source: str
    money: float | None = None
    currency: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """One stage of a run.

    `key` identifies everything that its result depends on. `folder` and `result` are relative to
    the folder of the run. `seconds` is the time that the stage took when it was made, None while
    it is open. `reason` says why it is not taken from an earlier run, and `estimate` what it would
    take, where a plan can know it; a stage that is done has neither.
    """

    stage: str
    key: str
    state: StageState
    folder: str
    result: str
    seconds: float | None = None
    outcome: StageOutcome | None = None
    reason: str = ""
    estimate: StageEstimate | None = None

    def folder_in(self, root: Path) -> Path:
        """Return the folder of this stage in that of the run.

        Raises:
            RecordError: It would lie outside of the run.
        """
        return self._within(root, self.folder)

    def result_in(self, root: Path) -> Path:
        """Return the file of the record of this stage in the folder of the run.

        Raises:
            RecordError: It would lie outside of the run.
        """
        return self._within(root, self.result)

    def _within(self, root: Path, name: str) -> Path:
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise RecordError(
                f"The run in {root} names {name!r} for its stage {self.stage!r}, which is outside "
                "of the run. Its pipeline.json was edited; run plop run again."
            )
        return path


@dataclass(frozen=True, repr=False, kw_only=True)
class PipelineRun(Record):
    """A run of the pipeline, from the data to the decision.

    `recipe_digest` identifies the recipe as it was asked for. `waiting` says what the user has to
    do before the run can go on, such as training with a trainer of their own.
    """

    kind: ClassVar[str] = "pipeline-run"

    folder: str
    model: str
    recipe_digest: str
    stages: tuple[StageRun, ...]
    plop_version: str
    waiting: str = ""
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> RunVerdict:
        """The gravest of what the stages say."""
        said = [stage.outcome.verdict for stage in self.stages if stage.outcome is not None]
        return max(said, key=_ORDER.index, default=OPEN)

    @property
    def complete(self) -> bool:
        """Whether every stage is done."""
        return all(stage.outcome is not None for stage in self.stages)

    @property
    def exit_code(self) -> int:
        """0 confirmed or nothing decided yet, 3 the gate fails, 4 undecided, 5 beaten."""
        return EXIT_CODES[self.verdict]
