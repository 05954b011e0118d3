"""What is chosen where little of a model could be measured, and what stands beside experts."""

from __future__ import annotations

import dataclasses

import families
import pytest
import torch
import transformers as t
from torch import nn

import plop_lora as plop
from plop_lora.errors import UsageError
from plop_lora.placement import default_choice
from plop_lora.placement.place import LEAST_COVERAGE
from plop_lora.scoring.sites.find import LEFT_OUT, ROUTER, find_sites
from plop_lora.study.study import budget_of


def _jetmoe() -> nn.Module:
    torch.manual_seed(0)
    config = t.JetMoeConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_key_value_heads=2, kv_channels=8,
        intermediate_size=48, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    return t.JetMoeForCausalLM(config).eval()


def test_routers_beside_experts_that_nothing_describes() -> None:
    """JetMoE's two routers were the whole default choice, at a coverage of 5 %."""
    found = find_sites(_jetmoe())
    reasons = {entry.name: entry.reason for entry in found.not_measured}
    assert reasons["model.layers.0.mlp.router.layer"] == ROUTER
    assert reasons["model.layers.0.self_attention.experts.router.layer"] == ROUTER
    assert {site.type for site in found.sites} == {"kv_proj"}


def test_little_coverage_means_no_default_choice() -> None:
    """The weights that nobody could measure may well have the lowest NFN of all."""
    scores = plop.score(_jetmoe(), batches=families.rows_of("llama"), progress=False)
    assert scores.coverage.share < LEAST_COVERAGE
    assert default_choice(scores) == set()
    assert any("nothing is chosen by default" in note for note in scores.notes)
    with pytest.raises(UsageError, match=r"below 50% there is no default choice.*--top 3"):
        plop.place(scores)
    with pytest.raises(UsageError, match="no default choice"):
        budget_of(scores)
    assert {c.type for c in plop.place(scores, top=1).choices} == {"kv_proj"}
    assert plop.place(scores, strategy="all-linear").sites


def test_what_the_user_left_out_is_no_lack_of_coverage(models) -> None:
    """`--include q_proj` measures a small share on purpose and still has a default choice."""
    batches = families.rows_of("llama")
    scores = plop.score(models("llama"), batches=batches, include=["q_proj"], progress=False)
    assert scores.coverage.share < LEAST_COVERAGE
    assert scores.coverage.share_of_asked == 1
    assert {entry.reason for entry in scores.coverage.not_measured} >= {LEFT_OUT}
    assert default_choice(scores) == {"q_proj"}
    low = dataclasses.replace(scores.coverage, not_measured=())
    assert default_choice(dataclasses.replace(scores, coverage=low)) == set()


class _Mixture(nn.Module):
    """Experts in a list, as models of other authors have them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(8, 8)) for _ in range(4)])


def test_routers_beside_a_list_of_experts() -> None:
    """A gate with one output for each module of a list chooses among them."""
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"moe": _Mixture()})])})
    found = find_sites(model)
    assert {entry.name: entry.reason for entry in found.not_measured} == {
        "layers.0.moe.gate": ROUTER
    }
    assert len(found.sites) == 4
