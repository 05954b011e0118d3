"""Supervised finetuning with TRL's SFTTrainer, on a model that already has its adapters.

The trainer neither wraps the model again nor draws its adapters anew: it sets the global seed,
which by then only dropout reads. Rows of prompt and completion are trained on the completion
alone, texts and chats on all their tokens; plain text gets an end-of-sequence token. The trainer
is given tokens, the same that `losses` judges: a table of rows would give every message the keys
of all, and the trainer's own rendering would leave some of what a row gives its template out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plop_lora.errors import DataError, require
from plop_lora.records import TrialSpec
from plop_lora.training.task import Prepared, Row, Session, Trained

if TYPE_CHECKING:
    from plop_lora.training.chats import Example

KINDS = (("prompt", "completion"), ("messages",), ("text",))
"""Columns of each kind of row, in the order in which they are looked for."""


def columns_kept(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the columns that rows are trained on; all must have those of the first.

    Raises:
        DataError: no rows, or a row without them.
    """
    if not rows:
        raise DataError("There are no rows to train on or to judge by. Give a file with some.")
    kept = next((kind for kind in KINDS if all(rows[0].get(c) is not None for c in kind)), None)
    if kept is None:
        raise DataError(
            f"Row 1 has the columns {', '.join(rows[0])}; the task sft needs prompt and "
            "completion, or messages, or text."
        )
    for number, row in enumerate(rows, start=1):
        absent = [column for column in kept if row.get(column) is None]
        if absent:
            raise DataError(
                f"Row {number} has no {absent[0]!r}, which row 1 has. All rows of a trial must be "
                "of one kind."
            )
    return kept


def train(spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], session: Session) -> Trained:
    """Train the adapters of a ready model; nothing else changes and nothing is saved.

    Returns:
        Tokens (prompts included, padding not), steps, the last row of the curve, and how many rows
        have no completion within `max_length`, or not all of it.

    Raises:
        DataError: rows of no or of several kinds, or none with a completion within `max_length`.
        ModelError: the model is no causal language model.
        MissingExtraError: TRL is not installed.
        UsageError: the model is on a device that the trainer would move it away from.
    """
    require("trl")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from plop_lora.training.adapters import optimizer_of
    from plop_lora.training.arguments import check_causal, run, trl_arguments
    from plop_lora.training.callbacks import Report, quiet
    from plop_lora.training.chats import example_of
    from plop_lora.training.trainers import LossAtLabels, SimilarLengths, WarmedUp

    class Trainer(WarmedUp, SimilarLengths, LossAtLabels, SFTTrainer):  # type: ignore[misc]
        """TRL's trainer as every arm uses it."""

    check_causal(prepared)
    columns_kept(rows)
    examples = [example_of(row, prepared.tokenizer) for row in rows]
    data = Dataset.from_list([_with_labels(example) for example in examples])
    with quiet():
        trainer = Trainer(
            model=prepared.model,
            args=trl_arguments(
                SFTConfig, spec, prepared, session, max_length=spec.training.max_length
            ),
            train_dataset=data,
            processing_class=prepared.tokenizer,
            callbacks=[Report(session.log)],
            optimizers=(optimizer_of(spec, prepared.model), None),
        )
        left, most = _left(trainer, spec), spec.training.max_length
        trained = run(trainer)
    dropped = len(rows) - left
    long = sum(len(example.tokens) > most for example in examples)
    return replace(trained, rows_dropped=dropped, rows_cut=max(0, long - dropped))


def _with_labels(example: Example) -> dict[str, list[int]]:
    """Return a row as the trainer takes it ready-made; it cuts it, and drops what has no label."""
    from plop_lora.training.heads import IGNORED

    tokens = list(example.tokens)
    return {"input_ids": tokens, "labels": [IGNORED] * example.start + tokens[example.start :]}


def _left(trainer: Any, spec: TrialSpec) -> int:
    """Return the number of rows that the trainer kept."""
    left = len(trainer.train_dataset)
    if not left:
        raise DataError(
            f"Every prompt alone fills the {spec.training.max_length} tokens of "
            "training.max_length, so there is no completion to train on. Raise it or shorten the "
            "prompts."
        )
    return left
