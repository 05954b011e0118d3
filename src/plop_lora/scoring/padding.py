"""Rows that are no tokens: padding of a batch, and padding that a model adds to its own inputs.

Shape letters: B batch, T token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from plop_lora.data import SIDES, Batch

_TEXT = ("inputs_embeds", "decoder_inputs_embeds")


def is_text(batch: Batch) -> bool:
    """Whether a batch holds tokens and nothing else, such as images or sounds, that makes rows."""
    reads = any(key in batch.inputs for key in ("input_ids", *_TEXT))
    return reads and not any(
        isinstance(value, torch.Tensor) and value.is_floating_point()
        for key, value in batch.inputs.items()
        if key not in (*SIDES, *_TEXT)
    )


def without_padding(batch: Batch) -> Batch:
    """Return a batch of one sequence without the columns that its masks leave out.

    Padding in it would still be routed to experts, whose rows tell nobody where they came from.
    """
    inputs = dict(batch.inputs)
    for side in SIDES:
        mask_BT = inputs.get(side)
        if not isinstance(mask_BT, torch.Tensor) or mask_BT.ndim != 2 or not mask_BT.any():
            continue
        kept_T = mask_BT[0].bool()
        for key, value in batch.inputs.items():
            if _along(value, mask_BT) and key.startswith("decoder_") == side.startswith("decoder_"):
                inputs[key] = value[:, kept_T.to(value.device)]
    return Batch(inputs, batch.names)


def _along(value: Any, mask_BT: torch.Tensor) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.ndim in (2, 3)
        and value.shape[:2] == mask_BT.shape
    )


def window_of(model: nn.Module) -> int | None:
    """Return the length to whose multiples a model pads its inputs on the right, None for none."""
    config = getattr(model, "config", None)
    windows = getattr(config, "attention_window", None)
    if windows:
        return max(windows) if isinstance(windows, list | tuple) else int(windows)
    block = getattr(config, "block_size", None)
    sparse = getattr(config, "attention_type", None) == "block_sparse"
    return int(block) if sparse and block else None


def padded(mask_BT: torch.Tensor, window: int | None) -> torch.Tensor:
    """Return the mask of what a model makes of its input: false where it adds padding."""
    missing = 0 if window is None else -mask_BT.shape[1] % window
    return nn.functional.pad(mask_BT, (0, missing), value=False)
