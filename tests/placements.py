"""Placements written by hand over model skeletons: no weights, no scoring, any architecture."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import builders
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from plop_lora.demo import MODEL
from plop_lora.models.loading import describe, load_skeleton
from plop_lora.records import UNSCORED, AdapterSettings, PlacedSite, Placement

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 64,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}


def _skeleton(architecture: str, config_class: str, **settings: object) -> nn.Module:
    config = getattr(transformers, config_class)(**settings)
    with torch.device("meta"):
        return getattr(transformers, architecture)(config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bundled": lambda: load_skeleton(str(MODEL)),
    "llama": lambda: _skeleton("LlamaForCausalLM", "LlamaConfig", **SMALL),
    "bert": lambda: _skeleton("BertModel", "BertConfig", **SMALL),
    "gpt2": lambda: _skeleton(
        "GPT2LMHeadModel", "GPT2Config", n_embd=32, n_layer=3, n_head=4, vocab_size=64
    ),
    "classifier": lambda: _skeleton("LlamaForSequenceClassification", "LlamaConfig", **SMALL),
    "qwen3_moe": lambda: _skeleton(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", **SMALL, **EXPERTS, num_experts=4, head_dim=8,
        mlp_only_layers=[0],
    ),
    "qwen2_moe": lambda: _skeleton(
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig", **SMALL, **EXPERTS, num_experts=4,
        shared_expert_intermediate_size=24,
    ),
    "deepseek_v3": lambda: _skeleton(
        "DeepseekV3ForCausalLM", "DeepseekV3Config", **{**SMALL, "num_key_value_heads": 4},
        **EXPERTS, n_routed_experts=4, n_group=1, topk_group=1, n_shared_experts=1,
        first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4,
        qk_nope_head_dim=4, v_head_dim=8,
    ),
    "mixtral": lambda: _skeleton(
        "MixtralForCausalLM", "MixtralConfig", **SMALL, num_local_experts=4
    ),
    "olmoe": lambda: _skeleton(
        "OlmoeForCausalLM", "OlmoeConfig", **SMALL, num_experts=4, num_experts_per_tok=2,
        eos_token_id=1,
    ),
    "gpt_oss": lambda: _skeleton(
        "GptOssForCausalLM", "GptOssConfig", **SMALL, num_local_experts=4, head_dim=8,
        num_experts_per_tok=2,
    ),
    "qwen2_5_vl": lambda: _skeleton(
        "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", text_config=SMALL,
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4,
                       "out_hidden_size": 32},
    ),
    "gemma3": lambda: _skeleton(
        "Gemma3ForConditionalGeneration", "Gemma3Config", text_config={**SMALL, "head_dim": 8},
        vision_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                       "num_attention_heads": 4, "image_size": 56, "patch_size": 14},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Weight:
    """A weight that could carry an adapter: its place, and what one rank costs."""

    name: str
    path: str
    layer: int
    cost: int
    copies: int
    is_parameter: bool


def _weights(model: nn.Module) -> list[_Weight]:
    found = []
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        match = re.fullmatch(r"(.*?)\.(\d+)\.(.*)", name.removesuffix(".weight"))
        if match is None:
            continue
        short, layer, path = name.removesuffix(".weight"), int(match[2]), match[3]
        if "visual" in match[1] or "vision" in match[1]:
            path = f"vision.{path}"
        elif "language_model" in match[1]:
            path = f"lm.{path}"
        if isinstance(owner, nn.Linear | Conv1D) and name.endswith("weight"):
            found.append(_Weight(short, path, layer, sum(parameter.shape), 1, False))
        elif parameter.ndim == 3:
            copies, *sides = parameter.shape
            found.append(_Weight(short, path, layer, copies * sum(sides), copies, True))
        elif parameter.ndim == 2:
            found.append(_Weight(short, path, layer, 0, 1, False))  # a router: never placed
    return found


def placed(
    model_name: str,
    ranks: Mapping[str, int | tuple[int, ...]],
    *,
    layers: tuple[int, ...] | None = None,
    scaling: float = 2.0,
    **settings: object,
) -> Placement:
    """Return a placement by hand.

    Args:
        model_name: a key of `MODELS`.
        ranks: path inside the block → rank, or one rank per layer in turn.
        layers: only these; by default all.
        scaling: the factor in front of B·A.
        settings: fields of `AdapterSettings`.
    """
    model = MODELS[model_name]()
    made = AdapterSettings(**settings)
    sites, untouched = [], []
    for weight in _weights(model):
        rank = ranks.get(weight.path, 0)
        rank = rank[weight.layer % len(rank)] if isinstance(rank, tuple) else rank
        if not rank or (layers is not None and weight.layer not in layers):
            untouched.append(weight.name)
            continue
        alpha = scaling * (rank**0.5 if made.rslora else rank)
        sites.append(
            PlacedSite(
                weight.name, weight.path, weight.layer, rank, alpha, rank * weight.cost,
                weight.copies, weight.is_parameter,
            )
        )  # fmt: skip
    missing = ranks.keys() - {site.type for site in sites}
    assert not missing, f"{model_name} has no {missing}"
    return builders.placement(
        model=describe(model, f"tiny/{model_name}"), strategy="custom", verdict=UNSCORED,
        sites=tuple(sites), scaling=scaling, untouched=tuple(untouched), settings=made,
    )  # fmt: skip


ATTENTION = {"self_attn.q_proj": 8, "self_attn.o_proj": 8}
GATED = {"mlp.gate_proj": 4, "mlp.down_proj": 4}
STACKED = {"mlp.experts.gate_up_proj": 2, "mlp.experts.down_proj": 4}

CASES: dict[str, Callable[[], Placement]] = {
    "llama": lambda: placed("llama", {**ATTENTION, "mlp.down_proj": 8}),
    "llama-mixed-ranks": lambda: placed(
        "llama", {"self_attn.o_proj": (5, 6, 7), "self_attn.v_proj": 4, "mlp.down_proj": (5, 4)}
    ),
    "llama-one-type": lambda: placed("llama", {"self_attn.o_proj": 8}),
    "llama-one-module": lambda: placed("llama", {"self_attn.o_proj": 8}, layers=(1,)),
    "llama-layers": lambda: placed("llama", ATTENTION, layers=(0, 2)),
    "llama-rslora": lambda: placed("llama", {"self_attn.o_proj": (5, 6, 7)}, rslora=True),
    "llama-dropout": lambda: placed("llama", ATTENTION, dropout=0.1),
    "llama-odd-scaling": lambda: placed("llama", {"self_attn.o_proj": (5, 6)}, scaling=1.25),
    "classifier": lambda: placed("classifier", ATTENTION),
    "bert-attention-dense": lambda: placed("bert", {"attention.output.dense": 8}),
    "bert-output-dense": lambda: placed("bert", {"output.dense": (8, 4), "intermediate.dense": 8}),
    "gpt2": lambda: placed("gpt2", {"attn.c_proj": 8, "mlp.c_fc": 8}),
    "qwen3_moe-attention": lambda: placed("qwen3_moe", ATTENTION),
    "qwen3_moe-one-type": lambda: placed("qwen3_moe", {"self_attn.o_proj": 8}),
    "qwen3_moe-dense": lambda: placed("qwen3_moe", {**ATTENTION, **GATED}),
    "qwen3_moe-experts": lambda: placed("qwen3_moe", STACKED),
    "qwen3_moe-down-only": lambda: placed("qwen3_moe", {"mlp.experts.down_proj": 4}),
    "qwen3_moe-everything": lambda: placed(
        "qwen3_moe", {**ATTENTION, "mlp.down_proj": 3, **STACKED}, dropout=0.1
    ),
    "qwen3_moe-expert-layers": lambda: placed(
        "qwen3_moe", {**STACKED, "self_attn.o_proj": 8}, layers=(1,)
    ),
    "qwen2_moe-shared": lambda: placed(
        "qwen2_moe",
        {"mlp.shared_expert.down_proj": 8, "mlp.experts.down_proj": 2, "self_attn.v_proj": 4},
    ),
    "deepseek_v3-shared": lambda: placed(
        "deepseek_v3", {"mlp.shared_experts.down_proj": 4, "self_attn.o_proj": 8}
    ),
    "deepseek_v3-dense": lambda: placed(
        "deepseek_v3", {"mlp.down_proj": 4, "self_attn.kv_b_proj": 8}
    ),
    "deepseek_v3-everything": lambda: placed(
        "deepseek_v3",
        {"mlp.shared_experts.up_proj": 4, "mlp.up_proj": 3, "self_attn.q_a_proj": 2, **STACKED},
    ),
    "mixtral": lambda: placed("mixtral", {**STACKED, "self_attn.q_proj": 8}),
    "olmoe": lambda: placed("olmoe", {"mlp.experts.gate_up_proj": (2, 3), "self_attn.o_proj": 8}),
    "gpt_oss": lambda: placed("gpt_oss", {**STACKED, "self_attn.o_proj": 8}),
    "qwen2_5_vl": lambda: placed("qwen2_5_vl", {"lm.mlp.down_proj": 8, "lm.self_attn.o_proj": 4}),
    "qwen2_5_vl-vision": lambda: placed(
        "qwen2_5_vl", {"vision.mlp.down_proj": 8, "vision.attn.proj": 8}
    ),
    "qwen2_5_vl-proj": lambda: placed("qwen2_5_vl", {"vision.attn.proj": 8}),
    "qwen2_5_vl-qkv": lambda: placed("qwen2_5_vl", {"vision.attn.qkv": 8, "lm.mlp.up_proj": 8}),
    "gemma3": lambda: placed("gemma3", {"lm.self_attn.q_proj": 8, "lm.self_attn.o_proj": 8}),
}
