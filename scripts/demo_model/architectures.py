"""The architectures that `pretrain.py` makes networks of, all of about the bundled model's size.

`llama` is the bundled model. The others are pretrained in the same way, so that what is asked of
one network can be asked of other families too: projections that are one weight (`gpt2`), experts
(`mixtral`), and blocks of another kind between those with attention (`lfm2`). Each has six blocks
of width 192 and ties the head to the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import GPT2Config, Lfm2Config, LlamaConfig, MixtralConfig, PreTrainedConfig

WIDTH, BLOCKS, HEADS, POSITIONS = 192, 6, 6, 512


def llama(**tokens: Any) -> PreTrainedConfig:
    """Return the bundled model: about 2.75 million parameters, 5.5 MB in bf16."""
    return LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        **tokens,
    )


def gpt2(**tokens: Any) -> PreTrainedConfig:
    """Return a GPT-2 of 3.2 million parameters, whose queries, keys and values are one weight.

    There is no dropout: the data are seen less than once.
    """
    return GPT2Config(
        n_embd=WIDTH,
        n_layer=BLOCKS,
        n_head=HEADS,
        n_positions=POSITIONS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **tokens,
    )


def mixtral(**tokens: Any) -> PreTrainedConfig:
    """Return a mixture of four experts, of which two see each token: 4.8 million parameters.

    The experts of a block are one weight of three dimensions, with the gate and the up projection
    in one.
    """
    return MixtralConfig(
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=POSITIONS,
        sliding_window=None,
        tie_word_embeddings=True,
        **tokens,
    )


def lfm2(**tokens: Any) -> PreTrainedConfig:
    """Return an LFM2 of 3.1 million parameters: gated short convolutions, every third attention."""
    return Lfm2Config(
        hidden_size=WIDTH,
        intermediate_size=512,
        block_auto_adjust_ff_dim=False,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        layer_types=["conv", "conv", "full_attention"] * (BLOCKS // 3),
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        **tokens,
    )


ARCHITECTURES: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": llama,
    "gpt2": gpt2,
    "mixtral": mixtral,
    "lfm2": lfm2,
}
