"""Sums and counts per sequence of the current batch, in a small buffer on each device.

A site has one row of the buffer, a site of stacked experts one row per expert. No tensor that grows
with tokens × width is kept.

Shape letters: B batch, T token, N kept rows (B × T flattened), L layers, R buffer rows, S routed
pairs, I in.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.weak import WeakTensorKeyDictionary

from plop_lora.indicators.expected_norms import row_norms
from plop_lora.models.devices import sent

Floats = NDArray[np.float64]
COUNTS, SUMS = 0, 1
"""Layers of a buffer: layer 0 holds numbers of tokens, those from 1 on the sums of each indicator,
NFN first."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How the input rows of a module are assigned to the B sequences of a batch.

    Attributes:
        size: Number of sequences, B.
        masks: Attention masks [B, T] of the batch, in bool. An encoder-decoder has two of different
            width, and its decoder uses both, because its cross-attention reads encoder states.
        encoder_masks: Masks that apply inside the encoder. If an encoder shortens its input, its
            number of rows can happen to equal that of the decoder's tokens.
        read_masks: The masks of the tokens that the model reads, which are the same and the special
            tokens around a text; in the order of `masks`. Empty if they are the same.
        read_encoder_masks: The same for `encoder_masks`.
        text_only: Whether the inputs are tokens only. Rows that match no token (padding to a
            window, prompts, summaries, tables of positions) are then not counted.
    """

    size: int
    masks: tuple[torch.Tensor, ...]
    encoder_masks: tuple[torch.Tensor, ...] = ()
    text_only: bool = False
    read_masks: tuple[torch.Tensor, ...] = ()
    read_encoder_masks: tuple[torch.Tensor, ...] = ()

    def batch_first(self, features: torch.Tensor, output: object) -> tuple[torch.Tensor, object]:
        """Return features and output as [B, T, ...], also for a module that takes [T, B, ...]."""
        shapes = {tuple(mask_BT.shape) for mask_BT in self.masks}
        leading = tuple(features.shape[:2])
        if features.ndim < 3 or leading in shapes or leading[::-1] not in shapes:
            return features, output
        if isinstance(output, torch.Tensor) and tuple(output.shape[:2]) == leading:
            output = output.transpose(0, 1)
        return features.transpose(0, 1), output

    def tokens_of(
        self, features: torch.Tensor, *, in_encoder: bool = False, read: bool = False
    ) -> torch.Tensor | None:
        """Return which rows of [..., I] count, as [B, T] bool, or None if that is not known.

        With `read`, those that the model reads, also special tokens around a text.
        """
        rows = features.numel() // features.shape[-1]
        counted = self.encoder_masks if in_encoder else self.masks
        seen = self.read_encoder_masks if in_encoder else self.read_masks
        for mask_BT in (seen if read else ()) or counted:
            if rows == mask_BT.numel():
                return sent(mask_BT, features.device)
        whole = features.ndim >= 3 and features.shape[0] == self.size
        alone = self.size == 1 or rows == self.size
        if self.text_only and self.masks and rows != self.size:
            # Rows of a single text, as a router selects them; more rows are not tokens of the text.
            routed = features.ndim == 2 and rows < max(map(torch.Tensor.numel, self.masks))
            whole, alone = False, self.size == 1 and routed
        if whole or alone or (not self.masks and rows % self.size == 0):
            shape = (self.size, rows // self.size)
            return torch.ones(shape, dtype=torch.bool, device=features.device)
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """The expert and the token of each routed pair; tokens index the flattened `mask_BT`."""

    experts_S: torch.Tensor
    tokens_S: torch.Tensor
    mask_BT: torch.Tensor

    @property
    def valid_S(self) -> torch.Tensor:
        """Whether the token of a pair counts."""
        return self.mask_BT.reshape(-1)[self.tokens_S]

    @property
    def cells_S(self) -> torch.Tensor:
        """The index of each pair in a flattened buffer [expert, sequence]."""
        return self.experts_S * len(self.mask_BT) + self.sequences_S

    @property
    def sequences_S(self) -> torch.Tensor:
        """The index of the sequence of each pair."""
        return self.tokens_S // self.mask_BT.shape[1]


@dataclass(slots=True, eq=False)
class BatchSums:
    """Sums and counts of the current batch, as one tensor [L, R, B] on each device.

    Attributes:
        layout: How rows are assigned to sequences.
        rows: Number of rows of a buffer, R.
        layers: Number of layers of a buffer, L: the counts, and one for each indicator.
        buffers: The buffer of each device.
        order: Indices of the sites in the order in which they ran.
        unassignable: Sites whose rows cannot be assigned to sequences.
        left_out: Sites with a call that was not counted, and the reason.
        without: Sites without a value of an indicator, and the reason, by indicator.
        norms: The version and the row norms of each input that still exists.
    """

    layout: Layout
    rows: int
    layers: int
    buffers: dict[torch.device, torch.Tensor] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    unassignable: set[int] = field(default_factory=set)
    left_out: dict[int, str] = field(default_factory=dict)
    without: dict[str, dict[int, str]] = field(default_factory=dict)
    norms: MutableMapping[torch.Tensor, tuple[int, torch.Tensor]] = field(
        default_factory=WeakTensorKeyDictionary
    )

    def on(self, device: torch.device) -> torch.Tensor:
        """Return the buffer of a device."""
        if device not in self.buffers:
            shape = (self.layers, self.rows, self.layout.size)
            self.buffers[device] = torch.zeros(shape, dtype=torch.float32, device=device)
        return self.buffers[device]

    def input_norms(self, features: torch.Tensor) -> torch.Tensor:
        """Return the row norms of an input, computed once for modules that share the tensor.

        Token ids represent one-hot features, whose norm is 1. Only weak references to the inputs
        are kept, so that the probe does not keep an activation in memory. torch increases the
        version of a tensor whenever it is changed in place, except in inference mode, where no
        norms are shared.
        """
        if not features.is_floating_point():
            return torch.ones(features.numel(), device=features.device)
        version = -1 if features.is_inference() else features._version
        known = self.norms.get(features)
        if known is not None and known[0] == version >= 0:
            return known[1]
        norms_N = row_norms(features.reshape(-1, features.shape[-1]))
        self.norms[features] = (version, norms_N)
        return norms_N


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Sums and counts of one batch, on the host.

    Attributes:
        sums_RB: Sum of NFN over the counted tokens.
        counts_RB: Number of counted tokens.
        further: Sums [R, B] of each further indicator, by its name.
        unassignable: Sites whose rows could not be assigned to sequences.
        left_out: Sites with a call that was not counted, and the reason.
        without: Sites without a value of an indicator, and the reason, by indicator.
    """

    sums_RB: Floats
    counts_RB: Floats
    further: Mapping[str, Floats] = field(default_factory=dict)
    unassignable: frozenset[int] = frozenset()
    left_out: Mapping[int, str] = field(default_factory=dict)
    without: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
