"""Every family of the installed transformers that reads text, small, from its own config class.

A configuration is taken as its class makes it, and its sizes are made small by what they are
called. Nothing here knows a family by name but `SETTINGS`, which holds what sizes that depend on
each other need, and `NOT_BUILT`, the families that cannot be built so, each with its reason.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto as auto

VOCABULARY = 96
LAYERS = 2
MAPPINGS = (
    auto.MODEL_FOR_MASKED_LM_MAPPING,
    auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    auto.MODEL_MAPPING,
)
SIZES = {
    r"vocab_size\w*|\w*_vocab_size|n_tokens|num_embeddings": VOCABULARY,
    r"(num_|n_)?(hidden_layers|layers|layer|blocks)|(num_)?(encoder|decoder)_layers|num_layers|n_layers?|"
    r"num_(hidden|encoder|decoder)_layers|depth|num_layer": LAYERS,
    r"num_key_value_heads|num_kv_heads|n_kv_heads|multi_query_group_num|n_head_kv|num_attention_groups": 2,
    r"\w*(num_attention_heads|attention_heads|n_heads?|num_heads|n_head|heads)|num_\w*_heads": 4,
    r"hidden_size|d_model|n_embd|dim|embed_dim|embedding_size|model_dim|emb_dim|word_embed_proj_dim|"
    r"lru_width|attention_hidden_size|hidden_dim|width": 32,
    r"head_dim|d_kv|attention_head_size|qk_nope_head_dim|v_head_dim|attention_head_dim|\w*_head_dim|d_head": 8,
    r"qk_rope_head_dim|rotary_dim": 4,
    r"kv_lora_rank|q_lora_rank|\w*_lora_rank": 16,
    r"moe_intermediate_size|shared_expert_intermediate_size|expert_dim|\w*expert_intermediate_size": 24,
    r"intermediate_size\w*|d_ff|d_inner|n_inner|ffn_dim|\w*ffn_dim|ffn_hidden_size|dense_intermediate_size|"
    r"intermediate_dim|\w+_intermediate_size|feedforward\w*": 48,
    r"num_experts_per_tok|moe_top_k|top_k_experts|num_selected_experts|moe_topk|experts_per_token|topk_group": 2,
    r"num_experts|num_local_experts|n_routed_experts|moe_num_experts|encoder_num_experts|decoder_num_experts": 4,
    r"max_position_embeddings|n_positions|n_ctx|max_seq_len\w*|max_sequence_length|max_source_positions|"
    r"max_target_positions|seq_length": 64,
    r"sliding_window|local_attention|attention_window_size|window_size": 8,
    r"max_window_layers": LAYERS,
}  # fmt: skip
