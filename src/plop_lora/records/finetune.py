"""The final finetune: the adapter that ships, and what it reached on the held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from plop_lora.records.base import Record
from plop_lora.records.cost import CostLedger
from plop_lora.records.placement import Placement
from plop_lora.records.scores import ModelReference
from plop_lora.records.trial import LearningCurve


class FinetuneVerdict(StrEnum):
    """What the held-out rows say of the adapter: better or worse than the base, or neither."""

    IMPROVED = "better than base"
    WORSE = "worse than base"
    INCONCLUSIVE = "cannot separate"


IMPROVED, WORSE, INCONCLUSIVE = FinetuneVerdict
EXIT_CODES = {IMPROVED: 0, WORSE: 3, INCONCLUSIVE: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneChoice:
    """What is trained, and where that was decided.

    Attributes:
        source: Kind of the record: `placement`, `verification` or `tuning`.
        source_digest: Digest of that record.
        arm: Name of the placement in it.
        why: Reason for this placement, in words.
        learning_rate: Learning rate of the adapters.
        rate_from: Where the learning rate comes from, in words.
    """

    source: str
    source_digest: str
    arm: str
    why: str
    learning_rate: float
    rate_from: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """One outcome on rows that were not trained on, of the base and of the adapter.

    `difference` is the advantage of the adapter, above 0 where it is better, with its 95 % interval
    over rows; `low` and `high` are None for an outcome that is no mean over rows. One seed was
    trained, so that the interval does not hold for other seeds.
    """

    metric: str
    base: float
    adapter: float
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True, repr=False, kw_only=True)
class FinetunePlan(Record):
    """What a final finetune would run; nothing was loaded to make it.

    `every` is the number of steps between two checkpoints, `seconds` the estimated device time and
    `seconds_from` what it is estimated from. `peak_memory` is that of the trials of the same
    placement, in bytes, None where the source has none.
    """

    kind: ClassVar[str] = "finetune-plan"

    model: ModelReference
    task: str
    metric: str
    choice: FinetuneChoice
    parameters: int
    train_rows: int
    selection_rows: int
    report_rows: int
    steps: int
    every: int
    patience: int
    seconds: float
    seconds_from: str
    money: float | None
    currency: str
    peak_memory: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False, kw_only=True)
class Finetune(Record):
    """The outcome of a final finetune; its adapter lies in the folder `adapter` beside it.

    `criterion` is the outcome that decides the verdict, the held-out loss where the task has one,
    and `outcomes` have it first. `steps` were taken of `planned_steps`; `best_step` is the one of
    the checkpoint that ships, None where that is the last step. `nothing_learned` lists the signs
    that the training changed nothing. `adapter_digest` is the SHA-256 of the files of the adapter.
    `curve` is None in records of earlier versions.
    """

    kind: ClassVar[str] = "finetune"

    model: ModelReference
    task: str
    criterion: str
    verdict: FinetuneVerdict
    choice: FinetuneChoice
    placement: Placement
    seed: int
    train_rows: int
    selection_rows: int
    report_rows: int
    steps: int
    planned_steps: int
    best_step: int | None
    outcomes: tuple[HeldOut, ...]
    adapter_digest: str
    cost: CostLedger
    versions: dict[str, str]
    plop_version: str
    nothing_learned: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    curve: Annotated[LearningCurve | None, Field(exclude_if=lambda value: value is None)] = None

    @property
    def exit_code(self) -> int:
        """0 better than the base, 3 worse, 4 not told apart."""
        return EXIT_CODES[self.verdict]
