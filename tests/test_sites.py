"""Types are discovered, and printed in the shortest form that keeps them apart."""

from __future__ import annotations

import pytest
import torch
from conftest import make_batch
from torch import nn

import plop_lora as plop
from plop_lora.errors import ModelError, UsageError
from plop_lora.scoring.sites import find_sites

LLAMA_TYPES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
EXPECTED = {
    "llama": LLAMA_TYPES,
    "qwen": LLAMA_TYPES,
    "gpt2": {"c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"},
    "neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "bert": {
        "query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense",
    },
    "t5": {
        *(f"encoder.SelfAttention.{leaf}" for leaf in "qkvo"),
        *(f"decoder.SelfAttention.{leaf}" for leaf in "qkvo"),
        *(f"decoder.EncDecAttention.{leaf}" for leaf in "qkvo"),
        "encoder.wi", "encoder.wo", "decoder.wi", "decoder.wo",
    },
    "vit": {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"},
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_types(models, name: str) -> None:
    """Leaf names alone would merge GPT-2's c_proj, BERT's dense and T5's attentions."""
    found = find_sites(models(name))
    assert {site.type for site in found.sites} == EXPECTED[name]
    assert all(site.layer in (0, 1) for site in found.sites)
    attention = {site.type for site in found.sites if site.role == "attention"}
    mlp_marks = ("mlp", "fc", "dense_", "intermediate", "gate", "up_", "down_", "wi", "wo", "c_fc")
    for entry in EXPECTED[name]:
        is_mlp = entry.startswith(mlp_marks) or entry == "output.dense" or ".w" in entry
        assert (entry in attention) == (not is_mlp), entry


def test_heads_and_poolers_stand_outside(models) -> None:
    """A pooler is scored when asked for, and never proposed."""
    found = find_sites(models("bert"))
    assert [entry.name for entry in found.not_measured] == ["pooler.dense"]
    scores = plop.score(
        models("bert"), batches=[make_batch("bert")], include=["pooler*", "query"], progress=False
    )
    eligible = {row.type: row.eligible for row in scores.types}
    assert eligible == {"pooler.dense": False, "query": True}


def test_include_and_exclude(models) -> None:
    found = find_sites(models("llama"), include=["*self_attn*"], exclude=["k_proj"])
    assert {site.type for site in found.sites} == {"q_proj", "v_proj", "o_proj"}
    with pytest.raises(UsageError, match=r"'q_prj' matches no module. Did you mean 'q_proj'"):
        find_sites(models("llama"), include=["q_prj"])


def test_experts_are_present_not_measured() -> None:
    """Stacked experts must show in the coverage instead of vanishing from it."""
    import transformers

    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, vocab_size=64,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    scores = plop.score(model, batches=[make_batch("llama")], progress=False)
    experts = [entry for entry in scores.coverage.not_measured if "experts" in entry.name]
    assert {entry.parameters for entry in experts} == {4 * 3 * 32 * 48}
    assert scores.coverage.share < 0.2


def test_multimodal_towers_are_their_own_component() -> None:
    """A tower that shares leaf names with the language model must not share its types."""
    import transformers

    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            image_size=16, patch_size=8,
        ),
        text_config=transformers.LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, vocab_size=64,
            num_attention_heads=4,
        ),
    )  # fmt: skip
    found = find_sites(transformers.LlavaForConditionalGeneration(config))
    types = {site.type: site.eligible for site in found.sites}
    assert types["lm.q_proj"] is True
    assert types["vision.q_proj"] is False


def test_no_measurable_site() -> None:
    with pytest.raises(ModelError, match="no measurable site"):
        find_sites(nn.Sequential(nn.LayerNorm(4), nn.Embedding(3, 4)))
