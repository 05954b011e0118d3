"""What a task is: one object that says all that is particular to one kind of finetune.

How its rows are read and checked, what a model is loaded as, how it is trained and judged, at
which rate, with which packages. Everything else goes by the object: how adapters are made, how
long a trial took and what is done with a failure is `trial`'s affair. Imports no trainer, and no
torch: what needs them imports them when it is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from plop_lora.evaluation.judged import Judged, Prepared, Row, answer_text, prompt_text
from plop_lora.recipe import DataRecipe
from plop_lora.records import EvaluationSettings, TrainingSettings, TrialSpec
from plop_lora.records.scores import ModelReference
from plop_lora.training.readers import Reader

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Trained:
    """What training reports: tokens passed, optimizer steps, the trainer's last row.

    `rows_dropped` and `rows_cut` are as in `TrialResult`.
    """

    tokens: int
    steps: int
    last_log: Mapping[str, object]
    rows_dropped: int = 0
    rows_cut: int = 0


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
    log: Callable[[Mapping[str, object]], None]
    batch_size: int
    report_to: tuple[str, ...] = ()


Train = Callable[[TrialSpec, Prepared, Sequence[Row], Session], Trained]


class Judge(Protocol):
    """Judges a model on evaluation rows by the metric of a trial."""

    def __call__(
        self, spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], *, general: Sequence[Row]
    ) -> Judged:
        """Return the outcome of every row; `general` has texts that are none of the task's."""
        ...


class ModelClass(NamedTuple):
    """What loads a model for a task, and its further options.

    `trains_head` says whether what the checkpoint lacks is a head that trains from scratch.
    """

    kind: Any
    options: dict[str, Any]
    trains_head: bool = False


class Loading(NamedTuple):
    """What a task knows of a model that is about to be loaded."""

    task: str
    model: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    labels: Sequence[str]


def _nothing(*_: object) -> None:
    """Check nothing."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Task:
    """One kind of finetune.

    Attributes:
        name: as recipes and specs give it.
        columns: what a prepared row has to have: all of one of these.
        reserved: columns by whose presence a trainer tells what a row is: of a data set only those
            that are meant stay.
        reader: from the options of the user, the columns and the name of a data set to the way in
            which its rows are read.
        check_made: refuses rows that were read, by the columns and the name of the data set.
        question: what a prepared row asks, as one text: no question stands in two splits.
        answer: what it answers, as one text; empty where that is part of the question.
        reference: the right answer that a metric compares with, None where a row has none.
        tokens: a row as the model sees it in training, by its tokenizer.
        model_class: what transformers should load.
        check_model: refuses a scored model that a task of this name cannot train.
        train: trains a model that has its adapters.
        judge: judges a trained model.
        metrics: by name; the first decides where none is asked for.
        full_rate: learning rate of a full finetune of a model of 2,000 features, from which
            `study.usual_rate` has that of LoRA.
        packages: whose versions a result tells; all have to be installed.
        by_answers: whether answers are generated, so that `lm-eval:TASK` and `module:function` are
            metrics as well.
        completes: whether a row has an answer that the model learns to write.
        has_classes: whether rows have a class, in the column `label`; every split has its share of
            each, and specs name them all.
        reads_text: whether the loss on general text can be measured beside the task.
        samples: whether training samples its completions in groups and learns from rewards.
        largest_rank: a limit on every rank, beyond which the task is known to fail; ranks are even
            then. None without one.
        check_settings: refuses training settings that the task cannot work with.
        check_rows: refuses rows of a trial, before a model is loaded, by its spec and their source.
        try_rows: runs the user's functions on a few rows, by the training settings.
        check_length: refuses too few rows for one step.
    """

    name: str
    columns: tuple[tuple[str, ...], ...]
    reserved: tuple[str, ...]
    reader: Callable[[DataRecipe, Sequence[str], str], Reader]
    tokens: Callable[[Row, Any], Sequence[int]]
    model_class: Callable[[Loading], ModelClass]
    check_model: Callable[[str, ModelReference], None]
    train: Train
    judge: Judge
    metrics: tuple[str, ...]
    full_rate: float
    packages: tuple[str, ...] = ("torch", "transformers", "peft")
    question: Callable[[Row], str] = prompt_text
    answer: Callable[[Row], str] = answer_text
    reference: Callable[[Row], str | None] = answer_text
    by_answers: bool = False
    completes: bool = False
    has_classes: bool = False
    reads_text: bool = False
    samples: bool = False
    largest_rank: int | None = None
    check_made: Callable[[Sequence[Row], Sequence[str], str], None] = _nothing
    check_settings: Callable[[TrainingSettings], None] = _nothing
    check_rows: Callable[[TrialSpec, Sequence[Row], str], None] = _nothing
    try_rows: Callable[[TrainingSettings, Sequence[Row]], None] = _nothing
    check_length: Callable[[TrainingSettings, int], None] = _nothing

    def metric_of(self, evaluation: EvaluationSettings) -> str:
        """Return the metric that decides: the one asked for, or the task's own."""
        return evaluation.metric or self.metrics[0]

    def passes(self, settings: TrainingSettings, rows: int) -> Passes:
        """Return how many steps a trial takes and how many of its rows it sees."""
        a_step = settings.batch_size * settings.accumulation
        if self.samples:
            a_step //= settings.generations
        a_step = max(1, a_step)
        steps = settings.steps or max(1, math.ceil(rows * settings.epochs / a_step))
        return Passes(steps, min(a_step, rows), min(rows, steps * a_step))


@dataclass(frozen=True, slots=True)
class Passes:
    """What a trial sees: steps, rows a step (of rewards: prompts), and different rows in all.

    >>> str(Passes(8, 4, 32))
    '8 steps of 4 rows, 32 different ones'
    """

    steps: int
    rows_a_step: int
    rows: int

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps:,} steps"
        return f"{steps} of {self.rows_a_step:,} rows, {self.rows:,} different ones"
