"""The user's YAML as frozen models: unknown keys are refused, every field says what it is.

Imports pydantic and PyYAML; no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from plop_lora.errors import UsageError, nearest
from plop_lora.records.trial import TASKS, EvaluationSettings, TrainingSettings

RUNNERS = ("local", "ray")
LEAST: dict[str, float] = {
    "steps": 1, "batch_size": 1, "accumulation": 1, "max_length": 2, "warmup": 0,
    "weight_decay": 0, "generations": 2, "completion_length": 1, "beta": 0, "max_new_tokens": 1,
}  # fmt: skip
"""The smallest value of a setting of training or evaluation."""
ABOVE_ZERO = ("epochs", "temperature")
MOST_SEEDS, MOST_TRIALS, MOST_WORKERS = 1_000, 10_000, 4_096
"""No comparison needs more; a slip of the hand must not plan a billion trials."""
LARGEST_SEED = 2**31 - 1
"""Trials count up from it, and numpy's seeds end at 2**32."""


class Section(BaseModel):
    """A part of a recipe: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: str | Path | None = None, given: Mapping[str, Any] | None = None) -> Self:
        """Read a YAML file; what is `given` beside it takes the place of its values.

        Args:
            path: of the file, None for the values of `given` alone.
            given: plain values by key; a mapping goes into the section of that name.

        Raises:
            UsageError: no such file, no YAML, an unknown key or a value out of range; the text
                names the key.
        """
        document = {} if path is None else _read_yaml(path)
        source = "the options" if path is None else f"the recipe {path}"
        if isinstance(document, dict):
            document = _merged(document, given or {})
        return cls.parse(document, source)

    @classmethod
    def parse(cls, document: Any, source: str) -> Self:
        """Build a section from plain values; `source` names them in errors.

        Raises:
            UsageError: an unknown key or a value out of range; the text names the key.
        """
        if not isinstance(document, Mapping):
            raise UsageError(
                f"In {source} there are no keys with values, such as task: sft, but a "
                f"{type(document).__name__}."
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = [str(part) for part in first["loc"]]
            message = first["msg"].removeprefix("Value error, ").rstrip(".")
            if first["type"] in _UNKNOWN and where:
                known = _keys(cls, where[:-1])
                message = f"there is no such key.{nearest(where[-1], known)} Keys: "
                message += ", ".join(known)
            if first["type"] == "missing":
                message = "is needed, but not given"
            key = ".".join(where) or "top level"
            raise UsageError(f"In {source}, {key}: {message}.") from error


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _read_yaml(path: str | Path) -> Any:
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the recipe {path}: {error}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"The recipe {path} is not YAML: {error}.") from error


def _merged(document: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Lay values over a document, section by section."""
    merged = dict(document)
    for key, value in given.items():
        old = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _keys(section: Any, path: list[str]) -> list[str]:
    """Return the keys of the section at `path` inside a section."""
    for part in path:
        section = section.model_fields[part].annotation
    return [f.name for f in fields(section)] if is_dataclass(section) else [*section.model_fields]


class Runner(Section):
    """Where trials run."""

    kind: str = Field(default="local", description="local (processes here) or ray (a cluster).")
    workers: int | None = Field(
        default=None,
        ge=1,
        le=MOST_WORKERS,
        description="Trials at once; by default one a GPU, or one for two CPU cores.",
    )
    address: str | None = Field(
        default=None, description="Of a Ray cluster; a local one without it."
    )
    gpus: float | None = Field(default=None, ge=0, description="GPUs a trial, for Ray.")

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        return _one_of(kind, RUNNERS)


class Price(Section):
    """What a device costs, for the cost ledger."""

    hourly: float | None = Field(default=None, ge=0, description="Money a device-hour.")
    currency: str = Field(default="USD", description="Its name in the report.")


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
    training: TrainingSettings = Field(
        TrainingSettings(), description="How every trial trains; its keys stand below."
    )
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(), description="How every trial is judged; its keys stand below."
    )
    budget: str | int | None = Field(None, description="Adapter parameters; 10M, 0.5%.")
    rank: int = Field(16, ge=1, description="Of the shortlist, whose size is the budget then.")
    top: int | None = Field(None, ge=1, description="Types of the shortlist; 3 by default.")
    selection: float = Field(
        0.1, gt=0, lt=0.5, description="Share of the training rows that chooses learning rates."
    )
    full_rate: float | None = Field(
        None, gt=0, description="Rate of a full finetune; LoRA starts from ten times that."
    )
    seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="Of the splits; trials count up from it."
    )
    runner: Runner = Field(Runner(), description="Where trials run; its keys stand below.")
    price: Price = Field(Price(), description="What a device costs; its keys stand below.")
    report_to: tuple[str, ...] = Field((), description="trackio, mlflow, wandb, tensorboard.")

    @field_validator("task")
    @classmethod
    def _known_task(cls, task: str) -> str:
        return _one_of(task, TASKS)

    @field_validator("training", "evaluation")
    @classmethod
    def _in_range(
        cls, settings: TrainingSettings | EvaluationSettings
    ) -> TrainingSettings | EvaluationSettings:
        for field in fields(settings):
            value = getattr(settings, field.name)
            if field.name in ABOVE_ZERO and not value > 0:
                raise ValueError(f"{field.name} is {value:g}; it must be above 0")
            least = LEAST.get(field.name)
            if least is not None and value is not None and not value >= least:
                raise ValueError(f"{field.name} is {value:g}; it must be {least:g} or more")
        return settings


def _one_of(word: str, allowed: tuple[str, ...]) -> str:
    if word not in allowed:
        raise ValueError(f"{word!r} is unknown; allowed: {', '.join(allowed)}")
    return word


class VerifyRecipe(Proof):
    """Everything `plop verify` can be told."""

    arms: tuple[str, ...] = Field(
        (), description="Rivals by name, or files of placements; the usual ones if empty."
    )
    seeds: int = Field(5, ge=1, le=MOST_SEEDS, description="Seeds an arm.")
    margin: float | None = Field(
        None, ge=0, description="Loss of the metric that is accepted; 0.01, or 0.02 nats for loss."
    )
    ladder: tuple[float, ...] = Field(
        (0.3, 1.0, 3.0), min_length=1, max_length=100, description="Factors of the rate."
    )
    ladder_share: float = Field(
        0.25, gt=0, le=1, description="Share of the training rows for the ladder."
    )
    quick: bool = Field(False, description="Two seeds: a smoke test, marked as one.")

    @field_validator("ladder")
    @classmethod
    def _rising(cls, ladder: tuple[float, ...]) -> tuple[float, ...]:
        if min(ladder) <= 0 or len(set(ladder)) < len(ladder):
            raise ValueError("the factors must be above 0 and differ from each other")
        return tuple(sorted(ladder))


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
    trials: int = Field(
        20, ge=1, le=MOST_TRIALS, description="Trials of the search, the ladder included."
    )
    hours: float | None = Field(None, gt=0, description="Device-hours after which none starts.")
    seeds: int = Field(3, ge=1, le=MOST_SEEDS, description="Fresh seeds of the confirmation.")
    storage: str | None = Field(None, description="Database URL for many workers.")
