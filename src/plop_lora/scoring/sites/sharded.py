"""Weights that a tensor-parallel plan has sharded over processes.

A column-parallel layer returns a slice of its output on each process; a row-parallel layer takes a
slice of its input and returns the whole output. Rows are not gathered: the squared norms of their
slices are added over the group, one number per row. Each weight is gathered once for its expected
norm, which is therefore exactly that of the whole weight.

Covers the linear layers of transformers' plans, and those of FSDP 2, which are whole while they
run. Shape letters: N rows, O out, I in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import nn

from plop_lora.errors import ModelError
from plop_lora.indicators.expected_norms import expected_norm
from plop_lora.scoring.sites.fused import FusedPart

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True, slots=True)
class ShardedOperator:
    """A linear layer whose weight is a `DTensor`; its widths are those of the whole weight."""

    module: Any

    @property
    def in_features(self) -> int:
        """Width of the features."""
        return int(self.module.weight.shape[1])

    @property
    def out_features(self) -> int:
        """Number of rows of the weight."""
        return int(self.module.weight.shape[0])

    def product(
        self, features: torch.Tensor, output: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the output of this process, which may be a slice, with the matching bias."""
        rows_NO = output.reshape(-1, output.shape[-1])
        bias = getattr(self.module, "bias", None)
        if not is_spread(bias):
            return rows_NO, bias
        local = bias.to_local()
        return rows_NO, local if len(local) == rows_NO.shape[1] else bias.full_tensor()

    def weight(self, part: FusedPart | None) -> torch.Tensor:
        """Return the whole weight; every process of the group must call this."""
        weight_OI: torch.Tensor = self.module.weight
        # While its block runs, FSDP has already gathered the weight.
        return weight_OI.full_tensor() if is_spread(weight_OI) else weight_OI

    def expected_norm(
        self, part: FusedPart | None, *, like: torch.Tensor, denominator: str, seed: int
    ) -> torch.Tensor:
        """Return E||W u|| of the whole weight; every process of the group must call this."""
        return expected_norm(self.weight(part), denominator=denominator, seed=seed).to(like.device)

    def whole_norms(self, norms_N: torch.Tensor, *, width: int, whole: int) -> torch.Tensor:
        """Return the norms of whole rows, given the norms of the slices on this process.

        Args:
            norms_N: Norms of the slices of the rows.
            width: Number of entries of a slice, which equals `whole` if the rows are not sharded.
            whole: Number of entries of a whole row.
        """
        if width == whole:
            return norms_N
        squares_N = norms_N.square()
        mesh = self.module.weight.device_mesh
        dist.all_reduce(squares_N, group=mesh.get_group("tp" if mesh.ndim > 1 else None))
        return squares_N.sqrt()


def is_spread(tensor: object) -> TypeGuard[DTensor]:
    """Return whether a tensor is a `DTensor`.

    If there is one, its module has been imported. Importing it here would cost every run half a
    second.
    """
    source = sys.modules.get("torch.distributed.tensor")
    return source is not None and isinstance(tensor, source.DTensor)


def is_sharded(model: nn.Module) -> bool:
    """Return whether the weights of a model are sharded over processes."""
    return any(is_spread(parameter) for parameter in model.parameters())


def check_sharded(names: Iterable[str]) -> None:
    """Refuse fused or stacked weights that are sharded, because a shard mixes several of them.

    Raises:
        ModelError: There is such a weight; the message names the first.
    """
    first = next(iter(names), None)
    if first is not None:
        raise ModelError(
            f"{first} holds several projections or experts and is sharded over processes by a "
            "tensor-parallel plan, which is not supported. Load the model without tp_plan, for "
            'example with device_map="auto".'
        )
