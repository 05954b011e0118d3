"""Every family of the installed transformers that reads text, small, from its own config class.

A configuration is taken as its class makes it, and each of its sizes is made small by what it is
called. `SETTINGS` holds what sizes that depend on each other need, family by family, and
`NOT_BUILT` the families that are not built so, each with its reason.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto as auto

VOCABULARY = 96
_THREE_AXES = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
SETTINGS: dict[str, dict[str, Any]] = {
    "deepseek_v4": {
        "partial_rotary_factor": 0.5,
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 6},
        "index_topk": 2,
    },
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8,
                         "layer_types": ["mamba", "attention"], "num_hidden_layers": 2},
    **{
        name: {"rope_parameters": _THREE_AXES}
        for name in ("qwen2_vl_text", "qwen2_5_vl_text", "glm4v_text", "glm_image_text",
                     "glm_ocr_text")
    },
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 0, "mask_token_id": 2},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "hunyuan_vl_text": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    "perceiver": {"d_latents": 16, "num_latents": 8, "num_self_attends_per_block": 2},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_hidden_layers": 2,
              "expert_layer_period": 2, "expert_layer_offset": 1},
    "reformer": {"axial_pos_embds": False, "hidden_size": 32, "feed_forward_size": 48,
                 "attention_head_size": 8, "attn_layers": ["local", "lsh"],
                 "lsh_attn_chunk_length": 4, "local_attn_chunk_length": 4, "num_buckets": 4},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "longcat_flash": {"head_dim": 4, "ffn_hidden_size": 48, "zero_expert_num": 2},
    "zamba": {"num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid"] * 3},
    "neomme": {"head_dim": 16},
    "glm5_next_text": {"index_topk": 16},
    "bigbird_pegasus": {"block_size": 4, "num_random_blocks": 1},
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
}  # fmt: skip
"""What sizes that depend on each other need; they count before the sizes by name."""

LAYERS = 2
MOST_LAYERS = 6
MAPPINGS = (
    auto.MODEL_FOR_MASKED_LM_MAPPING,
    auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    auto.MODEL_MAPPING,
)
SIZES: dict[str, int] = {
    r"\w*vocab_size\w*|n_tokens": VOCABULARY,
    (
        r"(num_|n_)?(hidden_|encoder_|decoder_|en_|de_)?(hidden_)?(layers?|blocks)|"
        r"depth|\w*num_hidden_layers"
    ): LAYERS,
    r"\w*(num_key_value_heads|kv_heads)|multi_query_group_num|\w*linear_num_key_heads": 2,
    r"(?!index|mamba)\w*(attention_heads|num_heads|n_heads?|num_\w*heads|attn_heads)|heads": 4,
    (
        r"\w*hidden_size\w*|\w*d_model|n_embd|dim|\w*embed_dim|"
        r"embedding_size|\w*emb_dim|lru_width|hidden_dim|width|\w*embedding_dim"
    ): 32,
    r"\w*(head_dim|d_kv|head_size|dim_head|d_head|head_v_dim|head_k_dim)": 8,
    r"\w*qk_rope_head_dim|rotary_dim|qk_pos_emb_head_dim": 4,
    r"\w*lora_(rank|dim)|lora_rank": 16,
    (
        r"\w*(moe|expert\w*)_(intermediate_size|hidden_size|ffn_hidden_size|dim)|"
        r"expert_ffn_hidden_size"
    ): 24,
    (
        r"\w*intermediate_(size|dim)\w*|d_ff|d_inner|n_inner|"
        r"\w*ffn_dim\w*|\w*ffn_hidden_size|ffn_\w*size|mlp_dim|feed\w*"
    ): 48,
    (
        r"\w*(experts_per_tok\w*|moe_top_?k|top_k_experts|num_selected_experts|moe_k)|"
        r"\w*topk_group"
    ): 2,
    r"\w*n_groups?|num_expert_groups?": 2,
    r"\w*(num_experts|num_local_experts|routed_experts|moe_num_experts|num_experts_\w+)": 4,
    (
        r"|"
        r"\w*(max_position_embeddings|n_positions|n_ctx|max_seq\w*|seq_length|source_positions|target_positions)"
    ): 64,
    r"\w*(sliding_window|local_attention|window_size|attention_window|chunk_size)\w*": 8,
    r"(index_)?topk|index_topk": 4,
    r"index_n_heads|index_num_heads": 2,
    r"(mamba_|ssm_)?(d_state|state_size|ssm_state_size)": 8,
    r"\w*dt_rank|time_step_rank": 2,
    r"\w*(image_size|img_size)": 16,
    r"\w*patch_size": 8,
    r"num_mel_bins|\w*n_mels": 8,
}  # fmt: skip
"""Sizes by their whole names; the first that fits counts, from the last to the first."""


def family_names() -> list[str]:
    """Return every model type that has a model class; no code of a model is imported."""
    named = set().union(*(mapping._model_mapping for mapping in MAPPINGS))
    return [name for name in CONFIG_MAPPING if name in named]


def class_of(name: str) -> type[nn.Module] | None:
    """Return the class of a model type, None where it takes no token numbers."""
    config = CONFIG_MAPPING[name]
    for mapping in MAPPINGS:
        kind = mapping.get(config, None)
        if kind is not None:
            first = kind[0] if isinstance(kind, tuple) else kind
            reads = inspect.signature(first.forward).parameters
            return first if "input_ids" in reads else None
    return None


def shrunken(config: type[PreTrainedConfig], settings: dict[str, Any] | None = None) -> Any:
    """Return a configuration of a class with small sizes.

    Args:
        config: its class.
        settings: what counts before the sizes; those of an inner configuration by its name.
    """
    return config(**_small(config(), dict(settings or {})))


def _small(made: PreTrainedConfig, settings: dict[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in vars(made).items() if not name.startswith("_")}
    layers = next((v for n, v in values.items() if n in ("num_hidden_layers", "n_layer")), None)
    chosen = _layers_kept(values, layers)
    small: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, PreTrainedConfig):
            inner = settings.pop(name, None)
            small[name] = type(value)(**_small(value, dict(inner or {})))
        elif name.endswith(("token_id", "token_index", "token_ids")):
            small[name] = _token(name, value)
        elif isinstance(value, list | tuple) and layers and len(value) == layers and layers > 1:
            small[name] = [value[index] for index in chosen]
        elif type(value) is int and _size(name) is not None and value > 0:
            small[name] = min(value, _size(name))
    if chosen and layers:
        small["num_hidden_layers"] = len(chosen)
    heads = next((small[n] for n in ("num_attention_heads", "num_heads") if n in small), None)
    if values.get("num_key_value_heads") == values.get("num_attention_heads"):
        small["num_key_value_heads"] = heads
    if "head_dim" in small and values["head_dim"] == values.get("qk_rope_head_dim"):
        small["head_dim"] = small["qk_rope_head_dim"]
    small |= {name: _rope(value) for name, value in values.items() if name.startswith("rope_p")}
    small = {name: value for name, value in small.items() if value is not None}
    return small | settings


def _rope(value: Any) -> Any:
    """Return rotary settings whose three axes fit a head of eight."""
    if not isinstance(value, dict):
        return value
    made = {key: _rope(inner) for key, inner in value.items()}
    return made | {"mrope_section": [2, 1, 1]} if "mrope_section" in made else made


def _layers_kept(values: dict[str, Any], layers: int | None) -> list[int]:
    """Return one layer of each kind, and as many as two."""
    lists = [v for v in values.values() if isinstance(v, list | tuple) and len(v) == (layers or -1)]
    if not layers or not lists:
        return []
    first: dict[str, int] = {}
    for index, kinds in enumerate(zip(*lists, strict=True)):
        first.setdefault(repr(kinds), index)
    kept = sorted(first.values())[:MOST_LAYERS]
    return kept if len(kept) >= LAYERS else [kept[0]] * LAYERS


def _size(name: str) -> int | None:
    return next((s for pattern, s in reversed(SIZES.items()) if re.fullmatch(pattern, name)), None)


_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def _token(name: str, value: Any) -> Any:
    if not isinstance(value, int):
        return None
    if name in _TOKENS:
        return _TOKENS[name]
    return value if value < 3 else 90 + sum(name.encode()) % 6


def build(name: str) -> nn.Module:
    """Return a seeded model of a type, in eval mode and float32.

    What begins as zeros is drawn as well, as in a trained model: behind a zero nothing learns.
    """
    torch.manual_seed(0)
    model = class_of(name)(shrunken(CONFIG_MAPPING[name], SETTINGS.get(name))).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model


# --------------------------------------------------------------------------- what is not built

NOT_BUILT: dict[str, tuple[str, ...]] = {
    "needs pixels, sounds, boxes or more beside token numbers": (
        "aimv2", "align", "altclip", "blip", "blip-2", "bros", "chameleon", "chinese_clip",
        "clap", "clip", "clipseg", "clvp", "grounding-dino", "groupvit", "idefics",
        "instructblip", "instructblipvideo", "kosmos-2", "lxmert", "metaclip_2",
        "mm-grounding-dino", "owlv2", "owlvit", "pe_audio", "perceiver", "pi0", "pp_formulanet",
        "sam3", "sam3_lite_text", "siglip", "siglip2", "udop", "vilt", "vision-text-dual-encoder",
        "voxtral_realtime", "xclip",
    ),
    "its sizes depend on each other in ways that only its own files know": (
        "bridgetower", "cohere_compass", "cohere_compass_text", "csm", "deepseek_ocr2", "dia",
        "diffusion_gemma", "dots3_note", "ernie4_5_vl_moe", "esmc", "fastspeech2_conformer",
        "fastspeech2_conformer_with_hifigan", "fun_asr_nano", "gemma4_assistant",
        "gemma4_unified_assistant", "glm46v", "glm4v", "glm4v_moe", "glm4v_moe_text", "glm5_next",
        "glm_image", "glm_ocr", "glmga", "gradium_phonon_tts", "granite4_vision", "hunyuan_vl",
        "hunyuan_vl_text", "kyutai_speech_to_text", "layoutlmv3", "lilt", "longcat_flash",
        "mimo_v2_flash", "molmo2", "nemotron", "paddleocr_vl", "pocket_tts",
        "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl", "qwen3_omni_moe_thinker",
        "qwen4_exp_text", "step3p7", "tvp", "vibevoice_asr", "videoprism", "vits",
        "voxtral_realtime_text", "xlstm", "zamba", "zamba2",
    ),
    "takes longer than two seconds even when small": (
        "blt", "dots3_note_text", "vibevoice",
    ),
    "its class reads the inner text configuration, whose own type is tested": (
        "dbrx", "emu3", "llama4", "musicgen", "musicgen_melody", "qwen3_5", "qwen3_5_moe",
        "qwen4_exp", "t5gemma2_encoder",
    ),
    "needs a package that the tests do without": (
        "fast_vlm", "gemma3n", "higgs_audio_v2_tokenizer", "layoutlmv2", "pe_audio_video",
        "pe_video", "perception_lm",
    ),
}  # fmt: skip
"""Families that are not built here, by the reason."""
