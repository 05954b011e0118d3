"""Tiny models built from configs, offline, once a session."""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
import transformers
from torch import nn

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64}
HEADS = {"num_attention_heads": 4}


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(**SMALL, **HEADS, num_key_value_heads=2, pad_token_id=0)
    return transformers.LlamaForCausalLM(config)


def _qwen() -> nn.Module:
    config = transformers.Qwen3Config(**SMALL, **HEADS, num_key_value_heads=2, head_dim=8)
    return transformers.Qwen3ForCausalLM(config)


def _gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def _neox() -> nn.Module:
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SMALL, **HEADS))


def _opt() -> nn.Module:
    config = transformers.OPTConfig(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, vocab_size=64, word_embed_proj_dim=32,
        max_position_embeddings=64, **HEADS,
    )  # fmt: skip
    return transformers.OPTForCausalLM(config)


def _bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**SMALL, **HEADS))


def _t5() -> nn.Module:
    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=64,
        decoder_start_token_id=0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def _vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, image_size=16, patch_size=8,
        **HEADS,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": _llama,
    "qwen": _qwen,
    "gpt2": _gpt2,
    "neox": _neox,
    "opt": _opt,
    "bert": _bert,
    "t5": _t5,
    "vit": _vit,
}


def build(name: str) -> nn.Module:
    """Return a seeded model of a family, in eval mode, with biases that are not zero."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(scope="session")
def models() -> Callable[[str], nn.Module]:
    cache: dict[str, nn.Module] = {}

    def get(name: str) -> nn.Module:
        if name not in cache:
            cache[name] = build(name)
        return cache[name]

    return get


def make_batch(name: str, *, rows: int = 6, seed: int = 1) -> dict[str, torch.Tensor]:
    """Return a batch of ragged, right-padded rows that suits a family."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}
    lengths = torch.randint(3, 12, (rows,), generator=generator)
    width = int(lengths.max())
    ids = torch.randint(3, 64, (rows, width), generator=generator)
    mask = (torch.arange(width) < lengths[:, None]).long()
    inputs = {"input_ids": ids * mask, "attention_mask": mask}
    if name == "t5":
        inputs["decoder_input_ids"] = torch.randint(3, 64, (rows, width + 2), generator=generator)
        inputs["decoder_attention_mask"] = torch.ones(rows, width + 2, dtype=torch.long)
    return inputs


class WordTokenizer:
    """Counts words as tokens; has no pad token, as some real tokenizers."""

    model_max_length = 10**9
    pad_token_id = None
    chat_template = None

    def __init__(self, vocabulary: int = 61) -> None:
        self.vocabulary = vocabulary

    def __call__(self, text: str, **options: object) -> dict[str, list[int]]:
        return {"input_ids": [3 + sum(word.encode()) % self.vocabulary for word in text.split()]}


@pytest.fixture
def tokenizer() -> WordTokenizer:
    return WordTokenizer()


TEXTS = [f"{'word ' * (n % 7 + 1)} number {n} and {n * n}" for n in range(24)]


@pytest.fixture
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture(scope="session")
def scores(models: Callable[[str], nn.Module]):
    import plop_lora as plop

    return plop.score(models("llama"), WordTokenizer(), TEXTS, progress=False)
