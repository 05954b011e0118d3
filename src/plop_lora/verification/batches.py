"""Prepared rows as batches with labels, for indicators that look at the loss. torch when used.

Shape letters: B batch, T token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plop_lora.errors import DataError
from plop_lora.indicators.kinds import IGNORED, Inputs

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


def batches_of(
    rows: Sequence[Mapping[str, object]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    labels: Sequence[str] = (),
    batch_size: int = 8,
    max_length: int = 512,
    device: torch.device | str = "cpu",
) -> list[Inputs]:
    """Turn prepared rows into batches with `labels`, in their order.

    Args:
        rows: `text` and `label` where `labels` are given; else `prompt` and `completion` (the
            loss is on the completion), `messages`, `text`, or a bare `prompt`.
        tokenizer: of the model; a pad token is not needed, padding is masked.
        labels: the classes of a classifier in the order of their numbers.
        batch_size: rows of a batch.
        max_length: tokens kept of a row, from its start.
        device: where the tensors go.

    Raises:
        DataError: no row, a row of no known form, an unknown class, or no token to learn.
    """
    if not rows:
        raise DataError("There is no row to measure on. Give training rows.")
    encoded = [_encoded(row, tokenizer, bool(labels), max_length) for row in rows]
    classes = [_class_of(row, labels) for row in rows] if labels else []
    return [
        _batch(encoded[start : start + batch_size], classes[start : start + batch_size], device)
        for start in range(0, len(rows), batch_size)
    ]


def _encoded(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, whole: bool, max_length: int
) -> tuple[list[int], int]:
    """Return the tokens of a row, and how many at its start are not learnt."""
    if "messages" in row:
        tokens = tokenizer.apply_chat_template(list(row["messages"]), return_dict=True)
        return list(tokens["input_ids"])[:max_length], 0
    if "completion" in row and not whole:
        prompt = _tokens(tokenizer, row["prompt"], True)
        tokens = prompt + _tokens(tokenizer, row["completion"], False)
        return tokens[:max_length], min(len(prompt), max_length)
    text = row.get("text", row.get("prompt"))
    if not isinstance(text, str):
        raise DataError(f"A row has no text to measure on; it has: {', '.join(row)}.")
    return _tokens(tokenizer, text, True)[:max_length], 0


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def _class_of(row: Mapping[str, object], labels: Sequence[str]) -> int:
    name = str(row.get("label"))
    if name not in labels:
        raise DataError(f"The class {name!r} is none of: {', '.join(labels)}.")
    return list(labels).index(name)


def _batch(
    encoded: Sequence[tuple[list[int], int]], classes: list[int], device: torch.device | str
) -> Inputs:
    """Pad rows on the right; token 0 stands in the padding, masked and without a label."""
    import torch

    width = max(len(tokens) for tokens, _ in encoded)
    ids_BT = torch.zeros(len(encoded), width, dtype=torch.long)
    mask_BT = torch.zeros(len(encoded), width, dtype=torch.long)
    labels_BT = torch.full((len(encoded), width), IGNORED)
    for row, (tokens, skipped) in enumerate(encoded):
        ids_BT[row, : len(tokens)] = torch.tensor(tokens)
        mask_BT[row, : len(tokens)] = 1
        labels_BT[row, skipped : len(tokens)] = ids_BT[row, skipped : len(tokens)]
    labels = torch.tensor(classes) if classes else labels_BT
    if not classes and not bool((labels_BT[:, 1:] != IGNORED).any()):
        raise DataError("No row of a batch has a token to learn after the cut to max_length.")
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels}
    return {key: value.to(device) for key, value in inputs.items()}
