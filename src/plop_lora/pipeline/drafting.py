"""A recipe to start from: what the model and the data say, and a value for every key that matters.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plop_lora._version import __version__
from plop_lora.data.fields import LABELS, TEXT, of_classes, of_training
from plop_lora.data.reading import open_rows
from plop_lora.data.recognising import Fields, fields_of
from plop_lora.data.texts import template_fields
from plop_lora.errors import DataError, UsageError
from plop_lora.escapes import escaped
from plop_lora.models.folders import check_reach, model_name
from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.run import plan_stages
from plop_lora.pipeline.stages import stages_of
from plop_lora.recipe import AcquireRecipe, FinalRecipe, GateRecipe, RunKeys, VerifyRecipe
from plop_lora.recipe.run import OWN_TRAINER
from plop_lora.recipe.section import THE_OPTIONS
from plop_lora.recipe.template import commented
from plop_lora.study.splits import LEAST_REPORT, LEAST_SELECTION, LEAST_TRAIN
from plop_lora.training.weights import read_config, trained_model

SFT, CLASSIFY = "sft", "classify"
HELD_OUT = 0.2
_BATCH, _MOST_STEPS, _PASSES = 16, 200, 3
_RECIPES = (AcquireRecipe, VerifyRecipe, FinalRecipe, GateRecipe, RunKeys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user has said so far; None where nothing was said.

    Attributes:
        model: Hub id or folder of the model.
        train: Training rows.
        eval: Rows for the final evaluation.
        task: Task that is trained.
        prompt: Template of the prompt.
        completion: Template of the answer.
        text: Field with the text or the messages.
        label: Field with the class.
        trainer: What trains the adapter that ships.
    """

    model: str
    train: str
    eval: str | None = None
    task: str | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    label: str | None = None
    trainer: str = OWN_TRAINER


@dataclass(frozen=True, slots=True)
class Draft:
    """A recipe that runs as it stands.

    Attributes:
        text: The recipe as YAML, with a description of every key.
        found: What was found, in sentences.
    """

    text: str
    found: tuple[str, ...]


def draft(wanted: Wanted) -> Draft:
    """Return a recipe for a model and data, after a look at both.

    Raises:
        DataError: The data cannot be read, are too few, or their fields do not tell how a row is
            read.
        ModelError: There is no such model.
        UsageError: The task does not fit the data, or a template names a field that is not there.
    """
    _check_model(wanted.model)
    config = read_config(trained_model(wanted.model), download=True) or {}
    rows = open_rows(wanted.train)
    fields = fields_of(rows)
    if not fields.rows:
        raise DataError(f"{wanted.train} holds no rows. Give a file with at least one.")
    task = wanted.task or guessed_task(wanted, fields)
    read = _how_rows_are_read(wanted, task, fields)
    _check_enough(wanted, fields.rows)
    steps = _steps(fields.rows, held_out=wanted.eval is None)
    document: dict[str, Any] = {"model": wanted.model, "task": task, "train": wanted.train}
    document |= {"eval": wanted.eval} if wanted.eval else {}
    document |= read
    document |= {} if wanted.eval else {"acquire": {"split": {"share": HELD_OUT}}}
    document |= {
        "rank": 16,
        "arms": ["plop", "attention", "mlp"],
        "training": {"steps": steps, "batch_size": _BATCH, "max_length": _length(config)},
        "finetune": {"epochs": _PASSES, "patience": 3},
        "run": {"trainer": wanted.trainer, "export": ["peft"]},
    }
    if task == SFT:
        document["gate"] = {"checks": ["task", "forgetting", "coherence"]}
    _check(document)
    head = [f"# A recipe for plop run, by plop init {__version__}.", ""]
    text = "\n".join([*head, *commented(document, _RECIPES)]) + "\n"
    return Draft(text, tuple(_found(wanted, task, fields, config, read, steps)))


def _check_model(model: str) -> None:
    """Refuse what is neither the folder of a model nor a hub id that can be had.

    Raises:
        ModelError: The text says what it is, and what to give.
    """
    check_reach(model_name(model, weights=False), "model")


def _check_enough(wanted: Wanted, rows: int) -> None:
    """Refuse rows that are too few for the finetunes, which would be told only after the scores.

    Raises:
        DataError: There are too few of them.
    """
    judged = fields_of(open_rows(wanted.eval)).rows if wanted.eval else round(rows * HELD_OUT)
    trained = rows if wanted.eval else rows - judged
    if judged < LEAST_REPORT:
        source = wanted.eval or f"A fifth of {wanted.train}"
        raise DataError(
            f"{source} has {judged} rows; at least {LEAST_REPORT} are needed to tell placements "
            "apart, and some hundreds to tell them apart well. Give more rows, or others for the "
            "evaluation with --eval."
        )
    if trained < LEAST_TRAIN + LEAST_SELECTION:
        raise DataError(
            f"{wanted.train} leaves {trained} rows to train on; at least {LEAST_TRAIN} are needed, "
            f"and {LEAST_SELECTION} to choose the learning rate. Give more rows."
        )


def guessed_task(wanted: Wanted, fields: Fields) -> str:
    """Return the task that the fields of the rows speak for."""
    has_label = wanted.label is not None or not set(LABELS).isdisjoint(fields.names)
    known = of_training(fields.names)
    writes = wanted.prompt or wanted.completion or (known is not None and known.names != (TEXT,))
    return CLASSIFY if has_label and not writes else SFT


def _how_rows_are_read(wanted: Wanted, task: str, fields: Fields) -> dict[str, str]:
    """Return the keys by which a row is read; none where the names of its fields tell."""
    names = fields.names
    given = {
        key: value
        for key in ("text", "prompt", "completion", "label")
        if (value := getattr(wanted, key)) is not None
    }
    for key, value in given.items():
        used = template_fields(value) if key in ("prompt", "completion") else [value]
        missing = [name for name in used if name.partition(".")[0] not in names]
        if missing:
            raise UsageError(
                f"--{key} names {missing[0]!r}, which {wanted.train} does not have. Its fields: "
                f"{', '.join(map(escaped, names))}."
            )
    if given or task not in (SFT, CLASSIFY):
        return given
    known = of_training(names) if task == SFT else of_classes(names)
    if known is None:
        example = "--prompt 'Question: {question}\\nAnswer:' --completion ' {answer}'"
        more = example if task == SFT else "--text FIELD --label FIELD"
        raise DataError(
            f"The fields of {wanted.train} ({', '.join(map(escaped, names))}) do not tell how a "
            f"row is read. Say it, such as with {more}."
        )
    return {}


def _steps(rows: int, *, held_out: bool) -> int:
    """Return the steps of a trial: about one pass over the rows, and no more than a small trial."""
    left = rows * (1 - HELD_OUT) if held_out else rows
    return max(10, min(_MOST_STEPS, round(left / _BATCH)))


def _length(config: Mapping[str, object]) -> int:
    positions = config.get("max_position_embeddings")
    return min(512, positions) if isinstance(positions, int) and positions > 0 else 512


def _check(document: Mapping[str, Any]) -> None:
    """Refuse what a run of this recipe would refuse before its first stage."""
    recipe = RunRecipe(document, THE_OPTIONS)
    plan_stages(stages_of(recipe), recipe, Path(".plop-init-checks-only"))


def _found(
    wanted: Wanted, task: str, fields: Fields, config: Mapping[str, object],
    read: Mapping[str, str], steps: int,
) -> list[str]:  # fmt: skip
    kind = config.get("model_type", "unknown")
    rows = f"{fields.rows:,} rows with the fields {', '.join(map(escaped, fields.names))}"
    how = "as its keys say" if read else "by the names of its fields"
    return [
        f"{wanted.model} is a model of the type {escaped(str(kind))}.",
        f"{wanted.train} has {rows}; a row is read {how}.",
        f"The task is {task}"
        + ("." if wanted.task else ", as the fields say; --task names another one."),
        "A fifth of the rows is held out for the evaluation; --eval names other rows."
        if wanted.eval is None
        else f"{wanted.eval} is for the evaluation alone.",
        f"A trial takes {steps} steps of {_BATCH} rows, about one pass and {_MOST_STEPS} at most.",
    ]
