"""In which precision a model with float32 adapters computes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HALVES = (torch.bfloat16, torch.float16)


def frozen_weight(model: PreTrainedModel) -> torch.Tensor:
    """Return a frozen weight, which has the model's own device and dtype."""
    floating = (p for p in model.parameters() if not p.requires_grad and p.is_floating_point())
    weight: torch.Tensor = next(floating, next(iter(model.parameters())))
    return weight


def dtype_of(model: PreTrainedModel) -> str:
    """Return the name of the dtype of a frozen weight."""
    return str(frozen_weight(model).dtype).removeprefix("torch.")


def half_of(model: PreTrainedModel) -> torch.dtype | None:
    """Return bfloat16 or float16 where the frozen weights have it, else None."""
    dtypes = {p.dtype for p in model.parameters() if not p.requires_grad}
    return next((dtype for dtype in HALVES if dtype in dtypes), None)


def precision(model: PreTrainedModel) -> contextlib.AbstractContextManager[object]:
    """Let a float32 head take features of half precision, as the trainer does."""
    half = half_of(model)
    if half is None:
        return contextlib.nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype=half)
