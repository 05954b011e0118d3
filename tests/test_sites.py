"""Types are discovered, and printed in the shortest form that keeps them apart."""

from __future__ import annotations

import families
import pytest
import torch
import transformers
from conftest import make_batch
from reference import exact_norm, reference
from torch import nn

import plop_lora as plop
from plop_lora.errors import ModelError, UsageError
from plop_lora.scoring.sites.find import (
    EMBEDDING,
    NOT_SUPPORTED,
    OUTSIDE,
    ROUTER,
    SiteMap,
    find_sites,
)

LLAMA_TYPES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
EXPECTED = {
    "llama": LLAMA_TYPES,
    "qwen": LLAMA_TYPES,
    "gpt2": {*(f"c_attn[{part}]" for part in "qkv"), "attn.c_proj", "c_fc", "mlp.c_proj"},
    "neox": {
        *(f"query_key_value[{part}]" for part in "qkv"), "dense", "dense_h_to_4h", "dense_4h_to_h",
    },
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


def _reasons(found: SiteMap) -> dict[str, str]:
    return {entry.name: entry.reason for entry in found.not_measured}


def test_heads_poolers_and_embeddings_are_left_out_by_rule() -> None:
    """They are scored when asked for, also the head, and never proposed."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**families.ENCODER)
    model = transformers.BertForSequenceClassification(config).eval()
    reasons = _reasons(find_sites(model))
    assert reasons["bert.pooler.dense"] == reasons["classifier"] == OUTSIDE
    assert reasons["bert.embeddings.word_embeddings"] == EMBEDDING
    batch = make_batch("bert")
    asked = ["*pooler*", "query", "classifier", "*word_embeddings"]
    scores = plop.score(model, batches=[batch], include=asked, progress=False)
    eligible = {row.type: row.eligible for row in scores.types}
    assert eligible == {
        "pooler.dense": False, "query": True, "classifier": False, "word_embeddings": False,
    }  # fmt: skip
    assert {c.type for c in plop.place(scores, top=1).choices} == {"query"}
    head = next(site for site in scores.sites if site.name == "classifier")
    assert head.tokens == len(batch["input_ids"])
    table = next(site for site in scores.sites if site.name.endswith("word_embeddings"))
    weight = model.bert.embeddings.word_embeddings.weight.detach()
    ids = batch["input_ids"][batch["attention_mask"].bool()]
    expected = weight[ids].norm(dim=1).mean() / exact_norm(weight.T)
    assert table.nfn == pytest.approx(float(expected), rel=1e-4)


def test_routers_are_scored_on_request() -> None:
    """A router returns its choice and not its product; a gate of one output is no LoRA host."""
    model = families.build("qwen2_moe")
    reasons = _reasons(find_sites(model))
    assert reasons["model.layers.0.mlp.gate"] == ROUTER
    assert reasons["model.layers.0.mlp.shared_expert_gate"] == ROUTER
    for name, pattern in [("qwen2_moe", "*.mlp.gate"), ("llama4", "*.router")]:
        rows = families.rows_of(name)
        scores = plop.score(families.build(name), batches=rows, include=[pattern], progress=False)
        expected = reference(families.build(name), rows, include=[pattern])
        measured = {site.name: (site.nfn, site.tokens) for site in scores.sites}
        assert measured.keys() == expected.keys() != set()
        for site, value in expected.items():
            assert measured[site] == pytest.approx(value, rel=1e-4)


def test_include_and_exclude(models) -> None:
    found = find_sites(models("llama"), include=["*self_attn*"], exclude=["k_proj"])
    assert {site.type for site in found.sites} == {"q_proj", "v_proj", "o_proj"}
    with pytest.raises(UsageError, match=r"'q_prj' matches no module. Did you mean 'q_proj'"):
        find_sites(models("llama"), include=["q_prj"])


def test_unknown_experts_are_present_not_measured() -> None:
    """3-D weights without a description must show in the coverage instead of vanishing from it."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stacked = nn.Parameter(torch.randn(4, 8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.stacked.mean(dim=0)

    torch.manual_seed(0)
    block = nn.ModuleDict({"q": nn.Linear(8, 8), "experts": Experts()})

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([block])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[0]["experts"](self.layers[0]["q"](x))

    scores = plop.score(Net(), batches=[{"x": torch.randn(3, 5, 8)}], progress=False)
    assert [(e.name, e.reason) for e in scores.coverage.not_measured] == [
        ("layers.0.experts", NOT_SUPPORTED)
    ]
    assert scores.coverage.share == 0.2


@pytest.mark.parametrize(
    ("name", "language", "tower"),
    [
        ("qwen2_5_vl", "lm.gate_proj", "vision.gate_proj"),
        ("gemma3_multimodal", "lm.q_proj", "vision.q_proj"),
    ],
)
def test_towers_are_their_own_component(name: str, language: str, tower: str) -> None:
    """A tower that shares leaf names with the language model must not share its types."""
    found = find_sites(families.build(name))
    assert language in {site.type for site in found.sites}
    assert all(site.type.startswith("lm.") for site in found.sites)
    asked = find_sites(families.build(name), include=["vision.*"])
    assert {site.eligible for site in asked.sites} == {False}
    assert tower in {site.type for site in asked.sites}
    outside = {e.type: e.reason for e in found.not_measured if "project" in e.type}
    assert all(reason == OUTSIDE for reason in outside.values())


def test_no_measurable_site() -> None:
    with pytest.raises(ModelError, match="no measurable site"):
        find_sites(nn.Sequential(nn.LayerNorm(4), nn.Embedding(3, 4)))
