"""Whether the rows of a study fit its model: found once, before the first trial, and not in each.

A tokenizer that cannot be loaded is left to the first trial, whose error says what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from plop_lora.errors import DataError, ModelError, PlopError, UsageError
from plop_lora.evaluation.judged import Row
from plop_lora.models.origin import Origin
from plop_lora.models.positions import learned_positions
from plop_lora.records import TrainingSettings
from plop_lora.study.splits import Splits
from plop_lora.training.task import Task
from plop_lora.training.weights import TrainedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_rows_fit(
    task: Task, training: TrainingSettings, model: TrainedModel, splits: Splits
) -> None:
    """Refuse rows that no trial of a study could read.

    Args:
        task: says how a row is read.
        training: has the tokens that a row may have.
        model: what the trials load; only its configuration and its tokenizer are read.
        splits: all rows.

    Raises:
        DataError: a chat that the template refuses.
        UsageError: rows longer than the model has positions, or a pad token beyond its
            vocabulary.
    """
    from plop_lora.models.loading import load_skeleton, load_tokenizer

    origin = Origin(model.revision)
    try:
        tokenizer = load_tokenizer(model.name, origin)
        skeleton = load_skeleton(model.name, origin)
    except ModelError:
        return
    _check_pad_token(tokenizer, skeleton, model.name)
    parts = {"training": splits.train, "selection": splits.selection, "report": splits.report}
    longest = max(
        (
            _length(task, row, tokenizer, f"row {number} of the {part} rows")
            for part, rows in parts.items()
            for number, row in enumerate(rows, start=1)
        ),
        default=0,
    )
    _check_positions(task, training, skeleton, longest, model.name)


def _length(task: Task, row: Row, tokenizer: PreTrainedTokenizerBase, where: str) -> int:
    """Return the tokens of a row as its task reads it."""
    try:
        return len(task.tokens(row, tokenizer))
    except PlopError:
        raise
    except Exception as error:  # templates are programs and raise what they like
        raise DataError(
            f"The chat template refuses {where} ({type(error).__name__}: {error}). Change its "
            "roles or their order, or leave the row out."
        ) from error


def _check_pad_token(
    tokenizer: PreTrainedTokenizerBase, skeleton: PreTrainedModel, name: str
) -> None:
    table = skeleton.get_input_embeddings()
    pad = tokenizer.pad_token_id
    if pad is not None and isinstance(table, nn.Embedding) and pad >= table.num_embeddings:
        raise UsageError(
            f"The pad token of {name} has the number {pad}, and the model has "
            f"{table.num_embeddings:,} embeddings. Give its tokenizer a pad token that the model "
            "has, such as its end of sequence, or enlarge the model with resize_token_embeddings."
        )


def _check_positions(
    task: Task, training: TrainingSettings, skeleton: PreTrainedModel, longest: int, name: str
) -> None:
    positions = learned_positions(skeleton)
    if positions is None:
        return
    if task.samples:
        needed = longest + training.completion_length
        cure = f"training.completion_length {max(1, positions - longest)} or shorter prompts"
    else:
        needed = min(longest, training.max_length)
        cure = f"training.max_length {positions}"
    if needed > positions:
        raise UsageError(
            f"{name} has {positions} positions, and a row would take {needed} of them. Give {cure}."
        )
