"""Experts whose weights are stacked in 3-D parameters: the layout, and how their rows are sliced.

Standard layout (transformers' experts interface): `gate_up_proj` [E, O, I], or `up_proj` without a
gate, and `down_proj` [E, O, I], described by attributes of the module. Llama 4's class has the
same parameters without the attributes; its layout is given in `models.architectures`.

Shape letters: E expert, O out, I in.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from plop_lora.models.architectures import LLAMA4_EXPERTS
from plop_lora.records import Host
from plop_lora.scoring.sites.fused import FusedPart, arrange


@dataclass(frozen=True, slots=True, eq=False)
class ExpertStack:
    """The layout of a module of stacked experts.

    Attributes:
        module: Module that holds the experts.
        parameters: Names of the two parameters, in the order in which they are applied.
        transposed: Whether a parameter is stored as [expert, in, out].
        interleaved: Whether the rows of gate and up alternate.
        gated: Whether the first parameter holds gate and up.
    """

    module: Any
    parameters: tuple[str, str]
    transposed: bool
    interleaved: bool
    gated: bool

    @property
    def copies(self) -> int:
        """Number of experts."""
        return int(getattr(self.module, self.parameters[0]).shape[0])

    def weights_EOI(self, leaf: str) -> torch.Tensor:
        """Return a parameter as [expert, out, in]."""
        weights: torch.Tensor = getattr(self.module, leaf)
        return weights.transpose(1, 2) if self.transposed else weights

    def parts(self, leaf: str) -> tuple[FusedPart, ...]:
        """Return the gate and up slices of the first projection; the second has none."""
        if leaf != self.parameters[0] or not self.gated:
            return ()
        rows = self.weights_EOI(leaf).shape[1]
        if self.interleaved:
            return arrange(rows // 2, (("gate", 1), ("up", 1)))
        return arrange(1, (("gate", rows // 2), ("up", rows // 2)))

    def host(self, leaf: str, name: str, type_name: str, layer: int | None) -> Host:
        """Return the record of a parameter as the host of an adapter."""
        copies, out_features, in_features = self.weights_EOI(leaf).shape
        return Host(name, type_name, layer, in_features, out_features, copies, is_parameter=True)


def stack_of(module: nn.Module) -> ExpertStack | None:
    """Return the layout of stacked experts, or None if a module is not a stack of known layout.

    A module with 3-D parameters but without a description of their layout is not measured.
    """
    if _is_llama4(module):
        known = LLAMA4_EXPERTS
        return ExpertStack(
            module, known.parameters, known.transposed, known.interleaved, known.gated
        )
    flags = ("has_gate", "is_transposed", "is_concatenated", "_apply_gate")
    if not all(hasattr(module, flag) for flag in flags):
        return None
    first = "gate_up_proj" if module.has_gate else "up_proj"
    own = dict(module.named_parameters(recurse=False))
    if any(own.get(leaf) is None or own[leaf].ndim != 3 for leaf in (first, "down_proj")):
        return None
    if not all(own[leaf].is_floating_point() for leaf in (first, "down_proj")):
        return None
    return ExpertStack(
        module=module,
        parameters=(first, "down_proj"),
        transposed=bool(module.is_transposed),
        interleaved=not module.is_concatenated,
        gated=bool(module.has_gate),
    )


def _is_llama4(module: nn.Module) -> bool:
    """Return whether a module is Llama 4's stack, whose class such a model has imported."""
    source = sys.modules.get(LLAMA4_EXPERTS.module)
    return source is not None and isinstance(module, getattr(source, LLAMA4_EXPERTS.name))
