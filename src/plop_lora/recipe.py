"""The user's YAML as frozen models: unknown keys are refused, every field says what it is.

Imports pydantic and PyYAML; no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plop_lora.errors import UsageError, nearest
from plop_lora.records.trial import EvaluationSettings, TrainingSettings


class Section(BaseModel):
    """A part of a recipe: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a YAML file.

        Raises:
            UsageError: no such file, no YAML, an unknown key or a value out of range; the text
                names the key.
        """
        try:
            document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"Cannot read the recipe {path}: {error}.") from error
        except yaml.YAMLError as error:
            raise UsageError(f"The recipe {path} is not YAML: {error}.") from error
        return cls.parse(document or {}, str(path))

    @classmethod
    def parse(cls, document: Any, source: str) -> Self:
        """Build a section from plain values; `source` names them in errors.

        Raises:
            UsageError: an unknown key or a value out of range; the text names the key.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            hint = nearest(key, cls.model_fields) if first["type"] == "extra_forbidden" else ""
            raise UsageError(f"{source}: {key or 'top level'}: {first['msg']}.{hint}") from error


class Runner(Section):
    """Where trials run."""

    kind: str = Field("local", description="local (processes here) or ray (a cluster).")
    workers: int | None = Field(
        None, ge=1, description="Trials at once; by default one a GPU, or one for two CPU cores."
    )
    address: str | None = Field(None, description="Of a Ray cluster; a local one without it.")
    gpus: float | None = Field(None, ge=0, description="GPUs a trial, for Ray.")


class Price(Section):
    """What a device costs, for the cost ledger."""

    hourly: float | None = Field(None, ge=0, description="Money a device-hour.")
    currency: str = Field("USD", description="Its name in the report.")


class Proof(Section):
    """What `verify` and `tune` share: task, data, training, evaluation, where and at what price."""

    task: str = Field(description="sft, classify or grpo.")
    train: str = Field(description="Training rows: a local file or a hub data set.")
    eval: str = Field(description="Rows of the report, never trained on and never selected on.")
    model: str | None = Field(None, description="Hub id or folder; the scored model without it.")
    text: str | None = Field(None, description="Field of the text or of the chat messages.")
    prompt: str | None = Field(None, description='Template of the prompt: "Q: {question}\\nA:".')
    completion: str | None = Field(None, description='Template of the answer: " {answer}".')
    label: str | None = Field(None, description="Field of the class, for classify.")
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    budget: str | int | None = Field(None, description="Adapter parameters; 10M, 0.5%.")
    rank: int = Field(16, ge=1, description="Of the shortlist, whose size is the budget then.")
    top: int | None = Field(None, ge=1, description="Types of the shortlist; 3 by default.")
    selection: float = Field(
        0.1, gt=0, lt=0.5, description="Share of the training rows that chooses learning rates."
    )
    full_rate: float | None = Field(
        None, gt=0, description="Rate of a full finetune; LoRA starts from ten times that."
    )
    seed: int = Field(0, description="Of the splits; trials count up from it.")
    runner: Runner = Runner()
    price: Price = Price()
    report_to: tuple[str, ...] = Field((), description="trackio, mlflow, wandb, tensorboard.")


class VerifyRecipe(Proof):
    """Everything `plop verify` can be told."""

    arms: tuple[str, ...] = Field(
        (), description="Rivals by name, or files of placements; the usual ones if empty."
    )
    seeds: int = Field(5, ge=1, description="Seeds an arm.")
    margin: float | None = Field(
        None, ge=0, description="Loss of the metric that is accepted; 0.01, or 0.02 nats for loss."
    )
    ladder: tuple[float, ...] = Field((0.3, 1.0, 3.0), description="Factors of the rate.")
    ladder_share: float = Field(
        0.25, gt=0, le=1, description="Share of the training rows for the ladder."
    )
    quick: bool = Field(False, description="Two seeds: a smoke test, marked as one.")


class TuneRecipe(Proof):
    """Everything `plop tune` can be told."""

    placements: tuple[str, ...] = Field(
        (), description="Strategies or files of placements to choose from."
    )
    ranks: tuple[int, ...] = Field((4, 8, 16, 32), description="Ranks to choose from.")
    inits: tuple[str, ...] = Field(("default", "orthogonal"), description="PEFT's names.")
    rates: tuple[float, float] = Field(
        (0.1, 10.0), description="Range of the rate, as factors of ten times the full rate."
    )
    loraplus: tuple[float, ...] = Field((1.0,), description="LoRA+ ratios; 1 is without.")
    trials: int = Field(20, ge=1, description="Trials of the search, the ladder included.")
    hours: float | None = Field(None, gt=0, description="Device-hours after which none starts.")
    seeds: int = Field(3, ge=1, description="Fresh seeds of the confirmation.")
    storage: str | None = Field(None, description="Database URL for many workers.")
