"""Fused projections: which rows of a weight are q, k and v, or gate and up.

If a model computes several projections in one product, each is a slice of the weight's rows. The
rows are divided into groups (attention heads, or a single group if the parts are concatenated), and
every group holds the parts in the same order and sizes. The layout is looked up by the name of the
module in `models.architectures`; the sizes are read from the attributes of the module that owns it,
or from its configuration. If the sizes do not add up to the number of rows, the weight is not
sliced.

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
    """One slice of a weight.

    Attributes:
        name: Name of the part, such as `q`.
        groups: Number of groups of rows.
        width: Number of rows of a group.
        start: First row of the part in each group.
        size: Number of rows of the part in each group.
    """

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
    """Return the slices of a fused projection; the tuple is empty if it is not known to be fused.

    Args:
        owner: Module that holds the projection and splits its output.
        leaf: Name of the projection in its owner.
        out_features: Number of rows of the weight.
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
    """Return parts that follow one another in each group, in the order given.

    A part without rows is dropped: a layer without rotary positions has no `k_rope`.
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
    """Return the first attribute found in the module or, failing that, in its configuration."""
    for holder in (owner, getattr(owner, "config", None)):
        for name in names:
            value: Any = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _heads(owner: nn.Module) -> int | None:
    return _number(owner, "num_heads", "num_attention_heads", "n_head")


def _concatenated_qkv(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
    """Read q, then k, then v, with fewer key and value heads in grouped-query attention.

    A cross-attention with a separate query projection (GPT-2) holds only k and v.
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
    """Read two halves of equal size, whose product is the input of the partner projection."""

    def rule(owner: nn.Module, rows: int) -> tuple[int, Sizes] | None:
        width = getattr(getattr(owner, row.partner, None), "in_features", None)
        if width is None or rows != 2 * width:
            return None
        first, second = row.halves
        return 1, ((first, width), (second, width))

    return rule


def _rule(row: FusedProjection) -> Rule:
    """Return the function that reads the sizes of the parts of a projection."""
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
"""Layout → function that reads the sizes from the owner; halves need the row as well."""
