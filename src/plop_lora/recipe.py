"""The user's YAML as frozen models: unknown keys are refused, every field says what it is.

Imports pydantic and PyYAML; no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from plop_lora.errors import UsageError, nearest
from plop_lora.options import TRACKERS
from plop_lora.records.trial import (
    DTYPES,
    SCHEDULES,
    EvaluationSettings,
    TrainingSettings,
)
from plop_lora.records.wording import fault_at

RUNNERS = ("local", "ray")
LEAST: dict[str, float] = {
    "steps": 1, "batch_size": 1, "accumulation": 1, "max_length": 2, "warmup": 0,
    "weight_decay": 0, "generations": 2, "completion_length": 1, "beta": 0, "max_new_tokens": 1,
}  # fmt: skip
"""The smallest value of a setting of training or evaluation."""
ABOVE_ZERO = ("epochs", "temperature")
BELOW_ONE = ("warmup",)
NAMES = {"schedule": SCHEDULES, "dtype": DTYPES}
"""The words that a setting may have."""
MOST_SEEDS, MOST_TRIALS, MOST_WORKERS = 1_000, 10_000, 4_096
"""No comparison needs more; a slip of the hand must not plan a billion trials."""
LARGEST_SEED = 2**31 - 1
"""Trials count up from it, and numpy's seeds end at 2**32."""


THE_OPTIONS = "the options"
"""What errors call values of the command line; each is then named by its option."""


class Section(BaseModel):
    """A part of a recipe: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, given: Any, settings: Mapping[str, Any]) -> Self:
        """Return a recipe from a recipe, a YAML file or nothing, with settings laid over it.

        Args:
            given: a recipe of this class, the path of a file, a mapping, or None.
            settings: plain values by key; a mapping goes into the section of that name.

        Raises:
            UsageError: as for `read`, or something else than a recipe.
        """
        if isinstance(given, cls):
            document = given.model_dump(mode="json")
            return cls.parse(_merged(document, settings), "the settings") if settings else given
        if given is None or isinstance(given, str | Path):
            return cls.read(given, settings, source="the settings")
        if isinstance(given, Mapping):
            return cls.parse(_merged(given, settings), "the recipe")
        raise UsageError(
            f"A recipe is needed here, not an object of the class {type(given).__name__}. Give "
            f"the YAML file of one, {cls.__name__}.read(path), or its keys: task=, train=, eval=."
        )

    @classmethod
    def read(
        cls,
        path: str | Path | None = None,
        given: Mapping[str, Any] | None = None,
        *,
        source: str = THE_OPTIONS,
    ) -> Self:
        """Read a YAML file; what is `given` beside it takes the place of its values.

        Args:
            path: of the file, None for the values of `given` alone.
            given: plain values by key; a mapping goes into the section of that name.
            source: names what is `given` in errors.

        Raises:
            UsageError: no such file, no YAML, an unknown key or a value out of range; the text
                names the key.
        """
        document = {} if path is None else _read_yaml(path)
        if isinstance(document, dict):
            document = _merged(document, given or {})
        options = given if source == THE_OPTIONS else None
        return cls.parse(document, source if path is None else f"the recipe {path}", options)

    @classmethod
    def parse(cls, document: Any, source: str, options: Mapping[str, Any] | None = None) -> Self:
        """Build a section from plain values.

        Args:
            document: the values by key.
            source: names them in errors.
            options: those of them that the command line set, whose errors name the option.

        Raises:
            UsageError: an unknown key or a value out of range; the text names the key.
        """
        if not isinstance(document, Mapping):
            raise UsageError(
                f"In {source} there are no keys with values, such as task: sft, but "
                f"{_kind(document)}."
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = [str(part) for part in first["loc"]]
            raise UsageError(_fault(cls, where, first, source, options or {})) from error


OPTIONS = {
    "evaluation.metric": "--metric", "training.rewards": "--rewards", "price.hourly": "--price",
    "runner.workers": "--workers", "runner.kind": "--runner",
}  # fmt: skip
"""Keys whose option has another name than the key."""
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _fault(
    section: type[Section],
    where: list[str],
    fault: Any,
    source: str,
    options: Mapping[str, Any],
) -> str:
    """Say in one sentence what is wrong with a key, and what is allowed."""
    key = ".".join(where) or "top level"
    if fault["type"] in _UNKNOWN and where:
        known = _keys(section, where[:-1])
        return (
            f"In {source}, {key}: there is no such key.{nearest(where[-1], known)} "
            f"Keys: {', '.join(known)}."
        )
    if fault["type"] == "missing":
        return _missing(section, where, source)
    place = option_of(key) if _holds(options, where) else f"In {source}, {key}"
    return f"{fault_at(place, fault)}."


def _missing(section: type[Section], where: list[str], source: str) -> str:
    """Say what a key that was left out is, and how to give it."""
    field, key = section.model_fields.get(where[0]), ".".join(where)
    what = f": {field.description.rstrip('.')}" if field and field.description else ""
    if source == THE_OPTIONS:
        return f"{option_of(key)} is needed{what}. Give it, or a recipe that has {key}."
    return f"In {source}, {key} is needed, but is not there{what}."


def _holds(document: Any, where: list[str]) -> bool:
    """Whether the value at a place of the merged document comes from this one."""
    for part in where:
        if not isinstance(document, Mapping):
            return document is not None
        if part not in document:
            return False
        document = document[part]
    return bool(where)


def _kind(value: Any) -> str:
    return {str: "a text", list: "a list", int: "a number", float: "a number"}.get(
        type(value), f"a {type(value).__name__}"
    )


def option_of(key: str) -> str:
    """Return the option of the command line that sets a key.

    >>> option_of("price.hourly"), option_of("seeds")
    ('--price', '--seeds')
    """
    return OPTIONS.get(key, f"--{key.rpartition('.')[2].replace('_', '-')}")


class _OneValueAKey(yaml.SafeLoader):
    """Reads YAML that names no key twice; the last one would win without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, and refuse a key that is there already."""
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} stands there twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return dict(super().construct_mapping(node, deep=deep))


def _read_yaml(path: str | Path) -> Any:
    try:
        return yaml.load(Path(path).read_bytes(), Loader=_OneValueAKey) or {}
    except FileNotFoundError as error:
        raise UsageError(
            f"Cannot read the recipe {path}: there is no such file. Name one that is there, or "
            "give its keys as options."
        ) from error
    except IsADirectoryError as error:
        raise UsageError(f"The recipe {path} is a folder. Name the YAML file in it.") from error
    except OSError as error:
        raise UsageError(
            f"Cannot read the recipe {path}: {(error.strerror or str(error)).lower()}. Give a "
            "YAML file."
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1},"
        raise UsageError(
            f"The recipe {path}{line} is not YAML that can be read: {error.problem}. Write keys "
            "with values, such as task: sft."
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(
            f"The recipe {path} is not YAML in UTF-8. Write keys with values, such as task: sft."
        ) from error


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


class Scoring(Section):
    """What `score` records beside NFN."""

    indicators: tuple[str, ...] = Field(
        default=(),
        description="Names of indicators to record beside NFN; see `plop score --indicator`.",
    )


class ScoreRecipe(Section):
    """Everything of a recipe that `plop score` reads."""

    score: Scoring = Field(Scoring(), description="What is recorded; its keys stand below.")


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


class DataRecipe(Section):
    """Which rows a study trains on and judges by, and how they are read and split."""

    task: str = Field(description="sft, classify, grpo, or a task of yours as module:NAME.")
    train: str = Field(description="Training rows: a local file or a hub data set.")
    eval: str = Field(description="Rows of the report, never trained on and never selected on.")
    text: str | None = Field(None, description="Field of the text or of the chat messages.")
    prompt: str | None = Field(None, description='Template of the prompt: "Q: {question}\\nA:".')
    completion: str | None = Field(None, description='Template of the answer: " {answer}".')
    label: str | None = Field(None, description="Field of the class, for classify.")
    selection: float = Field(
        0.1, gt=0, lt=0.5, description="Share of the training rows that chooses learning rates."
    )
    seed: int = Field(
        0, ge=0, le=LARGEST_SEED, description="Of the splits; trials count up from it."
    )


class FinetuneRecipe(DataRecipe):
    """What `verify` and `tune` share: data, model, training, evaluation, where, at what price."""

    CHANGEABLE: ClassVar[tuple[str, ...]] = ("runner", "price", "report_to")
    """What may change between two starts in one folder: no finished trial turns wrong by it."""

    model: str | None = Field(None, description="Hub id or folder; the scored model without it.")
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of the model on the hub; the scored one without it.",
        exclude_if=lambda value: value is None,
    )
    training: TrainingSettings = Field(
        TrainingSettings(), description="How every trial trains; its keys stand below."
    )
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(), description="How every trial is judged; its keys stand below."
    )
    budget: str | int | None = Field(None, description="Adapter parameters; 10M, 0.5%.")
    rank: int = Field(16, ge=1, description="Of the shortlist, whose size is the budget then.")
    top: int | None = Field(None, ge=1, description="Types of the shortlist; 3 by default.")
    full_rate: float | None = Field(
        None, gt=0, description="Rate of a full finetune; LoRA starts from ten times that."
    )
    runner: Runner = Field(Runner(), description="Where trials run; its keys stand below.")
    price: Price = Field(Price(), description="What a device costs; its keys stand below.")
    report_to: tuple[str, ...] = Field((), description="trackio, mlflow, wandb, tensorboard.")

    @field_validator("report_to")
    @classmethod
    def _known_trackers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_one_of(name, tuple(TRACKERS)) for name in names)

    @field_validator("training", "evaluation")
    @classmethod
    def _in_range(
        cls, settings: TrainingSettings | EvaluationSettings
    ) -> TrainingSettings | EvaluationSettings:
        for field in fields(settings):
            value = getattr(settings, field.name)
            if field.name in ABOVE_ZERO and not value > 0:
                raise ValueError(f"{field.name} is {value:g}; it must be above 0")
            if field.name in BELOW_ONE and not value < 1:
                raise ValueError(
                    f"{field.name} is {value:g}, and it is a share of the steps; give less than 1, "
                    "such as 0.03"
                )
            if field.name in NAMES:
                _one_of(value, NAMES[field.name], field.name)
            least = LEAST.get(field.name)
            if least is not None and value is not None and not value >= least:
                raise ValueError(f"{field.name} is {value:g}; it must be {least:g} or more")
        return settings


def _one_of(word: str, allowed: tuple[str, ...], key: str = "") -> str:
    if word not in allowed:
        raise ValueError(f"{key} {word!r} is unknown; allowed: {', '.join(allowed)}".lstrip())
    return word


class VerifyDesign(Section):
    """What is compared in a verification: the arms, at which rates and seeds, by which margin."""

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
    learning_rates: tuple[float, ...] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="The rates of the ladder themselves, in place of factors.",
        exclude_if=lambda value: value is None,
    )
    ladder_share: float = Field(
        0.25, gt=0, le=1, description="Share of the training rows for the ladder."
    )
    quick: bool = Field(False, description="Two seeds: a smoke test, marked as one.")

    @field_validator("ladder", "learning_rates")
    @classmethod
    def _rising(cls, rungs: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if rungs is None:
            return None
        if min(rungs) <= 0 or len(set(rungs)) < len(rungs):
            raise ValueError("the numbers must be above 0 and differ from each other")
        return tuple(sorted(rungs))


class VerifyRecipe(VerifyDesign, FinetuneRecipe):
    """Everything `plop verify` can be told."""

    CHANGEABLE: ClassVar[tuple[str, ...]] = (
        "arms", "seeds", "margin", "quick", *FinetuneRecipe.CHANGEABLE,
    )  # fmt: skip
    """More seeds or another rival go on from the trials that are there."""


class TuneDesign(Section):
    """What a search may choose from, and how long it may take."""

    placements: tuple[str, ...] = Field(
        (), description="Strategies or files of placements to choose from."
    )
    ranks: tuple[int, ...] = Field((4, 8, 16, 32), description="Ranks to choose from.")
    inits: tuple[str, ...] = Field(("default", "orthogonal"), description="PEFT's names.")
    rates: tuple[float, float] = Field(
        (0.1, 10.0), description="Range of the rate, as factors of ten times the full rate."
    )
    learning_rates: tuple[float, float] | None = Field(
        None,
        description="The lowest and the highest rate themselves, in place of factors.",
        exclude_if=lambda value: value is None,
    )
    loraplus: tuple[float, ...] = Field((1.0,), description="LoRA+ ratios; 1 is without.")
    trials: int = Field(
        20, ge=1, le=MOST_TRIALS, description="Trials of the search, the ladder included."
    )
    hours: float | None = Field(None, gt=0, description="Device-hours after which none starts.")
    seeds: int = Field(3, ge=1, le=MOST_SEEDS, description="Fresh seeds of the confirmation.")
    storage: str | None = Field(None, description="Database URL for many workers.")


class TuneRecipe(TuneDesign, FinetuneRecipe):
    """Everything `plop tune` can be told."""

    CHANGEABLE: ClassVar[tuple[str, ...]] = (
        "trials", "hours", "seeds", "storage", *FinetuneRecipe.CHANGEABLE,
    )  # fmt: skip
