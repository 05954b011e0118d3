"""Trials: one small finetune of one placement, what it should be and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from plop_lora.records.base import Record
from plop_lora.records.placement import Placement

LADDER, SEARCH, CONFIRM, UNTRAINED = "ladder", "search", "confirm", "untrained"
DONE, FAILED = "done", "failed"

GENERAL_LOSS = "general-loss"
"""Nats a token on general text, beside the metrics of the task."""

SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "constant",
    "constant_with_warmup",
)  # fmt: skip
"""Those of transformers that need nothing but a number of steps."""
WITHOUT_WARMUP = ("constant",)
DTYPES = ("auto", "float32", "bfloat16", "float16")

_STRICT = {"extra": "forbid"}
_Optional = Annotated[str | None, Field(exclude_if=lambda value: value is None)]
_Unless = Field(exclude_if=lambda value: not value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How every trial trains, whatever its placement; the learning rate is not among them.

    Attributes:
        epochs: passes over the training rows, where `steps` is None.
        steps: optimizer steps; takes the place of `epochs`.
        batch_size: sequences (for `grpo`: completions) a device and step.
        accumulation: batches an optimizer step.
        max_length: tokens a sequence is cut to (for `grpo`: not used).
        warmup: share of the steps in which the learning rate rises, below 1.
        schedule: transformers' name of the schedule, one of `SCHEDULES`.
        weight_decay: of AdamW.
        dtype: of the frozen weights: float32, bfloat16, float16, or auto: the checkpoint's own,
            and float32 on a CPU that has no instructions for that.
        device: auto, cpu, cuda …
        checkpointing: recompute activations in the backward pass.
        rewards: for `grpo`: `number`, `format`, or `module:function`, summed.
        generations: for `grpo`: completions a prompt.
        completion_length: for `grpo`: tokens a completion may have.
        temperature: for `grpo`: of its sampling.
        beta: for `grpo`: weight of the divergence from the base model.
    """

    __pydantic_config__ = _STRICT

    epochs: float = 1.0
    steps: int | None = None
    batch_size: int = 8
    accumulation: int = 1
    max_length: int = 512
    warmup: float = 0.03
    schedule: str = "linear"
    weight_decay: float = 0.0
    dtype: str = "auto"
    device: str = "auto"
    checkpointing: bool = False
    rewards: tuple[str, ...] = ()
    generations: int = 8
    completion_length: int = 128
    temperature: float = 1.0
    beta: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How every trial is judged.

    Attributes:
        metric: what decides: `loss` (held-out nats a token, lower is better), `exact`, `numeric`
            or `pass@1` (greedy generation, pass@1 by the reward functions), `accuracy`,
            `macro-f1`, `module:function`, `lm-eval:TASK`; None takes the task's own (`loss` for
            sft, `accuracy` for classify, `pass@1` for grpo).
        batch_size: sequences a forward or generation.
        max_new_tokens: of a generated answer.
        include_path: folder of local tasks for lm-eval.
    """

    __pydantic_config__ = _STRICT

    metric: str | None = None
    batch_size: int = 16
    max_new_tokens: int = 128
    include_path: str | None = None


@dataclass(frozen=True, slots=True)
class TrialData:
    """The files of a trial, relative to the folder of its spec, with the SHA-256 of each.

    `rows` are the first training rows that are used, None for all: the file is shuffled already.
    `general`, where there is one, has texts that are none of the task's: the loss on them says
    what the finetune did to everything else. A spec without it is the same document as before
    there was such a file, and keeps its digest.
    """

    train: str
    train_sha256: str
    evaluation: str
    evaluation_sha256: str
    rows: int | None = None
    general: _Optional = None
    general_sha256: _Optional = None


@dataclass(frozen=True, repr=False, kw_only=True)
class TrialSpec(Record):
    """Everything that decides the outcome of one finetune; its digest names the trial's folder.

    `model` is what `load_model` takes. `phase` is `ladder` (choosing a learning rate, on the
    selection split), `search` (the same split, for a search), `confirm` (on the report split) or
    `untrained` (the same split, for the model as it was). `labels` are the classes of `classify`
    in the order of their numbers, `loraplus_ratio` and the initialisation stand in the placement's
    settings. `revision` is the commit of a hub id, `weights` a key of the content of a folder:
    other weights under the same name are another trial. A spec without them is the same document
    as before there were such fields, and keeps its digest.
    """

    kind: ClassVar[str] = "trial"

    arm: str
    seed: int
    phase: str
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCost:
    """What a trial took, measured.

    `devices` counts accelerators, or processes on a CPU; `device` is the hardware's name and
    `accelerator` whether it is one. `peak_memory` is in bytes: of the accelerator where there is
    one, else resident. `tokens` were trained on, generated ones included.
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
    """What came of a trial. Written last, so a folder that holds one is finished.

    `metrics` are means over the evaluation rows; `items` have the outcome of every row, in the
    order of the file, for each metric that is a mean over rows. `trainable_parameters` are those
    of the adapters, counted in the model. `batch_size` is what was used in the end, `dtype` that of
    the frozen weights. A failed trial has a `cause` and whatever was known by then. `mendable`
    marks a cause that lies with the machine (its disk, a signal, a missing library) and not with
    the placement: such a result is never kept, and the next start tries the trial again.
    `nothing_learned` says what shows that the trial can have learnt nothing, if anything does.
    `rows_dropped` are the training rows without a token to train on within `max_length`, and
    `rows_cut` those that lose their end there.
    """

    kind: ClassVar[str] = "trial-result"

    spec_digest: str
    arm: str
    seed: int
    phase: str
    learning_rate: float
    status: str
    cause: str | None
    metric: str
    metrics: dict[str, float]
    items: dict[str, tuple[float, ...]]
    trainable_parameters: int
    batch_size: int
    cost: TrialCost
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    last_log: dict[str, Any] = field(default_factory=dict)
    dtype: str = ""
    mendable: Annotated[bool, _Unless] = False
    nothing_learned: Annotated[tuple[str, ...], _Unless] = ()
    rows_dropped: Annotated[int, _Unless] = 0
    rows_cut: Annotated[int, _Unless] = 0

    @property
    def done(self) -> bool:
        """Whether the trial ended with numbers."""
        return self.status == DONE


LOWER_IS_BETTER = ("loss", GENERAL_LOSS)


def higher_is_better(metric: str) -> bool:
    """Return the direction of a metric; everything but the loss is better when higher."""
    return metric not in LOWER_IS_BETTER
