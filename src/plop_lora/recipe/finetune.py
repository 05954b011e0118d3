"""What the recipes of `verify` and `tune` share: data, model, training, evaluation and runner."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from plop_lora.options import TRACKERS
from plop_lora.recipe.section import Section, one_of
from plop_lora.records.trial import EvaluationSettings, TrainingSettings

RUNNERS = ("local", "ray")
MOST_WORKERS = 4_096
MOST_SEEDS = 1_000
"""Upper bound of the number of seeds, so that a typing error cannot plan a billion trials."""
LARGEST_SEED = 2**31 - 1
"""Trials add their number to the seed, and the seeds of numpy end at 2**32."""


class Runner(Section):
    """Where the trials run."""

    kind: str = Field(
        default="local",
        description="Where the trials run: local (in processes on this machine) or ray (on a Ray "
        "cluster).",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=MOST_WORKERS,
        description="The number of trials that run at the same time. By default one per GPU, or "
        "one per two CPU cores where there is no GPU; on a Ray cluster, as many as its resources "
        "allow.",
    )
    address: str | None = Field(
        default=None,
        description="The address of a running Ray cluster. By default RAY_ADDRESS, a cluster that "
        "runs on this machine, or a new local one.",
    )
    gpus: float | None = Field(
        default=None, ge=0, description="The number of GPUs that Ray reserves for each trial."
    )

    warm_workers: bool = Field(
        default=True,
        description="Whether the trials on this machine are forked from one process that has "
        "imported the libraries and, where that cannot change a number, loaded the model. It "
        "needs Linux; on other systems, on a Ray cluster and if it is off, each trial starts a "
        "fresh process.",
    )

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        return one_of(kind, RUNNERS)


class Price(Section):
    """The price of a device, from which the cost ledger computes what the trials cost."""

    hourly: float | None = Field(
        default=None,
        ge=0,
        description="The price of one device for one hour, from which the report computes what the "
        "trials cost.",
    )
    currency: str = Field(
        default="USD", description="The currency of the price, as it appears in the report."
    )


class GeneralRecipe(Section):
    """The general text, on which the loss shows what a finetune costs outside its task."""

    data: str | None = Field(
        default=None,
        description="The general text: a file, or a data set of the Hugging Face Hub, written as "
        "name:config:split. By default the English, Japanese and program texts that come with "
        "plop-lora.",
    )
    text: str | None = Field(
        default=None,
        description="The field of that data that holds the text. By default it is recognised.",
    )
    most: int = Field(
        default=60,
        ge=0,
        description="The largest number of texts. 0 leaves the loss on general text unmeasured.",
    )


TEXT: Any = Field(None, description="The field that holds the text or the chat messages of a row.")
PROMPT: Any = Field(
    None,
    description="A template for the prompt of a row, with the names of fields in braces: "
    '"Q: {question}\\nA:".',
)
COMPLETION: Any = Field(
    None,
    description="A template for the answer of a row, with the names of fields in braces: "
    '" {answer}".',
)
"""How a row is read; `plop gate` has the same keys."""


class DataRecipe(Section):
    """The rows on which a study trains and evaluates, and how they are read and split."""

    task: str = Field(
        description="The task that is trained: sft, classify, grpo, or a task of your own, written "
        "as module:NAME."
    )
    train: str = Field(
        description="The training rows: a file, or a data set of the Hugging Face Hub, written as "
        "name:config:split."
    )
    eval: str = Field(
        description="The rows on which the final results are evaluated. They are never used for "
        "training or for choosing a hyperparameter."
    )
    text: str | None = TEXT
    prompt: str | None = PROMPT
    completion: str | None = COMPLETION
    label: str | None = Field(
        None, description="The field that holds the class of a row, for the task classify."
    )
    selection: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="The share of the training rows that is held out to choose the learning rates.",
    )
    seed: int = Field(
        0,
        ge=0,
        le=LARGEST_SEED,
        description="The seed of the splits, and the first of the seeds of the trials.",
    )


class FinetuneRecipe(DataRecipe):
    """What `verify` and `tune` share: data, model, training, evaluation, runner and price."""

    CHANGEABLE: ClassVar[tuple[str, ...]] = ("runner", "price", "report_to")
    """Keys that may differ when a run is resumed, because no result of a trial depends on them."""

    model: str | None = Field(
        None,
        description="The model that is trained: a hub id or a local folder. By default the model "
        "that was scored.",
    )
    revision: str | None = Field(
        None,
        description="The branch, tag or commit of the model on the hub. By default the one that "
        "was scored.",
        exclude_if=lambda value: value is None,
    )
    training: TrainingSettings = Field(
        TrainingSettings(), description="How every trial trains; the keys are listed below."
    )
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(),
        description="How every trial is evaluated; the keys are listed below.",
    )
    general: GeneralRecipe = Field(
        GeneralRecipe(),
        description="The text on which the loss outside the task is measured; the keys are listed "
        "below.",
    )
    budget: str | int | None = Field(
        None,
        description="The largest number of adapter parameters that a trial may train: a number "
        "such as 10M, or a share of the model's parameters such as 0.5%. By default that of the "
        "shortlist at `rank`.",
    )
    rank: int = Field(
        16,
        ge=1,
        description="The LoRA rank of the shortlist, which is the placement that the scores "
        "suggest. Where no budget is given, the budget is the number of parameters of the "
        "shortlist at this rank.",
    )
    top: int | None = Field(
        None,
        ge=1,
        description="The number of module types on the shortlist. By default the number for which "
        "scoring was run, usually 3.",
    )
    full_rate: float | None = Field(
        None,
        gt=0,
        description="The learning rate of a full finetune of this model. LoRA starts from ten "
        "times that rate, or from fifteen times in runs of under 100 steps. By default the rate "
        "follows from the task and the width of the model.",
    )
    runner: Runner = Field(Runner(), description="Where the trials run; the keys are listed below.")
    price: Price = Field(Price(), description="The price of a device; the keys are listed below.")
    report_to: tuple[str, ...] = Field(
        (),
        description="The experiment trackers to which trials report: trackio, mlflow, wandb, "
        "tensorboard and others that transformers supports.",
    )

    @field_validator("report_to")
    @classmethod
    def _known_trackers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(one_of(name, tuple(TRACKERS)) for name in names)
