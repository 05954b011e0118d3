"""Fused projections: which rows of a weight are q, k and v, or gate and up.

Where a model computes several projections in one product, each is a slice of the weight's rows.
The rows stand in groups (attention heads, or one group where the parts are simply concatenated),
and every group holds the parts in the same order and sizes. The layout is found by the name of the
module, in `models.architectures`; the sizes come from the module that owns it, by its own
attributes and its configuration. Sizes that do not add up to the rows are not believed, and the
weight stays whole.

Shape letters: O out, I in, G groups, P rows of a part in a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from plop_lora.models.architectures import FUSED_PROJECTIONS, FusedProjection, RowLayout
from plop_lora.scoring.sites.sources import groups_by_head, order_of_heads


@dataclass(frozen=True, slots=True)
class FusedPart:
    """One slice of a weight: rows `start` to `start + size` of each of `groups` groups."""

    name: str
    groups: int
    width: int
    start: int
    size: int

    @property
    def rows(self) -> int:
        """Number of rows of the weight in this part."""
        return self.groups * self.size

    def of_output(self, values: torch.Tensor) -> torch.Tensor:
        """Return the part of [..., O] as a view [..., G, P]."""
        grouped = torch.unflatten(values, -1, (self.groups, self.width))
        return grouped.narrow(-1, self.start, self.size)

    def of_weight(self, weight_OI: torch.Tensor) -> torch.Tensor:
        """Return the part of a weight [..., O, I] as [..., G·P, I]."""
        grouped = torch.unflatten(weight_OI, -2, (self.groups, self.width))
        return grouped.narrow(-2, self.start, self.size).flatten(-3, -2)


Sizes = tuple[tuple[str, int], ...]
Rule = Callable[[nn.Module, int], tuple[int, Sizes] | None]


def parts_of(owner: nn.Module, leaf: str, out_features: int) -> tuple[FusedPart, ...]:
    """Return the slices of a fused projection, or an empty tuple where it is not one.

    Args:
        owner: the module that holds the projection and splits its output.
        leaf: the name of the projection in its owner.
        out_features: rows of the weight.
    """
    row = FUSED_PROJECTIONS.get(leaf)
    found = None if row is None else _rule(row)(owner, out_features)
    if found is None:
        return ()
    groups, sizes = found
    if groups * sum(size for _, size in sizes) != out_features:
        return ()
    return arrange(groups, sizes)


def arrange(groups: int, sizes: Sizes) -> tuple[FusedPart, ...]:
    """Lay parts side by side in each group, in their order.

    A part without rows is none: a layer without rotary positions has no `k_rope`.
    """
    width = sum(size for _, size in sizes)
    parts, start = [], 0
    for name, size in sizes:
        if size:
            parts.append(FusedPart(name, groups, width, start, size))
        start += size
    return tuple(parts)


# --------------------------------------------------------------------------- sizes


def _number(owner: nn.Module, *names: str) -> int | None:
    """Return the first of the attributes that the module, else its configuration, has."""
    for holder in (owner, getattr(owner, "config", None)):
        for name in names:
            value: Any = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _heads(owner: nn.Module) -> int | None:
    return _number(owner, "num_heads", "num_attention_heads", "n_head")


def _concatenated_qkv(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
    """Read q, then k, then v; fewer key and value heads where the model groups its queries.

    Two thirds of them are missing in a cross-attention that keeps its queries apart (GPT-2).
    """
    heads = _heads(owner)
    kind: Any = type(owner)
    if heads is None or order_of_heads(kind) not in (None, "qkv"):
        return None
    if groups_by_head(kind) and not getattr(owner, "multi_query", False):
        return _qkv_by_head(owner, rows)
    if getattr(owner, "is_cross_attention", False):
        return 1, (("k", rows // 2), ("v", rows // 2))
    key_heads = _number(owner, "kv_heads", "num_key_value_heads") or heads
    head = rows // (heads + 2 * key_heads)
    return 1, (("q", heads * head), ("k", key_heads * head), ("v", key_heads * head))


def _qkv_by_head(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
    """Read [q, k, v] head by head (GPT-NeoX, BLOOM); Falcon groups or shares key and value."""
    heads = _heads(owner)
    if heads is None:
        return None
    if getattr(owner, "new_decoder_architecture", False):
        groups = _number(owner, "num_kv_heads") or heads
    else:
        groups = 1 if getattr(owner, "multi_query", False) else heads
    queries = heads // groups
    head = rows // (groups * (queries + 2))
    return groups, (("q", queries * head), ("k", head), ("v", head))


def _gated_query(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
    """Read a query that carries an output gate: [q, gate] head by head."""
    head, heads = _number(owner, "head_dim"), _heads(owner)
    if head is None or heads is None or rows != 2 * heads * head:
        return None
    return heads, (("q", head), ("gate", head))


def _latent_down(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
    latent = _number(owner, "kv_lora_rank")
    return None if latent is None else (1, (("latent", latent), ("k_rope", rows - latent)))


def _latent_up(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
    heads, key = _heads(owner), _number(owner, "qk_nope_head_dim")
    value = _number(owner, "v_head_dim")
    if heads is None or key is None or value is None:
        return None
    return heads, (("k", key), ("v", value))


def _linear_qkv(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
    key, value = _number(owner, "key_dim"), _number(owner, "value_dim")
    if key is None or value is None:
        return None
    return 1, (("q", key), ("k", key), ("v", value))


def _linear_qkvz(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
    groups, values = _number(owner, "num_k_heads"), _number(owner, "num_v_heads")
    key, value = _number(owner, "head_k_dim"), _number(owner, "head_v_dim")
    if groups is None or values is None or key is None or value is None:
        return None
    shared = values // groups * value
    return groups, (("q", key), ("k", key), ("v", shared), ("z", shared))


def _linear_ba(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
    groups, values = _number(owner, "num_k_heads"), _number(owner, "num_v_heads")
    if groups is None or values is None:
        return None
    return groups, (("b", values // groups), ("a", values // groups))


def _state_space(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
    """Read Mamba 2's input: gate z, x, then B and C of the state, then the step sizes."""
    inner, heads = _number(owner, "intermediate_size"), _number(owner, "num_heads")
    groups = _number(owner, "n_groups")
    state = _number(owner, "ssm_state_size", "state_size")
    if inner is None or heads is None or groups is None or state is None:
        return None
    wide = groups * state
    return 1, (("z", inner), ("x", inner), ("B", wide), ("C", wide), ("dt", heads))


def _halves(row: FusedProjection) -> Rule:
    """Read two halves of equal size, of which the partner projection takes the product."""

    def rule(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
        width = getattr(getattr(owner, row.partner, None), "in_features", None)
        if width is None or rows != 2 * width:
            return None
        first, second = row.halves
        return 1, ((first, width), (second, width))

    return rule


def _rule(row: FusedProjection) -> Rule:
    """Return what reads the sizes of a projection's parts."""
    return _halves(row) if row.layout is RowLayout.halves else _RULES[row.layout]


_RULES: dict[RowLayout, Rule] = {
    RowLayout.concatenated_qkv: _concatenated_qkv,
    RowLayout.qkv_by_head: _qkv_by_head,
    RowLayout.gated_query: _gated_query,
    RowLayout.latent_down: _latent_down,
    RowLayout.latent_up: _latent_up,
    RowLayout.linear_qkv: _linear_qkv,
    RowLayout.linear_qkvz: _linear_qkvz,
    RowLayout.linear_ba: _linear_ba,
    RowLayout.state_space: _state_space,
}
"""Layout → what reads the sizes from the owner; halves are read by the row itself."""
