"""A placement for torchtune: which attention projections, the MLP as a whole, one rank."""

from __future__ import annotations

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
from plop_lora.exports.target import Rendered, Target
from plop_lora.placement import alpha_of
from plop_lora.records import AdapterSettings, Placement

FAMILIES = ("gemma", "gemma2", "llama", "mistral", "phi3", "qwen2")
"""Families of torchtune 0.6 with LoRA builders: torchtune/models."""

SWITCHES = {
    "q_proj": ("query",),
    "k_proj": ("key",),
    "v_proj": ("value",),
    "output_proj": ("projection",),
    "apply_lora_to_mlp": ("gate", "up", "down"),
}
_MLP = "apply_lora_to_mlp"
_USAGE = (
    "In the `model:` section of a torchtune LoRA recipe (tune cp llama3_1/8B_lora_single_device",
    "my.yaml), keep `_component_` and put these lines in place of its own LoRA lines. Then:",
    "tune run lora_finetune_single_device --config my.yaml",
)


def _render(placement: Placement) -> Rendered:
    family = require_family(placement, "torchtune", FAMILIES)
    decision = decide(placement, SWITCHES, "torchtune")
    attention = [name for name in decision.on if name != _MLP]
    if not attention:
        raise nothing_left(
            "torchtune",
            "its builders need at least one of q_proj, k_proj, v_proj, output_proj, and the MLP "
            "is one switch",
        )
    rank = one_rank(placement, decision.parameters_per_rank)
    losses = (*decision.losses, *rank_losses(placement, rank), *settings_losses(placement))
    fields: dict[str, Any] = {
        "lora_attn_modules": attention,
        _MLP: _MLP in decision.on,
        **_output_switch(family, placement),
        "lora_rank": rank,
        "lora_alpha": float(alpha_of(rank, placement.scaling, AdapterSettings())),
        "lora_dropout": placement.settings.dropout,
    }
    trained = rank * decision.parameters_per_rank
    return Rendered(document(placement, _USAGE, fields, losses), trained, losses)


def _output_switch(family: str, placement: Placement) -> dict[str, bool]:
    """Return the switch of the output head, off, where the family's builders know it.

    Builders for tied weights (Gemma, the small Qwen2) have no such parameter and refuse it.
    """
    config = placement.model.config or {}
    tied = family == "qwen2" and config.get("tie_word_embeddings", False)
    return {} if tied or family in ("gemma", "gemma2") else {"apply_lora_to_output": False}


def _check(placement: Placement, rendered: Rendered) -> None:
    fields = yaml.safe_load(rendered.text)
    on = [*fields["lora_attn_modules"], *([_MLP] if fields[_MLP] else [])]
    check_switches(
        placement, rendered, trainer="torchtune", switches=SWITCHES, on=on, rank=fields["lora_rank"]
    )


TARGET = Target(
    name="torchtune",
    file_name="torchtune_model.yaml",
    render=_render,
    check=_check,
    description="Put its lines into the model section of your torchtune LoRA recipe.",
    source="https://pytorch.org/torchtune/stable/tutorials/lora_finetune.html",
    read_by="by the rules of torchtune",
)
