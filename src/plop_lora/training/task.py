"""The definition of a task: one object with everything that is specific to one kind of finetune.

It says how rows are read and checked, which class loads the model, how the model is trained and
evaluated, at which learning rate and with which packages. What all tasks share, such as adapters,
measured cost and failures, belongs to `trial`. Imports no trainer and no torch; functions that need
them import them when called.
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
from plop_lora.records.trial import CheckpointSettings
from plop_lora.training.readers import Reader

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Trained:
    """The outcome of training: numbers of tokens and optimizer steps, and the last logged row.

    `rows_dropped` and `rows_cut` are those of `TrialResult`.
    """

    tokens: int
    steps: int
    last_log: Mapping[str, object]
    rows_dropped: int = 0
    rows_cut: int = 0
    best_step: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoints:
    """The checkpoints of a training, from which it resumes and of which the best one ships.

    Attributes:
        folder: Folder that holds them, each named checkpoint-STEP.
        every: Number of optimizer steps between two of them.
        settings: How many are kept, and when the training stops early.
        criterion: Metric by which the best one is chosen.
        judge: Function that returns that metric of the model under training on the selection
            split, or None where nothing is evaluated before the end.
        last: Complete checkpoint to resume from, or None.
    """

    folder: Path
    every: int
    settings: CheckpointSettings
    criterion: str
    judge: Callable[[], float] | None = None
    last: Path | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """The inputs of a trainer beside the model and the rows.

    Attributes:
        folder: Folder of the trial, for logs.
        log: Function that is called with every logged row; it writes the curve and stops on NaN.
        batch_size: Batch size of this attempt, smaller than the spec's after a lack of memory.
        report_to: Names of trackers that transformers supports.
        checkpoints: Checkpoints of the training, or None for a trial, which is short.
    """

    folder: Path
    log: Callable[[Mapping[str, object]], None]
    batch_size: int
    report_to: tuple[str, ...] = ()
    checkpoints: Checkpoints | None = None


Train = Callable[[TrialSpec, Prepared, Sequence[Row], Session], Trained]


class Judge(Protocol):
    """Function that evaluates a model on rows by the metric of a trial."""

    def __call__(
        self, spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], *, general: Sequence[Row]
    ) -> Judged:
        """Return the outcome of every row; `general` holds texts that do not belong to the task."""
        ...


class ModelClass(NamedTuple):
    """The class that loads a model for a task, and its further options.

    `trains_head` says whether weights that the checkpoint lacks are a head to train from scratch.
    """

    kind: Any
    options: dict[str, Any]
    trains_head: bool = False


class Loading(NamedTuple):
    """Information on a model that is about to be loaded, from which a task chooses its class."""

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
        name: Name in recipes and specs.
        columns: Alternative sets of columns; a prepared row has all columns of one of them.
        reserved: Columns by which a trainer recognises the kind of a row; of a data set, only those
            that are intended are kept.
        reader: Function from the user's options, the columns and the name of a data set to the
            reader of its rows.
        check_made: Function that checks rows after reading, given the columns and the name of the
            data set.
        question: Function that returns the question of a prepared row as one text; no question is
            in two splits.
        answer: Function that returns the answer of a prepared row as one text, empty if it is part
            of the question.
        reference: Function that returns the reference answer of a row for a metric, or None.
        tokens: Function that returns the tokens of a row as the model sees them in training.
        model_class: Function that returns the class of transformers that loads the model.
        check_model: Function that rejects a scored model that the task cannot train.
        train: Function that trains a model with adapters.
        judge: Function that evaluates a trained model.
        metrics: Metrics by name; the first one is the default. With `loss` among them, judging
            gives the held-out loss of every row, whatever metric is asked for.
        full_rate: Learning rate of a full finetune of a model of 2,000 features, from which
            `study.usual_rate` derives that of LoRA.
        packages: Packages that have to be installed, whose versions a result records.
        resumes: Whether `train` saves and reads the checkpoints of its session.
        by_answers: Whether answers are generated, so that `lm-eval:TASK` and `module:function` are
            metrics as well.
        completes: Whether a row has an answer that the model learns to write.
        has_classes: Whether rows have a class, in the column `label`. Every split then has its
            share of each class, and specs list the classes.
        reads_text: Whether the loss on general text can be measured.
        samples: Whether training samples completions in groups and learns from rewards.
        largest_rank: Largest rank, beyond which the task is known to fail, or None. With a limit,
            ranks are even.
        check_settings: Function that rejects training settings that the task does not support.
        check_rows: Function that checks the rows of a trial before a model is loaded, given the
            spec and the source of the rows.
        try_rows: Function that calls the user's functions on a few rows, given the settings.
        check_length: Function that rejects too few rows for one step.
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
    resumes: bool = False
    largest_rank: int | None = None
    check_made: Callable[[Sequence[Row], Sequence[str], str], None] = _nothing
    check_settings: Callable[[TrainingSettings], None] = _nothing
    check_rows: Callable[[TrialSpec, Sequence[Row], str], None] = _nothing
    try_rows: Callable[[TrainingSettings, Sequence[Row]], None] = _nothing
    check_length: Callable[[TrainingSettings, int], None] = _nothing

    def metric_of(self, evaluation: EvaluationSettings) -> str:
        """Return the metric that decides: the requested one, or the task's default."""
        return evaluation.metric or self.metrics[0]

    def criterion_of(self, evaluation: EvaluationSettings) -> str:
        """Return the metric that chooses a checkpoint: the held-out loss, if the task has one.

        On a few rows the loss tells two checkpoints apart long before a share of right answers
        does, and it costs one forward pass.
        """
        return "loss" if "loss" in self.metrics else self.metric_of(evaluation)

    def passes(self, settings: TrainingSettings, rows: int) -> Passes:
        """Return the number of steps of a trial and the number of rows that it sees."""
        a_step = settings.batch_size * settings.accumulation
        if self.samples:
            a_step //= settings.generations
        a_step = max(1, a_step)
        steps = settings.steps or max(1, math.ceil(rows * settings.epochs / a_step))
        return Passes(steps, min(a_step, rows), min(rows, steps * a_step))


@dataclass(frozen=True, slots=True)
class Passes:
    """The numbers of steps, of rows per step (for grpo, prompts) and of different rows of a trial.

    >>> str(Passes(8, 4, 32))
    '8 steps of 4 rows, 32 different ones'
    """

    steps: int
    rows_a_step: int
    rows: int

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps:,} steps"
        return f"{steps} of {self.rows_a_step:,} rows, {self.rows:,} different ones"
