"""Trials: one small finetune of one placement, what it should be and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field

from plop_lora.records.base import Record
from plop_lora.records.placement import Placement


class Phase(StrEnum):
    """What a trial is for.

    `ladder` chooses a learning rate and `search` a configuration, both on the selection split;
    `confirm` decides on the report split, and `untrained` judges the model as it was there.
    """

    LADDER = "ladder"
    SEARCH = "search"
    CONFIRM = "confirm"
    UNTRAINED = "untrained"


class Status(StrEnum):
    """How a trial ended."""

    DONE = "done"
    FAILED = "failed"


LADDER, SEARCH, CONFIRM, UNTRAINED = Phase
DONE, FAILED = Status

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


def _one_of(*words: str) -> AfterValidator:
    def check(word: str) -> str:
        if word not in words:
            raise ValueError(f"{word!r} is unknown; allowed: {', '.join(words)}")
        return word

    return AfterValidator(check)


def _share_of_steps(share: float) -> float:
    if not share < 1:
        raise ValueError(f"{share:g} is no share of the steps; give less than 1, such as 0.03")
    return share


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How every trial trains, whatever its placement; the learning rate is not among them.

    What a field is, and the values that it may have, stand on the field.
    """

    __pydantic_config__ = _STRICT

    epochs: Annotated[
        float, Field(gt=0, description="Passes over the training rows, where `steps` is not given.")
    ] = 1.0
    steps: Annotated[
        int | None,
        Field(ge=1, description="Optimizer steps, which take the place of `epochs`."),
    ] = None
    batch_size: Annotated[
        int,
        Field(ge=1, description="Sequences a device and step; for grpo, completions."),
    ] = 8
    accumulation: Annotated[int, Field(ge=1, description="Batches an optimizer step.")] = 1
    max_length: Annotated[
        int,
        Field(ge=2, description="Tokens that a sequence is cut to; grpo does not use it."),
    ] = 512
    warmup: Annotated[
        float,
        AfterValidator(_share_of_steps),
        Field(ge=0, description="Share of the steps in which the learning rate rises."),
    ] = 0.03
    schedule: Annotated[
        str,
        _one_of(*SCHEDULES),
        Field(description="The learning-rate schedule, by the name that transformers gives it."),
    ] = "linear"
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay of AdamW.")] = 0.0
    dtype: Annotated[
        str,
        _one_of(*DTYPES),
        Field(
            description="The dtype of the frozen weights: float32, bfloat16, float16, or auto, "
            "which is the checkpoint's own, and float32 on a CPU that has no instructions for it."
        ),
    ] = "auto"
    device: Annotated[str, Field(description="auto, cpu, cuda, or another of torch's.")] = "auto"
    checkpointing: Annotated[
        bool, Field(description="Whether activations are recomputed in the backward pass.")
    ] = False
    rewards: Annotated[
        tuple[str, ...],
        Field(
            description="Reward functions of grpo, which are summed: `number`, `format`, or "
            "`module:function`."
        ),
    ] = ()
    generations: Annotated[int, Field(ge=2, description="Completions a prompt, for grpo.")] = 8
    completion_length: Annotated[
        int, Field(ge=1, description="Tokens that a completion may have, for grpo.")
    ] = 128
    temperature: Annotated[
        float, Field(gt=0, description="Temperature of the sampling, for grpo.")
    ] = 1.0
    beta: Annotated[
        float,
        Field(ge=0, description="Weight of the divergence from the base model, for grpo."),
    ] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How every trial is judged; what a field is stands on the field."""

    __pydantic_config__ = _STRICT

    metric: Annotated[
        str | None,
        Field(
            description="What decides: `loss` (held-out nats a token, lower is better), `exact`, "
            "`numeric` or `pass@1` (greedy generation, pass@1 by the reward functions), "
            "`accuracy`, `macro-f1`, `lm-eval:TASK`, or `module:function`; without it the task's "
            "own: `loss` for sft, `accuracy` for classify, `pass@1` for grpo."
        ),
    ] = None
    batch_size: Annotated[
        int, Field(ge=1, description="Sequences a forward pass or generation.")
    ] = 16
    max_new_tokens: Annotated[int, Field(ge=1, description="Tokens of a generated answer.")] = 128
    include_path: Annotated[str | None, Field(description="Folder of local tasks for lm-eval.")] = (
        None
    )


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

    `model` is what `load_model` takes, `phase` what the trial is for. `labels` are the classes of
    `classify`
    in the order of their numbers, `loraplus_ratio` and the initialisation stand in the placement's
    settings. `revision` is the commit of a hub id, `weights` a key of the content of a folder:
    other weights under the same name are another trial. A spec without them is the same document
    as before there were such fields, and keeps its digest.
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

    @classmethod
    def of_spec(cls, spec: TrialSpec, **found: Any) -> Self:
        """Return the result of a trial, which names its spec as it was.

        Args:
            spec: The spec of the trial.
            **found: The other fields, by name: what came of the trial.
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
        """Whether the trial ended with numbers."""
        return self.status == DONE


LOWER_IS_BETTER = ("loss", GENERAL_LOSS)


def higher_is_better(metric: str) -> bool:
    """Return the direction of a metric; everything but the loss is better when higher."""
    return metric not in LOWER_IS_BETTER
