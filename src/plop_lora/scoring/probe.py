"""The hooks: one context manager that turns a forward pass into sums per site and sequence.

While it is open, every site's forward leaves Σ NFN and the number of tokens of each sequence in a
small buffer on the device. Nothing that grows with tokens × width is kept, and nothing is copied
to the host until the batch is over.

Shape letters: B batch, T token, N rows (B × T flattened), S sites, I in, O out.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from plop_lora.errors import MeasurementError
from plop_lora.scoring.nfn import expected_gain, row_norms
from plop_lora.scoring.sites import Site

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How the rows that reach a module belong to the B sequences of a batch.

    `masks` holds the attention masks of the batch ([B, T] bool), of which there are two of
    different width in an encoder-decoder.
    """

    size: int
    masks: tuple[torch.Tensor, ...]

    def tokens_of(self, features: torch.Tensor) -> torch.Tensor | None:
        """Return which rows of [..., I] count, as [B, T] bool, or None if nobody can tell."""
        rows = features.numel() // features.shape[-1]
        for mask_BT in self.masks:
            if rows == mask_BT.numel():
                return mask_BT
        pooled = rows == self.size
        whole = features.ndim >= 3 and features.shape[0] == self.size
        if pooled or whole or (not self.masks and rows % self.size == 0):
            shape = (self.size, rows // self.size)
            return torch.ones(shape, dtype=torch.bool, device=features.device)
        return None


@dataclass
class Probe:
    """What the hooks write to; `begin` and `finish` frame one batch."""

    sites: Sequence[Site]
    device: torch.device
    baseline: str
    seed: int
    unassignable: set[int] = field(default_factory=set)
    _gains: dict[int, torch.Tensor] = field(default_factory=dict)
    _layout: Layout | None = None
    _order: list[int] = field(default_factory=list)
    _last: tuple[weakref.ref[torch.Tensor], torch.Tensor] | None = None

    def begin(self, layout: Layout) -> None:
        """Clear the buffers for a batch of `layout.size` sequences."""
        shape = (len(self.sites), layout.size)
        self._layout = layout
        self._order = []
        self._last = None
        self._sums_SB = torch.zeros(shape, dtype=torch.float32, device=self.device)
        self._counts_SB = torch.zeros(shape, dtype=torch.float32, device=self.device)

    def finish(self) -> tuple[Floats, Floats]:
        """Move the batch's sums and counts, both [S, B], to the host in one transfer.

        Raises:
            MeasurementError: a site saw NaN or infinity; the first in forward order is named.
        """
        both = torch.stack([self._sums_SB, self._counts_SB]).cpu().double().numpy()
        self._layout, self._last = None, None
        broken = ~np.isfinite(both[0]).all(axis=1)
        if broken.any():
            first = next(index for index in self._order if broken[index])
            raise MeasurementError(
                f"{self.sites[first].name} produced NaN or infinity, so nothing after it means "
                "anything. If the model runs in float16 or bfloat16, score it with "
                "--dtype float32; if that does not help, its weights are damaged."
            )
        return both[0], both[1]

    def hook(self, index: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        """Return the forward hook of one site."""

        def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if self._layout is None:
                return
            features = arguments[0] if arguments else None
            if not isinstance(features, torch.Tensor) or not isinstance(output, torch.Tensor):
                self.unassignable.add(index)
                return
            tokens_BT = self._layout.tokens_of(features)
            if tokens_BT is None:
                self.unassignable.add(index)
                return
            self._order.append(index)
            self._add(index, features, output, tokens_BT)

        return record

    def _add(
        self, index: int, features: torch.Tensor, output: torch.Tensor, tokens_BT: torch.Tensor
    ) -> None:
        operator = self.sites[index].operator
        if index not in self._gains:
            self._gains[index] = expected_gain(
                operator.weight_OI(), baseline=self.baseline, seed=self.seed
            ).to(self.device)
        inputs_N = self._input_norms(features)
        outputs_N = row_norms(output.reshape(-1, output.shape[-1]), operator.bias_O())
        ratios_BT = (outputs_N / (inputs_N * self._gains[index])).view(tokens_BT.shape)
        # `!= 0` keeps NaN, which must be seen; a zero input has no direction and no NFN.
        valid_BT = tokens_BT & (inputs_N.view(tokens_BT.shape) != 0)
        self._sums_SB[index] += torch.where(valid_BT, ratios_BT, 0.0).sum(dim=1)
        self._counts_SB[index] += valid_BT.sum(dim=1)

    def _input_norms(self, features: torch.Tensor) -> torch.Tensor:
        """Return the row norms of an input, once for the modules that share the tensor.

        Only a weak reference is kept: the probe must not prolong the life of an activation.
        """
        if self._last is not None and self._last[0]() is features:
            return self._last[1]
        norms_N = row_norms(features.reshape(-1, features.shape[-1]))
        self._last = (weakref.ref(features), norms_N)
        return norms_N


@contextlib.contextmanager
def attach(
    sites: Sequence[Site], *, device: torch.device, baseline: str, seed: int
) -> Iterator[Probe]:
    """Hook the sites for the length of the block; the hooks go whatever happens inside."""
    probe = Probe(sites, device, baseline, seed)
    handles = [
        site.module.register_forward_hook(probe.hook(index)) for index, site in enumerate(sites)
    ]
    try:
        yield probe
    finally:
        for handle in handles:
            handle.remove()
