"""What an open batch adds up to: sums and counts by sequence, in a small buffer on each device.

A site has one row of the buffer, a site of stacked experts one per expert. Nothing that grows with
tokens × width is kept.

Shape letters: B batch, T token, N kept rows (B × T flattened), L layers, R buffer rows, S routed
pairs, I in.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from plop_lora.indicators.expected_norms import row_norms
from plop_lora.models.devices import sent

Floats = NDArray[np.float64]
COUNTS, SUMS = 0, 1
"""The layers of a buffer: tokens, and from here on Σ of each indicator, NFN first."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How the rows that reach a module belong to the B sequences of a batch.

    `masks` holds the attention masks of the batch ([B, T] bool), of which there are two of
    different width in an encoder-decoder. The encoder sees those in `encoder_masks` only: where it
    shortens its input, its rows can be as many as the decoder's tokens. A decoder sees both, since
    its cross-attention reads what the encoder made.

    `text_only` says that the model gets nothing but tokens: rows that are not theirs (padding to
    a window, prompts, summaries, tables of positions) are then the model's own and count nowhere.
    """

    size: int
    masks: tuple[torch.Tensor, ...]
    encoder_masks: tuple[torch.Tensor, ...] = ()
    text_only: bool = False

    def batch_first(self, features: torch.Tensor, output: object) -> tuple[torch.Tensor, object]:
        """Return features and output as [B, T, ...], also where a module runs time first."""
        shapes = {tuple(mask_BT.shape) for mask_BT in self.masks}
        leading = tuple(features.shape[:2])
        if features.ndim < 3 or leading in shapes or leading[::-1] not in shapes:
            return features, output
        if isinstance(output, torch.Tensor) and tuple(output.shape[:2]) == leading:
            output = output.transpose(0, 1)
        return features.transpose(0, 1), output

    def tokens_of(self, features: torch.Tensor, *, in_encoder: bool = False) -> torch.Tensor | None:
        """Return which rows of [..., I] count, as [B, T] bool, or None if nobody can tell."""
        rows = features.numel() // features.shape[-1]
        for mask_BT in self.encoder_masks if in_encoder else self.masks:
            if rows == mask_BT.numel():
                return sent(mask_BT, features.device)
        whole = features.ndim >= 3 and features.shape[0] == self.size
        alone = self.size == 1 or rows == self.size
        if self.text_only and self.masks and rows != self.size:
            # Rows of a text alone, as a router hands them out; more rows are the model's own.
            routed = features.ndim == 2 and rows < max(map(torch.Tensor.numel, self.masks))
            whole, alone = False, self.size == 1 and routed
        if whole or alone or (not self.masks and rows % self.size == 0):
            shape = (self.size, rows // self.size)
            return torch.ones(shape, dtype=torch.bool, device=features.device)
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """The expert and the token of each routed pair; tokens count the rows of `mask_BT`."""

    experts_S: torch.Tensor
    tokens_S: torch.Tensor
    mask_BT: torch.Tensor

    @property
    def valid_S(self) -> torch.Tensor:
        """Whether the token of a pair counts."""
        return self.mask_BT.reshape(-1)[self.tokens_S]

    @property
    def cells_S(self) -> torch.Tensor:
        """The place of each pair in a buffer [expert, sequence], flattened."""
        return self.experts_S * len(self.mask_BT) + self.sequences_S

    @property
    def sequences_S(self) -> torch.Tensor:
        """The number of the sequence of each pair."""
        return self.tokens_S // self.mask_BT.shape[1]


@dataclass(slots=True, eq=False)
class BatchSums:
    """What an open batch has added up to: sums and counts on each device, as one tensor [L, R, B].

    `layers` is their number: tokens, and Σ of each indicator.
    `order` lists the sites as they ran, `unassignable` those whose rows nobody can tell apart,
    `left_out` those with a call that counts nowhere, with the reason, and `last` the newest input
    with its row norms.
    """

    layout: Layout
    rows: int
    layers: int
    buffers: dict[torch.device, torch.Tensor] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    unassignable: set[int] = field(default_factory=set)
    left_out: dict[int, str] = field(default_factory=dict)
    last: tuple[weakref.ref[torch.Tensor], torch.Tensor] | None = None

    def on(self, device: torch.device) -> torch.Tensor:
        """Return the sums and counts of a device."""
        if device not in self.buffers:
            shape = (self.layers, self.rows, self.layout.size)
            self.buffers[device] = torch.zeros(shape, dtype=torch.float32, device=device)
        return self.buffers[device]

    def input_norms(self, features: torch.Tensor) -> torch.Tensor:
        """Return the row norms of an input, once for the modules that share the tensor.

        Token numbers stand for one-hot features, of norm 1. Only a weak reference is kept: the
        probe must not prolong the life of an activation.
        """
        if not features.is_floating_point():
            return torch.ones(features.numel(), device=features.device)
        if self.last is not None and self.last[0]() is features:
            return self.last[1]
        norms_N = row_norms(features.reshape(-1, features.shape[-1]))
        self.last = (weakref.ref(features), norms_N)
        return norms_N


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What one batch has added up to, on the host.

    Attributes:
        sums_RB: Σ NFN.
        counts_RB: Tokens.
        further: Σ of each further indicator, [R, B], by its name.
        unassignable: Sites whose rows could not be assigned to sequences.
        left_out: Sites with a call that was left out, and why.
    """

    sums_RB: Floats
    counts_RB: Floats
    further: Mapping[str, Floats] = field(default_factory=dict)
    unassignable: frozenset[int] = frozenset()
    left_out: Mapping[int, str] = field(default_factory=dict)
