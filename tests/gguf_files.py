"""Llama models as GGUF files, written with the `gguf` package as llama.cpp's converter does."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=260, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
)  # fmt: skip
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "model.layers": "blk",
}  # fmt: skip
HEADS = {"attn_q": CONFIG.num_attention_heads, "attn_k": CONFIG.num_key_value_heads}
F32 = gguf.GGMLQuantizationType.F32


def write_gguf(
    path: Path,
    kind: gguf.GGMLQuantizationType = F32,
    *,
    architecture: str = "llama",
    tokenizer: str | None = "gpt2",
    pre_tokenizer: str = "default",
    parts: int = 1,
) -> LlamaForCausalLM:
    """Write a random Llama as a GGUF and return it with the weights that the file stands for.

    Matrices are of one kind and vectors in float32, as llama.cpp has it.
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    writer = gguf.GGUFWriter(path, architecture)
    _write_fields(writer, tokenizer, pre_tokenizer)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        stem = _renamed(name.removesuffix(".weight"))
        heads = HEADS.get(stem.rpartition(".")[2], 0)
        stored = _paired(weight, heads) if heads else weight
        if stored.ndim == 1:
            writer.add_tensor(f"{stem}.weight", stored)
            continue
        packed = gguf.quantize(stored, kind)
        writer.add_tensor(f"{stem}.weight", packed, raw_dtype=kind)
        read = gguf.dequantize(packed, kind).reshape(weight.shape).astype(np.float32)
        parameter.data = torch.from_numpy(_unpaired(read, heads) if heads else read)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _write_fields(writer: gguf.GGUFWriter, tokenizer: str | None, pre_tokenizer: str) -> None:
    writer.add_name("tiny")
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(CONFIG.vocab_size)
    if tokenizer is not None:
        writer.add_tokenizer_model(tokenizer)
        writer.add_tokenizer_pre(pre_tokenizer)
        writer.add_token_list(
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_letters(), "ĠĠ"]
        )
        writer.add_token_types([3, 3, 3, *[1] * 257])
        writer.add_token_merges(["Ġ Ġ"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(2)
        writer.add_add_bos_token(False)


def byte_letters() -> list[str]:
    """The 256 letters of byte-level BPE, in the order of their bytes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [bytes_to_unicode()[byte] for byte in range(256)]


def _renamed(name: str) -> str:
    for there, here in NAMES.items():
        name = name.replace(there, here)
    return name


def _paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Put the two halves of each head's rotary pairs side by side, as llama.cpp has them."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _unpaired(weight: np.ndarray, heads: int) -> np.ndarray:
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))
