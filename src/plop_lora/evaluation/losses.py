"""Held-out loss of each row, the mean cross-entropy of its tokens.

The same tokens count as in training: the completion of a prompt, or the whole of a text or chat,
with the end-of-sequence token. Shape letters: B batch, T token, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from plop_lora.data.padding import padded
from plop_lora.errors import DataError, MeasurementError
from plop_lora.evaluation.chats import Example, example_of
from plop_lora.evaluation.generation import by_length, judging, pad_token
from plop_lora.evaluation.heads import IGNORED, next_token_nats
from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.models.positions import learned_positions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RowLoss(NamedTuple):
    """The loss of a row: its mean in nats per token, and the number of tokens that it is over."""

    mean: float
    tokens: int


def row_losses(
    prepared: Prepared, rows: Sequence[Row], *, max_length: int, batch_size: int
) -> list[float]:
    """Return the mean loss of each row in nats per token; see `counted_losses`."""
    found = counted_losses(prepared, rows, max_length=max_length, batch_size=batch_size)
    return [loss.mean for loss in found]


def counted_losses(
    prepared: Prepared, rows: Sequence[Row], *, max_length: int, batch_size: int
) -> list[RowLoss]:
    """Return the loss of each row in nats per token, with its tokens; lower is better.

    A row's number is the mean over its own counted tokens, so that every row weighs the same
    whatever its length; in training every token does. A row longer than `max_length` loses the
    beginning of its prompt first, then the end of its completion.

    Args:
        prepared: The model, with its adapters at work, and its tokenizer.
        rows: Rows of prompt and completion, of messages, or of text.
        max_length: Most tokens of a row.
        batch_size: Number of rows in a forward.

    Raises:
        DataError: A row has no token that counts.
        MeasurementError: The loss of a row is not finite.
    """
    sequences = [judgeable(row, prepared.tokenizer, max_length) for row in rows]
    for number, sequence in enumerate(sequences, start=1):
        if len(sequence.tokens) <= sequence.start:
            raise DataError(f"Row {number} of the evaluation rows has no token to judge by.")
    found: dict[int, float] = {}
    with judging(prepared.model):
        for group in by_length([len(s.tokens) for s in sequences], batch_size):
            losses = _losses(prepared, [sequences[index] for index in group])
            found.update(zip(group, losses, strict=True))
    for index, value in found.items():
        if not math.isfinite(value):
            raise MeasurementError(
                f"The loss of evaluation row {index + 1} is {value}. The training has diverged; "
                "try a lower learning rate."
            )
    return [
        RowLoss(found[index], len(sequence.tokens) - sequence.start)
        for index, sequence in enumerate(sequences)
    ]


def general_losses(
    prepared: Prepared, rows: Sequence[Row], *, max_length: int, batch_size: int
) -> list[RowLoss]:
    """Return the loss of general texts, cut to the positions of the model where they are learned.

    Unlike the rows of a task, nobody chose these texts for this model; otherwise as
    `counted_losses`.
    """
    positions = learned_positions(prepared.model) or max_length
    return counted_losses(
        prepared, rows, max_length=min(max_length, positions), batch_size=batch_size
    )


def judgeable(row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Example:
    """Tokenise a row as in training, and cut it to `max_length`."""
    example = example_of(row, tokenizer)
    length, start = len(example.tokens), example.start
    over = min(max(0, length - max_length), max(0, start - 1))
    # The first token of all has nothing before it to be predicted from.
    return Example(example.tokens[over : over + max_length], max(1, start - over))


def labelled(
    group: Sequence[Example], prepared: Prepared
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the inputs of a forward over some rows, and the labels of the tokens that count."""
    ids_BT, mask_BT = padded([s.tokens for s in group], pad_token(prepared.tokenizer))
    labels_BT = torch.full_like(ids_BT, IGNORED)
    for index, sequence in enumerate(group):
        judged = slice(sequence.start, len(sequence.tokens))
        labels_BT[index, judged] = ids_BT[index, judged]
    device = next(prepared.model.parameters()).device
    inputs = {"input_ids": ids_BT.to(device), "attention_mask": mask_BT.to(device)}
    return inputs, labels_BT.to(device)


def _losses(prepared: Prepared, group: Sequence[Example]) -> list[float]:
    inputs, labels_BT = labelled(group, prepared)
    nats_N = next_token_nats(prepared.model, inputs, labels_BT).double()
    counts = [len(sequence.tokens) - sequence.start for sequence in group]
    return [float(nats.mean()) for nats in torch.split(nats_N, counts)]
