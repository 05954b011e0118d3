"""Every architecture family the project promises, small, from its config, with random weights.

`FAMILIES` maps a name to a builder. Sizes are chosen so that every side of a matrix differs from
its neighbours where the architecture allows it: a transposed or wrongly sliced weight must show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t
from torch import nn

VOCABULARY = 96
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
MULTIMODAL_ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def _without(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in names}


def causal(config: str, model: str, **extra: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return getattr(t, model)(getattr(t, config)(**(DECODER | extra)))

    return build


def _encoder(config: str, model: str, **extra: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return getattr(t, model)(getattr(t, config)(**(ENCODER | extra)))

    return build


def _gpt2() -> nn.Module:
    config = t.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_inner=48, vocab_size=VOCABULARY, n_positions=64
    )
    return t.GPT2LMHeadModel(config)


def _opt() -> nn.Module:
    config = t.OPTConfig(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=VOCABULARY, word_embed_proj_dim=32, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    return t.OPTForCausalLM(config)


def _bloom() -> nn.Module:
    config = t.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=VOCABULARY)
    return t.BloomForCausalLM(config)


def _falcon(**extra: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        settings = _without(DECODER, "num_key_value_heads", "intermediate_size")
        return t.FalconForCausalLM(t.FalconConfig(**settings, **extra))

    return build


def _t5() -> nn.Module:
    config = t.T5Config(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=VOCABULARY,
        decoder_start_token_id=0,
    )  # fmt: skip
    return t.T5ForConditionalGeneration(config)


def _bart() -> nn.Module:
    config = t.BartConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    return t.BartForConditionalGeneration(config)


def _whisper() -> nn.Module:
    config = t.WhisperConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=20, max_target_positions=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return t.WhisperForConditionalGeneration(config)


def _clip() -> nn.Module:
    config = t.CLIPConfig(
        text_config=ENCODER | {"eos_token_id": 2}, vision_config=VISION, projection_dim=16
    )
    return t.CLIPModel(config)


def _siglip() -> nn.Module:
    return t.SiglipModel(t.SiglipConfig(text_config=ENCODER, vision_config=VISION))


def _qwen2_5_vl() -> nn.Module:
    config = t.Qwen2_5_VLConfig(
        text_config=DECODER | {"rope_parameters": MULTIMODAL_ROPE},
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4,
            "out_hidden_size": 32, "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1],
        },
        image_token_id=90, video_token_id=91, vision_start_token_id=92, vision_end_token_id=93,
    )  # fmt: skip
    return t.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl() -> nn.Module:
    config = t.Qwen3VLConfig(
        text_config=DECODER | {"head_dim": 8, "rope_parameters": MULTIMODAL_ROPE},
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4,
            "out_hidden_size": 32, "patch_size": 4, "deepstack_visual_indexes": [0],
            "num_position_embeddings": 16,
        },
        image_token_id=90, video_token_id=91, vision_start_token_id=92, vision_end_token_id=93,
    )  # fmt: skip
    return t.Qwen3VLForConditionalGeneration(config)


def _gemma3_multimodal() -> nn.Module:
    config = t.Gemma3Config(
        text_config=DECODER | {"head_dim": 8, "sliding_window": 16},
        vision_config=VISION,
        mm_tokens_per_image=4, image_token_index=90, boi_token_index=91, eoi_token_index=92,
    )  # fmt: skip
    return t.Gemma3ForConditionalGeneration(config)


def _qwen3_5_text(**extra: Any) -> dict[str, Any]:
    return DECODER | {
        "head_dim": 16, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention"], **extra,
    }  # fmt: skip


_LINEAR_ATTENTION = _without(_qwen3_5_text(), *DECODER)
LATENT = {
    "q_lora_rank": 12, "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
    "v_head_dim": 7, "num_key_value_heads": 4, "moe_intermediate_size": 24,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "n_group": 2, "topk_group": 2, "topk_method": "greedy",
}  # fmt: skip
_MAMBA = {
    "mamba_d_state": 4, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2,
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 8,
}  # fmt: skip

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": causal("LlamaConfig", "LlamaForCausalLM"),
    "mistral": causal("MistralConfig", "MistralForCausalLM"),
    "qwen2": causal("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": causal("Qwen3Config", "Qwen3ForCausalLM", head_dim=10),
    "gemma2": causal("Gemma2Config", "Gemma2ForCausalLM", head_dim=10),
    "gemma3": causal("Gemma3TextConfig", "Gemma3ForCausalLM", head_dim=10, sliding_window=16),
    "phi3": causal("Phi3Config", "Phi3ForCausalLM"),
    "gpt2": _gpt2,
    "opt": _opt,
    "gpt_neox": causal("GPTNeoXConfig", "GPTNeoXForCausalLM"),
    "falcon": _falcon(multi_query=True),
    "falcon_heads": _falcon(multi_query=False),
    "falcon_new": _falcon(new_decoder_architecture=True, num_kv_heads=2),
    "bloom": _bloom,
    "mixtral": causal("MixtralConfig", "MixtralForCausalLM", num_local_experts=4),
    "qwen2_moe": causal(
        "Qwen2MoeConfig", "Qwen2MoeForCausalLM", **EXPERTS, shared_expert_intermediate_size=40
    ),
    "qwen3_moe": causal("Qwen3MoeConfig", "Qwen3MoeForCausalLM", **EXPERTS, head_dim=8),
    "olmoe": causal("OlmoeConfig", "OlmoeForCausalLM", num_experts=4, num_experts_per_tok=2),
    "deepseek_v2": causal("DeepseekV2Config", "DeepseekV2ForCausalLM", **LATENT),
    "deepseek_v3": causal("DeepseekV3Config", "DeepseekV3ForCausalLM", **LATENT),
    "gpt_oss": causal(
        "GptOssConfig", "GptOssForCausalLM", num_local_experts=4, num_experts_per_tok=2, head_dim=8
    ),
    "granite_moe_hybrid": causal(
        "GraniteMoeHybridConfig", "GraniteMoeHybridForCausalLM", num_local_experts=4,
        num_experts_per_tok=2, shared_intermediate_size=40, layer_types=["mamba", "attention"],
        position_embedding_type="rope", **_MAMBA,
    ),
    "nemotron_h": causal(
        "NemotronHConfig", "NemotronHForCausalLM", layers_block_type=["mamba", "attention", "mlp",
        "moe"], mamba_num_heads=8, mamba_head_dim=8, ssm_state_size=4, n_groups=2, chunk_size=8,
        n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8,
        moe_shared_expert_intermediate_size=40, n_group=1, topk_group=1, num_hidden_layers=4,
    ),
    "llama4": causal(
        "Llama4TextConfig", "Llama4ForCausalLM", num_local_experts=4, num_experts_per_tok=1,
        intermediate_size_mlp=56, interleave_moe_layer_step=2, head_dim=8,
        attention_chunk_size=32,
    ),
    "qwen3_next": causal(
        "Qwen3NextConfig", "Qwen3NextForCausalLM", **EXPERTS, **_LINEAR_ATTENTION,
        shared_expert_intermediate_size=40,
    ),
    "qwen3_5": causal("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", **_LINEAR_ATTENTION),
    "falcon_h1": causal("FalconH1Config", "FalconH1ForCausalLM", mamba_d_ssm=64, **_MAMBA),
    "mamba2": causal(
        "Mamba2Config", "Mamba2ForCausalLM", num_heads=8, head_dim=8, state_size=4, n_groups=2,
        chunk_size=8,
    ),
    "bert": _encoder("BertConfig", "BertForMaskedLM"),
    "modernbert": _encoder(
        "ModernBertConfig", "ModernBertForMaskedLM", cls_token_id=1, sep_token_id=2,
        bos_token_id=1, eos_token_id=2,
    ),
    "roberta": _encoder("RobertaConfig", "RobertaForMaskedLM"),
    "deberta": _encoder(
        "DebertaV2Config", "DebertaV2ForMaskedLM", relative_attention=True,
        pos_att_type=["p2c", "c2p"],
    ),
    "t5": _t5,
    "bart": _bart,
    "whisper": _whisper,
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**VISION)),
    "siglip": _siglip,
    "clip": _clip,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "gemma3_multimodal": _gemma3_multimodal,
}  # fmt: skip


def build(name: str) -> nn.Module:
    """Return a seeded model of a family, in eval mode, with biases that are not zero."""
    torch.manual_seed(0)
    model = FAMILIES[name]().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


def rows_of(name: str, *, rows: int = 5, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Return inputs of a family, one example each, of different lengths, without padding."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int = 4, high: int = 12) -> torch.Tensor:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, VOCABULARY - 10, (1, length), generator=generator)

    def image(size: int = 16) -> torch.Tensor:
        return torch.randn(1, 3, size, size, generator=generator)

    examples = []
    for _ in range(rows):
        if name == "vit":
            examples.append({"pixel_values": image()})
        elif name == "whisper":
            sound = torch.randn(1, 8, 40, generator=generator)
            examples.append({"input_features": sound, "decoder_input_ids": tokens()})
        elif name in ("clip", "siglip"):
            ids = tokens()
            ids[0, -1] = 2  # CLIP pools at the end token
            examples.append({"input_ids": ids, "pixel_values": image()})
        elif name in ("t5", "bart"):
            examples.append({"input_ids": tokens(), "decoder_input_ids": tokens()})
        else:
            examples.append({"input_ids": tokens()})
    return examples


def batch_of(name: str, **options: int) -> dict[str, torch.Tensor]:
    """Return the same inputs as one right-padded batch with masks."""
    examples = rows_of(name, **options)
    batch = {}
    for key, first in examples[0].items():
        values = [example[key] for example in examples]
        if not key.endswith("input_ids"):
            batch[key] = torch.cat(values)
            continue
        width = max(value.shape[1] for value in values)
        # The two sides of an encoder-decoder are told apart by their width.
        width += (
            key.startswith("decoder") and width == batch.get("input_ids", first[:, :0]).shape[1]
        )
        pads = [(0, width - value.shape[1]) for value in values]
        batch[key] = torch.cat(
            [nn.functional.pad(v, p, value=0) for v, p in zip(values, pads, strict=True)]
        )
        mask = [nn.functional.pad(torch.ones_like(v), p) for v, p in zip(values, pads, strict=True)]
        batch[key.replace("input_ids", "attention_mask")] = torch.cat(mask)
    return batch
