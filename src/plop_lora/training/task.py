"""What a task is to a trial: a trainer for it, and the metric that judges it by default.

A task trains a model that already has its adapters; how they were made, how long it took and what
is done with a failure is `trial`'s affair. Imports no trainer: each is imported when it is used.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plop_lora.errors import UsageError, nearest
from plop_lora.records import EvaluationSettings, TrainingSettings, TrialSpec
from plop_lora.records.trial import GRPO, TASKS

Row = Mapping[str, Any]
"""A prepared row. sft: `prompt` and `completion`, or `messages`, or `text`; classify: `text` and
`label`; grpo: `prompt`. Its other columns are kept and reach reward functions."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A model with its adapters in place, the only parameters that train, and its tokenizer.

    `notes` say what its result should tell of the weights.
    """

    model: Any
    tokenizer: Any
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trained:
    """What training reports: tokens passed, optimizer steps, the trainer's last row.

    `rows_dropped` and `rows_cut` are as in `TrialResult`.
    """

    tokens: int
    steps: int
    last_log: Mapping[str, Any]
    rows_dropped: int = 0
    rows_cut: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """The outcome of every evaluation row by metric, and the metrics that are no mean over rows.

    `items` are in the order of the rows; the mean of one is its metric. `metrics` has all of them.
    `doubts` say why the outcome may tell nothing of the model.
    """

    items: Mapping[str, tuple[float, ...]]
    metrics: Mapping[str, float]
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """What a trainer is given beside the model and the rows.

    Attributes:
        folder: of the trial; checkpoints and logs go here.
        log: called with every row the trainer logs; it keeps the curve and stops on NaN.
        batch_size: of this attempt; below the spec's after running out of memory.
        report_to: names of trackers that transformers knows.
    """

    folder: Path
    log: Callable[[Mapping[str, Any]], None]
    batch_size: int
    report_to: tuple[str, ...] = ()


Train = Callable[[TrialSpec, Prepared, Sequence[Row], Session], Trained]

DEFAULT_METRIC = {"sft": "loss", "classify": "accuracy", "grpo": "pass@1"}
DEFAULT_FULL_RATE = {"sft": 2e-5, "classify": 2e-5, "grpo": 1e-6}
"""Learning rates of a full finetune; LoRA's ladder stands around ten times these."""
LARGEST_RL_RANK = 32
"""Of reinforcement learning, which needs few ranks: GRPO collapses at high ones, more so with large
batches (OpenReview XGZHI14m8P)."""
LORA_OVER_FULL = 10.0
"""A best LoRA rate is about ten times that of a full finetune (Thinking Machines, LoRA Without
Regret, 2025)."""


def metric_of(task: str, evaluation: EvaluationSettings) -> str:
    """Return the metric that decides: the one asked for, or the task's own."""
    return evaluation.metric or DEFAULT_METRIC[task]


def usual_rate(task: str, full_rate: float | None) -> float:
    """Return the LoRA rate to start from, of the rate of a full finetune or the task's own."""
    return LORA_OVER_FULL * (full_rate or DEFAULT_FULL_RATE[task])


@dataclass(frozen=True, slots=True)
class Passes:
    """What a trial sees: steps, rows a step (for grpo: prompts), and different rows in all."""

    steps: int
    rows_a_step: int
    rows: int

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps:,} steps"
        return f"{steps} of {self.rows_a_step:,} rows, {self.rows:,} different ones"


def passes_of(task: str, settings: TrainingSettings, rows: int) -> Passes:
    """Return how many steps a trial takes and how many of its rows it sees.

    >>> str(passes_of("sft", TrainingSettings(steps=8, batch_size=4), 162))
    '8 steps of 4 rows, 32 different ones'
    """
    a_step = settings.batch_size * settings.accumulation
    if task == GRPO:
        a_step //= settings.generations
    a_step = max(1, a_step)
    steps = settings.steps or max(1, math.ceil(rows * settings.epochs / a_step))
    return Passes(steps, min(a_step, rows), min(rows, steps * a_step))


def trainer_of(task: str) -> Train:
    """Return `train` of the module of that name in this package.

    Raises:
        UsageError: there is no such task.
    """
    check_task(task)
    train: Train = importlib.import_module(f"plop_lora.training.{task}").train
    return train


def check_task(task: str) -> None:
    """Refuse a task that there is none of.

    Raises:
        UsageError: it is none of `TASKS`.
    """
    if task not in TASKS:
        raise UsageError(f"There is no task {task!r}.{nearest(task, TASKS)} Allowed: "
                         f"{', '.join(TASKS)}.")  # fmt: skip
