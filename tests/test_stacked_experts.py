"""Stacked experts: exact, harmless, and honest about experts that nobody asked."""

from __future__ import annotations

import families
import pytest
import torch

import plop_lora as plop
from plop_lora.errors import MeasurementError
from plop_lora.scoring.sites.find import find_sites

STACKED = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss",
           "granite_moe_hybrid", "nemotron_h", "llama4", "qwen3_next"]  # fmt: skip


def _logits(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.slow
@pytest.mark.parametrize("name", STACKED)
def test_measuring_changes_no_output(name: str) -> None:
    """Hidden states under measurement are the plain ones to the last bit, and stay so after."""
    model = families.build(name)
    batch = families.batch_of(name)
    before = _logits(model, batch)
    seen = []
    norm = next(m for n, m in model.named_modules() if n.split(".")[-1] in ("norm", "norm_f"))
    handle = norm.register_forward_hook(lambda *a: seen.append(a[2].clone()))
    _logits(model, batch)
    plop.score(model, batches=[batch], progress=False)
    handle.remove()
    measured = [states for states in seen[1:] if states.shape == seen[0].shape]
    assert measured
    assert all(torch.equal(seen[0], states) for states in measured)
    assert torch.equal(before, _logits(model, batch))


@pytest.mark.parametrize("name", ["mixtral", "llama4"])
def test_everything_is_restored_after_an_exception(name: str) -> None:
    """A model left on our implementation would fail at its next forward."""
    model = families.build(name)
    config = model.config.get_text_config()
    before = config._experts_implementation
    experts = [m for m in model.modules() if hasattr(m, "down_proj") and hasattr(m, "act_fn")]
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if n.endswith("experts.down_proj"))[0] = (
            torch.nan
        )
    with pytest.raises(MeasurementError, match=r"experts\.down_proj"):
        plop.score(model, batches=[families.batch_of(name)], progress=False)
    assert config._experts_implementation == before
    assert all("forward" not in vars(module) for module in experts)
    _logits(model, families.batch_of(name))


def test_routed_tokens_are_counted_and_idle_experts_have_no_score() -> None:
    """An expert without tokens is `no data`; a score of 0 would look like the best place."""
    model = families.build("mixtral")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight[2:] = -10 * layer.mlp.gate.weight[:2].abs().sum()
            layer.mlp.gate.weight[2:] = 0.0
            layer.mlp.gate.weight[:2] = layer.mlp.gate.weight[:2].abs() * 100
            layer.post_attention_layernorm.weight.fill_(1.0)
        model.model.embed_tokens.weight.abs_()
    batch = families.batch_of("mixtral")
    scores = plop.score(model, batches=[batch], progress=False)
    tokens = int(batch["attention_mask"].sum())
    for site in (s for s in scores.sites if s.experts):
        assert site.tokens == 2 * tokens == sum(expert.tokens for expert in site.experts)
        weighted = sum(e.nfn * e.tokens for e in site.experts if e.tokens) / site.tokens
        assert site.nfn == pytest.approx(weighted, rel=1e-6)
        for expert in site.experts:
            assert (expert.nfn is None) == (expert.tokens == 0)
    idle = [e for s in scores.sites for e in s.experts if not e.tokens]
    assert idle
    assert any("have no score" in note for note in scores.notes)
    assert plop.Scores.from_dict(scores.to_dict()) == scores


@pytest.mark.slow
def test_a_rarely_routed_expert_is_less_certain() -> None:
    """Intervals follow the texts an expert really saw."""
    model = families.build("qwen3_moe")
    scores = plop.score(model, batches=families.rows_of("qwen3_moe", rows=40), progress=False)
    widths = [
        (expert.tokens, expert.high - expert.low)
        for site in scores.sites
        for expert in site.experts
        if expert.high is not None and expert.tokens
    ]
    rare = [width for tokens, width in sorted(widths)[: len(widths) // 4]]
    common = [width for tokens, width in sorted(widths)[-len(widths) // 4 :]]
    assert sum(rare) / len(rare) > sum(common) / len(common)


def test_excluded_experts_still_run() -> None:
    """Leaving a projection out of the measurement must not leave it out of the model."""
    model = families.build("qwen3_moe")
    batch = families.batch_of("qwen3_moe")
    everything = plop.score(model, batches=[batch], progress=False)
    fewer = plop.score(model, batches=[batch], exclude=["*experts.gate_up_proj*"], progress=False)
    kept = {site.name: site.nfn for site in fewer.sites}
    assert not any("gate_up" in name for name in kept)
    assert kept == {s.name: s.nfn for s in everything.sites if s.name in kept}


def test_the_table_says_how_many_tokens_experts_saw() -> None:
    model = families.build("qwen3_moe")
    scores = plop.score(model, batches=[families.batch_of("qwen3_moe")], progress=False)
    counts = [expert.tokens for site in scores.sites for expert in site.experts]
    line = next(line for line in str(scores).splitlines() if line.startswith("Experts: 16"))
    assert f"{min(counts)} to {max(counts)} routed tokens each" in line


@pytest.mark.parametrize("name", [n for n in STACKED if n not in ("nemotron_h", "llama4")])
def test_gate_and_up_are_what_their_names_say(name: str) -> None:
    """The model's own gating tells: it is affine in up and not in gate (GPT-OSS interleaves)."""
    model = families.build(name).double()
    sites = {s.part.name: s for s in find_sites(model).sites if s.host.is_parameter and s.part}
    module = sites["gate"].module
    rows = torch.randn(8, sites["gate"].part.width * sites["gate"].part.groups).double()

    def curvature(part: str) -> float:
        step = torch.zeros_like(rows)
        sites[part].part.of_output(step).fill_(0.5)
        low, middle, high = (module._apply_gate(rows + k * step) for k in (-1, 0, 1))
        return float((high - 2 * middle + low).abs().max())

    assert curvature("up") < 1e-12 < 1e-3 < curvature("gate")
