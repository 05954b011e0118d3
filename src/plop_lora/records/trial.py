"""Trials: the specification and the result of one small finetune of one placement."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field

from plop_lora.records.base import Record
from plop_lora.records.placement import Placement


class Phase(StrEnum):
    """The purpose of a trial.

    Trials of `ladder` choose a learning rate and those of `search` a configuration, both on the
    selection split. Those of `confirm` decide on the report split, `untrained` evaluates the model
    without any training there, and `final` trains the adapter that ships.
    """

    LADDER = "ladder"
    SEARCH = "search"
    CONFIRM = "confirm"
    UNTRAINED = "untrained"
    FINAL = "final"


class Status(StrEnum):
    """How a trial ended."""

    DONE = "done"
    FAILED = "failed"


LADDER, SEARCH, CONFIRM, UNTRAINED, FINAL = Phase
DONE, FAILED = Status

GENERAL_LOSS = "general-loss"
"""The loss in nats per token on general text, recorded beside the metrics of the task."""

SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "constant",
    "constant_with_warmup",
)  # fmt: skip
"""The schedules of transformers that need no setting but the number of steps."""
WITHOUT_WARMUP = ("constant",)
DTYPES = ("auto", "float32", "bfloat16", "float16")

_STRICT = {"extra": "forbid"}
_Optional = Annotated[str | None, Field(exclude_if=lambda value: value is None)]
_Unless = Field(exclude_if=lambda value: not value)


def _one_of(*words: str) -> AfterValidator:
    def check(word: str) -> str:
        if word not in words:
            raise ValueError(f"{word!r} is unknown; allowed: {', '.join(words)}")
        return word

    return AfterValidator(check)


def _share_of_steps(share: float) -> float:
    if not share < 1:
        raise ValueError(f"{share:g} is not a share of the steps; give less than 1, such as 0.03")
    return share


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How every trial trains, whatever its placement. The learning rate is not part of it.

    The description of each field says what it means and which values it may have.
    """

    __pydantic_config__ = _STRICT

    epochs: Annotated[
        float,
        Field(
            gt=0,
            description="The number of passes over the training rows, where `steps` is not given.",
        ),
    ] = 1.0
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            description="The number of optimizer steps; it takes precedence over `epochs`.",
        ),
    ] = None
    batch_size: Annotated[
        int,
        Field(
            ge=1,
            description="The number of sequences per device and forward pass; for grpo, of "
            "completions.",
        ),
    ] = 8
    accumulation: Annotated[
        int,
        Field(
            ge=1,
            description="The number of batches whose gradients are accumulated for one optimizer "
            "step.",
        ),
    ] = 1
    max_length: Annotated[
        int,
        Field(
            ge=2,
            description="The number of tokens to which a sequence is truncated. Not used by grpo.",
        ),
    ] = 512
    warmup: Annotated[
        float,
        AfterValidator(_share_of_steps),
        Field(
            ge=0,
            description="The share of the steps during which the learning rate is warmed up.",
        ),
    ] = 0.03
    schedule: Annotated[
        str,
        _one_of(*SCHEDULES),
        Field(description="The learning-rate schedule, by the name that transformers gives it."),
    ] = "linear"
    weight_decay: Annotated[float, Field(ge=0, description="The weight decay of AdamW.")] = 0.0
    dtype: Annotated[
        str,
        _one_of(*DTYPES),
        Field(
            description="The dtype of the frozen weights: float32, bfloat16, float16, or auto, "
            "which is the dtype of the checkpoint, or float32 on a CPU without instructions for "
            "that dtype."
        ),
    ] = "auto"
    device: Annotated[
        str, Field(description="The device: auto, cpu, cuda, or another device of torch.")
    ] = "auto"
    checkpointing: Annotated[
        bool,
        Field(
            description="Whether to use gradient checkpointing, which recomputes activations in "
            "the backward pass to save memory."
        ),
    ] = False
    rewards: Annotated[
        tuple[str, ...],
        Field(
            description="The reward functions of grpo, which are summed: `number`, `format`, or a "
            "function of your own, written as `module:function`."
        ),
    ] = ()
    generations: Annotated[
        int, Field(ge=2, description="The number of completions per prompt, for grpo.")
    ] = 8
    completion_length: Annotated[
        int, Field(ge=1, description="The largest number of tokens of a completion, for grpo.")
    ] = 128
    temperature: Annotated[
        float, Field(gt=0, description="The sampling temperature, for grpo.")
    ] = 1.0
    beta: Annotated[
        float,
        Field(
            ge=0,
            description="The weight of the KL divergence from the base model in the loss, for "
            "grpo.",
        ),
    ] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How every trial is evaluated. The description of each field says what it means."""

    __pydantic_config__ = _STRICT

    metric: Annotated[
        str | None,
        Field(
            description="The metric that decides: `loss` (nats per token on held-out rows, lower "
            "is better); or, where higher is better, `exact`, `numeric` or `pass@1` (answers are "
            "generated greedily, and pass@1 is decided by the reward functions), `accuracy`, "
            "`macro-f1`, `lm-eval:TASK`, or a function of your own, written as "
            "`module:function`. By default `loss` for sft, "
            "`accuracy` for classify and `pass@1` for grpo."
        ),
    ] = None
    batch_size: Annotated[
        int,
        Field(ge=1, description="The number of sequences per forward pass or generation."),
    ] = 16
    max_new_tokens: Annotated[
        int, Field(ge=1, description="The largest number of tokens of a generated answer.")
    ] = 128
    include_path: Annotated[
        str | None,
        Field(description="A folder with task definitions of your own for lm-eval."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """When a training saves checkpoints, and when it stops early.

    Attributes:
        per_epoch: Number of checkpoints in a pass over the training rows. Where there is a
            selection split, the model is evaluated on it at each of them.
        patience: Number of evaluations in a row without a new best one after which the training
            stops; 0 evaluates nothing and trains to the end.
        keep: Number of the last checkpoints that are kept; the best one is kept as well.
    """

    __pydantic_config__ = _STRICT

    per_epoch: Annotated[int, Field(ge=1)]
    patience: Annotated[int, Field(ge=0)]
    keep: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class TrialData:
    """The files of a trial, relative to the folder of its spec, with the SHA-256 of each.

    `rows` is the number of training rows that are used, counted from the start of the file, which
    is shuffled; None uses all. `general` is a file of texts that do not belong to the task: the
    loss on them shows how far the finetune changed the model elsewhere. `selection` are the rows
    on which the training is evaluated while it runs. A spec without them omits the fields, so that
    older specs keep their digest.
    """

    train: str
    train_sha256: str
    evaluation: str
    evaluation_sha256: str
    rows: int | None = None
    general: _Optional = None
    general_sha256: _Optional = None
    selection: _Optional = None
    selection_sha256: _Optional = None


@dataclass(frozen=True, repr=False, kw_only=True)
class TrialSpec(Record):
    """Everything on which the outcome of one finetune depends. Its digest names the trial's folder.

    `model` is the name that `load_model` takes, and `labels` are the classes of `classify` in the
    order of their numbers. `loraplus_ratio` and the initialisation are part of the placement's
    settings. `revision` is the commit of a hub id, and `weights` is a key of the content of a
    folder, so that other weights under the same name make another trial. `checkpoints` are those of
    a training that resumes where it was killed. A spec without these three omits the fields, so
    that older specs keep their digest.
    """

    kind: ClassVar[str] = "trial"

    arm: str
    seed: int
    phase: Phase
    task: str
    model: str
    placement: Placement
    learning_rate: float
    data: TrialData
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    labels: tuple[str, ...] = ()
    revision: _Optional = None
    weights: _Optional = None
    checkpoints: Annotated[
        CheckpointSettings | None, Field(exclude_if=lambda value: value is None)
    ] = None


MOST_POINTS = 60
"""The most points of a learning curve in a record."""
Points = Annotated[tuple[tuple[int, float], ...], Field(max_length=MOST_POINTS)]
"""The steps and the values of a curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """What a trial logged while it trained, by optimizer step.

    `quantity` is `loss`, or `reward` for grpo, and each of the `points` is its mean over the steps
    since the point before. `evaluations` are the loss on the selection rows, for a training that
    was evaluated while it ran.
    """

    quantity: str
    points: Points
    evaluations: Points = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCost:
    """The measured time, memory and tokens of a trial.

    `wall_seconds` begin when the data are read and the model is about to be loaded, and end after
    the evaluation. They include the loading, except in a trial of warm workers that was given a
    loaded model, and the imports that are left by then, of which warm workers have hardly any. The
    start of the process is not part of them, except in a trial that wrote no result: its runner
    counts from the start.

    `devices` is the number of accelerators, or of processes on a CPU. `device` is the name of the
    hardware, and `accelerator` says whether it is one. `peak_memory` is in bytes, of the
    accelerator where there is one and otherwise of the resident memory of the trial's own process,
    which for warm workers includes what it shares with the process that it was forked from.
    `tokens` is the number of tokens in training, including generated ones.
    """

    wall_seconds: float
    train_seconds: float
    evaluate_seconds: float
    devices: int
    device: str
    accelerator: bool
    peak_memory: int
    tokens: int

    @property
    def device_seconds(self) -> float:
        """Wall time × devices."""
        return self.wall_seconds * self.devices


@dataclass(frozen=True, repr=False, kw_only=True)
class TrialResult(Record):
    """The result of a trial. It is written last, so a folder that holds one is complete.

    `metrics` are means over the evaluation rows, and `items` hold the outcome of every row, in the
    order of the file, for each metric that is a mean over rows. `trainable_parameters` is the
    number of adapter parameters, counted in the model. `batch_size` is the size that was used in
    the end, and `dtype` that of the frozen weights. A failed trial has a `cause` and the values
    that were known by then. `mendable` marks a failure of the machine (a full disk, a signal, a
    missing library) rather than of the placement: such a result is not kept, and the trial runs
    again when the study is resumed. `nothing_learned` lists the signs that the trial cannot have
    learned anything. `rows_dropped` is the number of training rows without any token to train on
    within `max_length`, and `rows_cut` the number of those that were truncated. `general_tokens`
    is the number of tokens of every general text, so that its sum of nats is known as well.
    `steps` is the number of optimizer steps that were taken, and `best_step` the one of the
    checkpoint that the adapter is from, None where the last step is; both are recorded of a
    training with checkpoints alone. `curve` is None where nothing was logged, and in records of
    earlier versions.
    """

    kind: ClassVar[str] = "trial-result"

    spec_digest: str
    arm: str
    seed: int
    phase: Phase
    learning_rate: float
    status: Status
    cause: str | None
    metric: str
    metrics: dict[str, float]
    items: dict[str, tuple[float, ...]]
    trainable_parameters: int
    batch_size: int
    cost: TrialCost
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    last_log: dict[str, object] = field(default_factory=dict)
    dtype: str = ""
    mendable: Annotated[bool, _Unless] = False
    nothing_learned: Annotated[tuple[str, ...], _Unless] = ()
    rows_dropped: Annotated[int, _Unless] = 0
    rows_cut: Annotated[int, _Unless] = 0
    general_tokens: Annotated[tuple[int, ...], _Unless] = ()
    steps: Annotated[int, _Unless] = 0
    best_step: Annotated[int | None, _Unless] = None
    curve: Annotated[LearningCurve | None, _Unless] = None

    @classmethod
    def of_spec(cls, spec: TrialSpec, **found: Any) -> Self:
        """Return the result of a trial, with the fields that identify its spec filled in.

        Args:
            spec: Specification of the trial.
            **found: Values of the other fields, by name.
        """
        return cls(
            spec_digest=spec.digest(),
            arm=spec.arm,
            seed=spec.seed,
            phase=spec.phase,
            learning_rate=spec.learning_rate,
            **found,
        )

    @property
    def done(self) -> bool:
        """Whether the trial finished and has metrics."""
        return self.status == DONE


LOWER_IS_BETTER = ("loss", GENERAL_LOSS)


def higher_is_better(metric: str) -> bool:
    """Return whether higher values of a metric are better, as for every metric but a loss."""
    return metric not in LOWER_IS_BETTER
