"""Text classification: a head on an encoder or a decoder, trained by transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from plop_lora.data.fields import LABELS, TEXTS, of_classes
from plop_lora.data.texts import template_fields
from plop_lora.errors import DataError, ModelError, UsageError
from plop_lora.evaluation.judged import Judged, Prepared, Row
from plop_lora.recipe import DataRecipe
from plop_lora.records import TrialSpec
from plop_lora.records.scores import ModelReference
from plop_lora.training.readers import (
    Reader,
    filled,
    one_of,
    text_in,
)
from plop_lora.training.rows import label_numbers
from plop_lora.training.task import Loading, ModelClass, Session, Task, Trained

KEPT_BACK = "-1"
"""The hub's mark of a row whose label is kept back, unless the only other class is 1."""


def train(spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], session: Session) -> Trained:
    """Train a classifier's adapters and head; see `training.classifier`."""
    from plop_lora.training.classifier import train

    return train(spec, prepared, rows, session)


def judge(
    spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], *, general: Sequence[Row] = ()
) -> Judged:
    """Judge a classifier row by row; see `training.classifier`."""
    from plop_lora.training.classifier import judge

    return judge(spec, prepared, rows)


def model_class(loading: Loading) -> ModelClass:
    """Return the class of a model with a head for the labels, which trains from scratch."""
    import transformers

    names = dict(enumerate(loading.labels))
    return ModelClass(
        transformers.AutoModelForSequenceClassification,
        {
            "num_labels": len(names),
            "id2label": names,
            "label2id": {name: number for number, name in names.items()},
            "problem_type": "single_label_classification",
            "pad_token_id": loading.tokenizer.pad_token_id,
            "ignore_mismatched_sizes": True,
        },
        trains_head=True,
    )


def check_model(task: str, model: ModelReference) -> None:
    """Refuse a scored model that reads no text.

    Raises:
        ModelError: The text names it.
    """
    config = model.config or {}
    if model.config is not None and "vocab_size" not in {**config, **_text_part(config)}:
        raise ModelError(
            f"{model.name} ({model.architecture}) reads no text, so it cannot {task} any."
        )


def _text_part(config: dict[str, Any]) -> dict[str, object]:
    part = config.get("text_config")
    return part if isinstance(part, dict) else {}


# --------------------------------------------------------------------------- rows


def _reader(data: DataRecipe, fields: Sequence[str], source: str) -> Reader:
    if data.completion is not None:
        raise UsageError("--completion is not for classify; its answer is the field --label.")
    label = one_of(data.label, LABELS, fields, source, "--label")
    text, names = _classify_text(data, fields, source, label)

    def read(row: Row) -> dict[str, Any]:
        return {"text": text(row), "label": _label(row, label)}

    return Reader(read, (*names, label), guessed=True)


def _classify_text(
    data: DataRecipe, fields: Sequence[str], source: str, label: str
) -> tuple[Callable[[Row], str], tuple[str, ...]]:
    if data.prompt is not None:
        names = tuple(template_fields(data.prompt))
        return filled(data.prompt, fields, source), names
    others = [name for name in fields if name != label]
    pair = of_classes(others) if data.text is None else None
    if pair is not None and len(pair.names) > 1:
        first, second = pair.names
        return filled(f"{{{first}}}\n{{{second}}}", fields, source), pair.names
    name = one_of(data.text, TEXTS, others, source, "--text")
    return lambda row: text_in(row, name), (name,)


def _label(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float | list | dict):
        raise DataError(f"the label {name!r} is {value!r}, which is no class")
    label = "" if value is None else str(value).strip()
    if not label:
        raise DataError(f"there is no label in {name!r} ({value!r})")
    return label


def _check_made(rows: Sequence[Row], fields: Sequence[str], source: str) -> None:
    """Refuse -1 where it may stand for a label that is kept back; beside 1 alone it is a class."""
    labels, name = [row["label"] for row in rows], fields[-1]
    if KEPT_BACK not in labels or set(labels) == {KEPT_BACK, "1"}:
        return
    raise DataError(
        f"{source}, row {labels.index(KEPT_BACK) + 1}: there is no label in {name!r} ('-1'), as in "
        f"{labels.count(KEPT_BACK)} of {len(labels)} rows: -1 marks a label that is kept back. "
        "Leave these rows out; where -1 is a class, write it as a word, such as negative."
    )


def _check_rows(spec: TrialSpec, rows: Sequence[Row], source: str) -> None:
    label_numbers(rows, spec.labels, source)


CLASSIFY = Task(
    name="classify",
    columns=(("text", "label"),),
    reserved=("prompt", "completion", "messages", "text", "label"),
    reader=_reader,
    tokens=lambda row, tokenizer: tokenizer(str(row["text"]), verbose=False)["input_ids"],
    model_class=model_class,
    check_model=check_model,
    train=train,
    judge=judge,
    metrics=("accuracy", "macro-f1", "loss"),
    full_rate=5e-5,
    has_classes=True,
    check_made=_check_made,
    check_rows=_check_rows,
    resumes=True,
)
