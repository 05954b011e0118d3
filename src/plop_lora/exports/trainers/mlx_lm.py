"""A placement for mlx-lm: keys inside a block, or full names for some layers; one rank.

mlx-lm first looks the keys up inside each of the last `num_layers` blocks, then as full names in
the whole model. So a key inside the block means all layers, a full name one weight. Its models
split the stacked experts that transformers fuses, and some stand under another name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

from plop_lora.errors import ExportError
from plop_lora.exports.fragment import (
    document,
    model_type,
    nothing_left,
    one_rank,
    rank_losses,
    settings_losses,
)
from plop_lora.exports.target import Loss, Rendered, Target
from plop_lora.records import Host, Placement


@dataclass(frozen=True, slots=True)
class Family:
    """How mlx-lm's names differ from transformers'.

    Attributes:
        blocks: The full name of the list of blocks.
        experts: The path inside a block of the stacked experts, None where there are none.
        absent: Last words of weights that mlx-lm has not, or not under this name.
    """

    blocks: str = "model.layers"
    experts: str | None = None
    absent: tuple[str, ...] = ()


_PLAIN = ("cohere", "cohere2", "ernie4_5", "falcon_h1", "gemma", "gemma2", "gemma3_text",
          "gemma4_text", "glm", "glm4", "granite", "helium", "internlm3", "iquestcoder", "lfm2",
          "llama", "ministral3", "mistral", "olmo2", "olmo3", "phi", "phi3", "qwen2", "qwen3",
          "recurrent_gemma", "seed_oss", "stablelm", "starcoder2")  # fmt: skip
_SWITCH = ("ernie4_5_moe", "glm4_moe", "mellum", "olmoe", "qwen2_moe", "qwen3_moe",
           "qwen3_next")  # fmt: skip

FAMILIES: dict[str, Family] = {
    **{name: Family() for name in _PLAIN},
    **{name: Family(experts="mlp.switch_mlp") for name in _SWITCH},
    "afmoe": Family(experts="mlp.experts"),
    "gpt_oss": Family(experts="mlp.experts"),
    "granitemoe": Family(experts="block_sparse_moe.switch_mlp"),
    "mixtral": Family(experts="block_sparse_moe.switch_mlp", absent=("gate",)),
    "phimoe": Family(experts="block_sparse_moe.switch_mlp", absent=("router",)),
    "deepseek_v3": Family(experts="mlp.switch_mlp", absent=("kv_b_proj",)),
    "glm4_moe_lite": Family(experts="mlp.switch_mlp", absent=("kv_b_proj",)),
    "gpt2": Family(blocks="model.h"),
    "gpt_neox": Family(blocks="model.h"),
    "gptj": Family(blocks="model.h"),
    "mamba": Family(blocks="backbone.layers"),
}
"""Families whose names were compared with mlx-lm 0.32, weight by weight."""

_FUSED_EXPERTS = {"gate_up_proj": ("gate_proj", "up_proj")}
_USAGE = (
    "mlx_lm.lora --config THIS_FILE --train --data FOLDER (add the learning rate and the number of",
    "iterations there or here)",
)


def _render(placement: Placement) -> Rendered:
    if not re.search(r"(CausalLM|LMHeadModel)$", placement.model.architecture):
        raise ExportError(
            f"mlx-lm trains causal language models, and this is a {placement.model.architecture}. "
            "Export to another trainer: --to peft."
        )
    family_name = model_type(placement, "mlx-lm")
    family = FAMILIES.get(family_name, Family())
    placed = {site.name for site in placement.sites}
    kept = [host for host in placement.hosts if host.name in placed and _keys(host, family)]
    if not kept:
        raise nothing_left("mlx-lm", "none of its weights stands in a block of mlx-lm's model")
    per_rank = sum(_cost(host, family) for host in kept)
    rank = one_rank(placement, per_rank)
    losses = (
        *_family_losses(family_name),
        *_name_losses(placement, kept, family),
        *rank_losses(placement, rank),
        *settings_losses(placement),
    )
    fields: dict[str, Any] = {
        "model": placement.model.name,
        "fine_tune_type": "lora",
        "num_layers": -1,
        "lora_parameters": {
            "keys": _all_keys(placement, kept, family),
            "rank": rank,
            "scale": float(placement.scaling),
            "dropout": placement.settings.dropout,
        },
    }
    return Rendered(document(placement, _USAGE, fields, losses), rank * per_rank, losses)


def _all_keys(placement: Placement, kept: list[Host], family: Family) -> list[str]:
    """Return keys inside the block where all layers are placed, else full names."""
    placed = {host.name for host in kept}
    layers: dict[str, list[str]] = defaultdict(list)
    everywhere: dict[str, bool] = defaultdict(lambda: True)
    names = [host.name for host in placement.hosts] + list(placement.untouched)
    for name in dict.fromkeys(names):
        for key in _keys_of(name, family):
            everywhere[key] &= name in placed
            if name in placed:
                layers[key].append(_layer(name))
    keys = []
    for key, numbers in layers.items():
        full = [f"{family.blocks}.{number}.{key}" for number in numbers]
        keys += [key] if everywhere[key] else full
    return keys


def _keys(host: Host, family: Family) -> tuple[str, ...]:
    return _keys_of(host.name, family)


def _keys_of(name: str, family: Family) -> tuple[str, ...]:
    """Return mlx-lm's names of a weight inside its block; none where it has none."""
    match = re.search(r"\.\d+\.(.*)", name)
    if match is None or match[1].rsplit(".", 1)[-1] in family.absent:
        return ()
    path = match[1]
    stacked = re.fullmatch(r"(?:.*\.)?experts\.(\w+)", path)
    if stacked is None:
        return (path,)
    if family.experts is None:
        return ()
    return tuple(
        f"{family.experts}.{leaf}" for leaf in _FUSED_EXPERTS.get(stacked[1], (stacked[1],))
    )


def _layer(name: str) -> str:
    match = re.search(r"\.(\d+)\.", name)
    assert match is not None, name
    return match[1]


def _cost(host: Host, family: Family) -> int:
    """Return the parameters of a rank unit; parts that mlx-lm splits have an A each."""
    return host.copies * (len(_keys(host, family)) * host.in_features + host.out_features)


def _family_losses(family: str) -> tuple[Loss, ...]:
    if family in FAMILIES:
        return ()
    what = f"certainty about the family {family!r}"
    effect = "its names in mlx-lm were not compared; compare the number of trainable parameters"
    return (Loss(what, effect),)


def _name_losses(placement: Placement, kept: Iterable[Host], family: Family) -> list[Loss]:
    """Return the losses of weights that mlx-lm has not, or splits."""
    names = {host.name for host in kept}
    dropped = dict.fromkeys(site.type for site in placement.sites if site.name not in names)
    split = dict.fromkeys(host.type for host in kept if len(_keys(host, family)) > 1)
    outside = {site.type for site in placement.sites if not re.search(r"\.\d+\.", site.name)}
    absent, beside = "mlx-lm has no such weight", "it stands outside the blocks"
    losses = [
        Loss(name, f"not trained, {beside if name in outside else absent}") for name in dropped
    ]
    losses += [
        Loss(f"the one A of {name}", "gate and up get an A each, which is more parameters")
        for name in split
    ]
    return losses


def _check(placement: Placement, rendered: Rendered) -> None:
    """Look the keys up as mlx-lm does: inside each block, then as full names."""
    from plop_lora.exports.readback import compare, weights_of

    fields = yaml.safe_load(rendered.text)["lora_parameters"]
    family = FAMILIES.get(model_type(placement, "mlx-lm"), Family())
    keys = set(fields["keys"])
    reached = [
        site.host
        for site in weights_of(placement)
        if any(
            {key, f"{family.blocks}.{_layer(site.host.name)}.{key}"} & keys
            for key in _keys(site.host, family)
        )
    ]
    meant = {site.name for site in placement.sites if _keys_of(site.name, family)}
    compare(
        rendered, meant, reached,
        lambda hosts: fields["rank"] * sum(_cost(host, family) for host in hosts),
    )  # fmt: skip


TARGET = Target(
    name="mlx-lm",
    file_name="mlx_lora.yaml",
    render=_render,
    check=_check,
    description="mlx_lm.lora --config {file} --train --data DATA_FOLDER",
    source="https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/LORA.md",
    read_by="by the rules of mlx-lm",
)
