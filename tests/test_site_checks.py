"""What cannot learn is not proposed, and slices that do not do what they are called are whole."""

from __future__ import annotations

import families
import pytest
import torch
import transformers as t
from torch import nn

import plop_lora as plop
from plop_lora.data.batches import ready_batches
from plop_lora.scoring.site_checks import check_sites
from plop_lora.scoring.sites import fused as slices
from plop_lora.scoring.sites.find import BYPASSED, NO_GRADIENT, find_sites
from plop_lora.scoring.sites.sources import bare_weights, order_of_heads


def _codegen() -> nn.Module:
    torch.manual_seed(0)
    config = t.CodeGenConfig(
        vocab_size=96, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64, n_ctx=64
    )
    return t.CodeGenForCausalLM(config).eval()


def _minimax() -> nn.Module:
    torch.manual_seed(0)
    settings = families.DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
    return t.MiniMaxForCausalLM(t.MiniMaxConfig(**settings)).eval()


def _big_code(multi_query: bool) -> nn.Module:
    torch.manual_seed(0)
    config = t.GPTBigCodeConfig(
        vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, multi_query=multi_query
    )
    return t.GPTBigCodeForCausalLM(config).eval()


def _sparse() -> nn.Module:
    torch.manual_seed(0)
    settings = families.DECODER | families.LATENT
    config = t.DeepseekV32Config(**settings, index_n_heads=2, index_head_dim=8, index_topk=4)
    return t.DeepseekV32ForCausalLM(config).eval()


def _mamba() -> nn.Module:
    torch.manual_seed(0)
    config = t.MambaConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4, time_step_rank=2
    )
    return t.MambaForCausalLM(config).eval()


def _rows(name: str = "llama") -> list:
    return list(ready_batches(families.rows_of(name, rows=2)))


def test_codegen_is_not_read_as_q_k_v() -> None:
    """It holds groups of q, v, k whose sizes add up to those of q, k, v as well."""
    model = _codegen()
    assert order_of_heads(type(model.transformer.h[0].attn)) == "qvk"
    assert "qkv_proj" in {site.type for site in find_sites(model).sites}


def test_a_layout_that_attention_contradicts_is_not_believed(monkeypatch) -> None:
    """Without a readable source the sizes add up; with "v" at zero attention mixes all the same."""
    monkeypatch.setattr(slices, "order_of_heads", lambda kind: None)
    model = _codegen()
    assert "qkv_proj[v]" in {site.type for site in find_sites(model).sites}
    scores = plop.score(model, batches=families.rows_of("llama"), progress=False)
    assert "qkv_proj" in scores
    assert scores.coverage.share == 1
    assert {site.host for site in scores.sites if site.type == "qkv_proj"} == {
        f"transformer.h.{layer}.attn.qkv_proj" for layer in (0, 1)
    }


@pytest.mark.parametrize(
    ("build", "leaf"),
    [
        (_minimax, "qkv_proj"),
        (lambda: _big_code(False), "c_attn"),
        (lambda: _big_code(True), "c_attn"),
    ],
)
def test_heads_that_hold_their_own_q_k_v(build, leaf: str) -> None:
    """Read as all of q, then k, then v, two thirds of the rows have a wrong name."""
    model = build()
    found = find_sites(model)
    after, notes = check_sites(model, found, _rows())
    assert notes == ()
    assert {f"{leaf}[{part}]" for part in "qkv"} <= {site.type for site in after.sites}


FUSED = [
    "phi3", "gpt2", "gpt_neox", "bloom", "falcon", "falcon_heads", "falcon_new", "modernbert",
    "deepseek_v3", "qwen3_next", "qwen3_5", "granite_moe_hybrid",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FUSED)
def test_right_layouts_stay(name: str) -> None:
    """The trial of a slice must not fail a family whose slices are right."""
    model = families.build(name)
    found = find_sites(model)
    after, notes = check_sites(model, found, _rows(name))
    assert notes == ()
    assert [site.name for site in after.sites] == [site.name for site in found.sites]


def test_an_indexer_without_a_graph_is_never_proposed() -> None:
    """A placement on it would train nothing: its forward runs under no_grad."""
    scores = plop.score(_sparse(), batches=families.rows_of("llama"), progress=False)
    reasons = {entry.name: entry.reason for entry in scores.coverage.not_measured}
    for leaf in ("wq_b", "wk", "weights_proj"):
        assert reasons[f"model.layers.0.self_attn.indexer.{leaf}"] == NO_GRADIENT
    assert scores.coverage.share == 1


class _Chooser(nn.Module):
    """Has one layer that only decides which entries are kept: no gradient passes the choice."""

    def __init__(self) -> None:
        super().__init__()
        self.pick, self.value = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.pick(x).topk(4, dim=-1).indices
        return self.value(torch.zeros_like(x).scatter(-1, kept, x.gather(-1, kept)))


class _Choosing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([_Chooser(), _Chooser()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def test_a_choice_of_the_largest_passes_no_gradient() -> None:
    """Nothing in the source says no_grad; the graph of one row shows it."""
    batches = [{"x": torch.randn(2, 4, 8)}]
    scores = plop.score(_Choosing(), batches=batches, progress=False)
    assert {(row.type, row.eligible) for row in scores.types} == {("value", True)}
    assert {e.reason for e in scores.coverage.not_measured} == {NO_GRADIENT}
    asked = plop.score(_Choosing(), batches=batches, include=["pick", "value"], progress=False)
    assert {(row.type, row.eligible) for row in asked.types} == {("value", True), ("pick", False)}


class _Summary(nn.Module):
    """Adds a summary of every four tokens; a shorter text has none."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.pack = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole, packed, out = x.shape[1] // 4 * 4, self.pack(x), self.value(x)
        if not whole:
            return out
        packed = packed[:, :whole].reshape(len(x), -1, 4, 8)
        return out + packed.mean(dim=2).sum(dim=1, keepdim=True)


def test_what_is_idle_in_a_short_text_can_learn() -> None:
    """The shortest text of the data decided that DeepSeek-V4's compressors cannot be trained."""
    model = _Choosing()
    model.layers = nn.ModuleList([_Summary(), _Summary()])
    batches = [{"x": torch.randn(1, 3, 8)}, {"x": torch.randn(1, 9, 8)}]
    scores = plop.score(model, batches=batches, progress=False)
    assert {row.type for row in scores.types} == {"value", "pack"}
    short = plop.score(model, batches=batches[:1], progress=False)
    assert {e.reason for e in short.coverage.not_measured} == {NO_GRADIENT}


def test_weights_that_kernels_take_bare_are_never_proposed() -> None:
    """In training the mixer hands x_proj's weight to a kernel, past any adapter on it."""
    model = _mamba()
    assert {"x_proj", "dt_proj", "out_proj"} <= bare_weights(type(model.backbone.layers[0].mixer))
    scores = plop.score(model, batches=families.rows_of("mamba2"), progress=False)
    reasons = {entry.type: entry.reason for entry in scores.coverage.not_measured}
    assert reasons["x_proj"] == reasons["out_proj"] == reasons["dt_proj"] == BYPASSED
    assert scores.type_names() == ["in_proj"]


def test_questions_about_a_weight_are_no_use_of_it() -> None:
    """T5 asks `self.wo.weight.dtype`, BLOOM slices `self.dense.weight` for one checkpoint."""
    for name in ("t5", "bloom", "llama", "bert"):
        for module in families.build(name).modules():
            if type(module).__module__.startswith("transformers.models"):
                assert not {"wo", "dense", "q_proj", "query"} & bare_weights(type(module))


def test_a_checked_model_is_left_as_it_was() -> None:
    """Hooks gone, modes back, no gradient on any weight."""
    model = families.build("phi3").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check_sites(model, find_sites(model), _rows())
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
