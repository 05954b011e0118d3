"""A placement for litgpt: query, key, value, projection and MLP by switch, one rank.

litgpt fuses q, k and v in one weight and can still adapt any of the three alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from plop_lora.exports.fragment import (
    document,
    nothing_left,
    one_rank,
    rank_losses,
    require_family,
    settings_losses,
)
from plop_lora.exports.switches import check_switches, decide
from plop_lora.exports.target import Loss, Rendered, Target
from plop_lora.records import Host, Placement

FAMILIES = ("falcon", "gemma", "gemma2", "gemma3_text", "gpt_neox", "llama", "mistral", "mixtral",
            "olmo", "olmo2", "phi", "phi3", "qwen2", "qwen3", "qwen3_moe", "stablelm")  # fmt: skip
"""Families that litgpt 0.5 converts: litgpt/scripts/convert_hf_checkpoint.py, litgpt/config.py."""

SWITCHES = {
    "lora_query": ("query",),
    "lora_key": ("key",),
    "lora_value": ("value",),
    "lora_projection": ("projection",),
    "lora_mlp": ("gate", "up", "down"),
}
_USAGE = (
    "litgpt finetune_lora CHECKPOINT --config THIS_FILE (add --data, --out_dir and --train.* there",
    "or here)",
)


def _render(placement: Placement) -> Rendered:
    require_family(placement, "litgpt", FAMILIES)
    decision = decide(placement, SWITCHES, "litgpt")
    if not decision.on:
        raise nothing_left(
            "litgpt", "the MLP is one switch, and most of what its switches reach is not placed"
        )
    routers = _router_parameters(decision.hosts)
    per_rank = decision.parameters_per_rank + routers
    rank = one_rank(placement, per_rank)
    alpha = max(1, round(placement.scaling * rank))
    losses = (
        *decision.losses,
        *_router_losses(routers),
        *rank_losses(placement, rank),
        *_alpha_losses(placement, alpha, rank),
        *settings_losses(placement),
    )
    fields: dict[str, Any] = {
        "lora_r": rank,
        "lora_alpha": alpha,
        "lora_dropout": placement.settings.dropout,
        **{name: name in decision.on for name in SWITCHES},
        "lora_head": False,
    }
    return Rendered(document(placement, _USAGE, fields, losses), rank * per_rank, losses)


def _router_parameters(hosts: Iterable[Host]) -> int:
    """Return what a rank unit of the routers costs, which `lora_mlp` adapts beside the experts."""
    first = {host.layer: host for host in hosts if host.copies > 1 and _reads(host.name)}
    return sum(host.in_features + host.copies for host in first.values())


def _reads(name: str) -> bool:
    """Whether a stack of experts reads the hidden state, as the router does."""
    return not name.endswith("down_proj")


def _router_losses(routers: int) -> tuple[Loss, ...]:
    if not routers:
        return ()
    return (Loss("the routers untouched", "trained as well, they belong to lora_mlp"),)


def _alpha_losses(placement: Placement, alpha: int, rank: int) -> tuple[Loss, ...]:
    """Return the loss of a scaling that litgpt's whole-numbered alpha cannot give."""
    if abs(alpha / rank - placement.scaling) <= 1e-9 * placement.scaling:
        return ()
    effect = f"it is {alpha / rank:g}, since lora_alpha must be a whole number"
    return (Loss(f"the scaling {placement.scaling:g}", effect),)


def _check(placement: Placement, rendered: Rendered) -> None:
    fields = yaml.safe_load(rendered.text)
    on = [name for name in SWITCHES if fields[name]]
    check_switches(
        placement, rendered, trainer="litgpt", switches=SWITCHES, on=on, rank=fields["lora_r"],
        beside=_router_parameters,
    )  # fmt: skip


TARGET = Target(
    name="litgpt",
    file_name="litgpt_lora.yaml",
    render=_render,
    check=_check,
    description="litgpt finetune_lora CHECKPOINT --config {file}",
    source="https://github.com/Lightning-AI/litgpt/blob/main/tutorials/finetune_lora.md",
    read_by="by the rules of litgpt",
)
