"""What the recipes of finetunes share: data, model, training, judging, where, at what price."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from plop_lora.options import TRACKERS
from plop_lora.recipe.section import Section, one_of
from plop_lora.records.trial import EvaluationSettings, TrainingSettings

RUNNERS = ("local", "ray")
MOST_WORKERS = 4_096
MOST_SEEDS = 1_000
"""No comparison needs more; a slip of the hand must not plan a billion trials."""
LARGEST_SEED = 2**31 - 1
"""Trials count up from it, and numpy's seeds end at 2**32."""


class Runner(Section):
    """Where trials run."""

    kind: str = Field(
        default="local",
        description="Where trials run: local (processes here) or ray (a cluster).",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=MOST_WORKERS,
        description="How many trials run at once; by default one a GPU, or one for two CPU cores.",
    )
    address: str | None = Field(
        default=None, description="The address of a Ray cluster; without it a local one is started."
    )
    gpus: float | None = Field(default=None, ge=0, description="GPUs that Ray gives each trial.")

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        return one_of(kind, RUNNERS)


class Price(Section):
    """What a device costs, for the cost ledger."""

    hourly: float | None = Field(default=None, ge=0, description="The price of a device-hour.")
    currency: str = Field(
        default="USD", description="The currency of the price, as the report names it."
    )


class DataRecipe(Section):
    """Which rows a study trains on and judges by, and how they are read and split."""

    task: str = Field(
        description="Which task is trained: sft, classify, grpo, or one of yours, written "
        "module:NAME."
    )
    train: str = Field(
        description="The training rows: a file, or a data set of the hub, written "
        "name:config:split."
    )
    eval: str = Field(
        description="The rows that the result is judged by; they are never trained on and choose "
        "nothing."
    )
    text: str | None = Field(
        None, description="The field that holds the text, or the messages of a chat."
    )
    prompt: str | None = Field(
        None, description='A template that makes the prompt of a row: "Q: {question}\\nA:".'
    )
    completion: str | None = Field(
        None, description='A template that makes the answer of a row: " {answer}".'
    )
    label: str | None = Field(None, description="The field that holds the class, for classify.")
    selection: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="The share of the training rows that is held out to choose learning rates.",
    )
    seed: int = Field(
        0,
        ge=0,
        le=LARGEST_SEED,
        description="The seed of the splits; the seeds of trials count up from it.",
    )


class FinetuneRecipe(DataRecipe):
    """What `verify` and `tune` share: data, model, training, evaluation, where, at what price."""

    CHANGEABLE: ClassVar[tuple[str, ...]] = ("runner", "price", "report_to")
    """What may change between two starts in one folder: no finished trial turns wrong by it."""

    model: str | None = Field(
        None,
        description="The model that is trained: a hub id or a folder; without it the scored one.",
    )
    revision: str | None = Field(
        None,
        description="A branch, tag or commit of the model on the hub; without it the one that was "
        "scored.",
        exclude_if=lambda value: value is None,
    )
    training: TrainingSettings = Field(
        TrainingSettings(), description="How every trial trains; its keys stand below."
    )
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(), description="How every trial is judged; its keys stand below."
    )
    budget: str | int | None = Field(
        None, description="How many adapter parameters there may be: 10M, or 0.5% of the model's."
    )
    rank: int = Field(
        16,
        ge=1,
        description="The LoRA rank of the shortlist, whose size is the budget where none is given.",
    )
    top: int | None = Field(
        None,
        ge=1,
        description="How many module types the shortlist has; by default as many as scoring "
        "decided for.",
    )
    full_rate: float | None = Field(
        None,
        gt=0,
        description="The learning rate of a full finetune of this model; LoRA starts from ten "
        "times that, from fifteen times under 100 steps. Without it the rate follows from the task "
        "and the width of the model.",
    )
    runner: Runner = Field(Runner(), description="Where trials run; its keys stand below.")
    price: Price = Field(Price(), description="What a device costs; its keys stand below.")
    report_to: tuple[str, ...] = Field(
        (), description="Trackers that trials report to: trackio, mlflow, wandb, tensorboard."
    )

    @field_validator("report_to")
    @classmethod
    def _known_trackers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(one_of(name, tuple(TRACKERS)) for name in names)
