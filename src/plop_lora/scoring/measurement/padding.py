"""Rows that are not tokens: padding of a batch, and padding that a model adds to its inputs.

Shape letters: B batch, T token.
"""

from __future__ import annotations

import torch
from torch import nn

from plop_lora.data.batches import SIDES, Batch

_TEXT = ("inputs_embeds", "decoder_inputs_embeds")


def is_text(batch: Batch) -> bool:
    """Return whether a batch holds only tokens, and no other inputs such as images or sound."""
    reads = any(key in batch.inputs for key in ("input_ids", *_TEXT))
    return reads and not any(
        isinstance(value, torch.Tensor) and value.is_floating_point()
        for key, value in batch.inputs.items()
        if key not in (*SIDES, *_TEXT)
    )


def width_of(batch: Batch) -> int:
    """Return the sequence length of a batch with padding, the larger one of encoder and decoder."""
    tensors = (value for value in batch.inputs.values() if isinstance(value, torch.Tensor))
    return max((value.shape[1] for value in tensors if value.ndim > 1), default=0)


def is_square(batch: Batch, window: int | None) -> bool:
    """Return whether the number of sequences of a batch equals one of its sequence lengths.

    The shape of an input [T, B, ...] of a module is then ambiguous with [B, T, ...].
    """
    widths = {
        value.shape[1]
        for value in batch.inputs.values()
        if isinstance(value, torch.Tensor) and value.ndim > 1
    }
    if window is not None:
        widths |= {width + -width % window for width in widths}
    return len(batch.names) in widths and batch.can_split()


def split_square(batch: Batch, window: int | None) -> list[Batch]:
    """Split a batch into pieces that are not square; see `is_square`."""
    if not is_square(batch, window):
        return [batch]
    return [piece for half in halves_of(batch) for piece in split_square(half, window)]


def halves_of(batch: Batch) -> tuple[Batch, Batch]:
    """Return the first and the second half of the rows of a batch."""
    middle = len(batch.names) // 2
    return batch.part(0, middle), batch.part(middle, len(batch.names))


def without_padding(batch: Batch) -> Batch:
    """Return a batch of one sequence without the columns that its masks exclude.

    Padding would still be routed to experts, whose rows cannot be assigned to tokens.
    """
    inputs, text_masks = dict(batch.inputs), dict(batch.text_masks)
    for side in SIDES:
        mask_BT = inputs.get(side)
        if not isinstance(mask_BT, torch.Tensor) or mask_BT.ndim != 2 or not mask_BT.any():
            continue
        kept_T = mask_BT[0].bool()
        if side in text_masks:
            text_masks[side] = text_masks[side][:, kept_T]
        for key, value in batch.inputs.items():
            if _along(value, mask_BT) and key.startswith("decoder_") == side.startswith("decoder_"):
                inputs[key] = value[:, kept_T.to(value.device)]
    return Batch(inputs, batch.names, text_masks)


def _along(value: object, mask_BT: torch.Tensor) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.ndim in (2, 3)
        and value.shape[:2] == mask_BT.shape
    )


def window_of(model: nn.Module) -> int | None:
    """Return the length to a multiple of which a model pads its inputs on the right, or None."""
    config = getattr(model, "config", None)
    windows = getattr(config, "attention_window", None)
    if windows:
        return max(windows) if isinstance(windows, list | tuple) else int(windows)
    block = getattr(config, "block_size", None)
    sparse = getattr(config, "attention_type", None) == "block_sparse"
    return int(block) if sparse and block else None


def padded(mask_BT: torch.Tensor, window: int | None) -> torch.Tensor:
    """Return the mask of the inputs after the model has padded them to a multiple of `window`."""
    missing = 0 if window is None else -mask_BT.shape[1] % window
    return nn.functional.pad(mask_BT, (0, missing), value=False)
