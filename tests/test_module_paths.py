"""Blocks, towers and roles: what a list of modules is, and what a weight does in its block."""

from __future__ import annotations

import families
import pytest
import torch
import transformers as t
from torch import nn

import plop_lora as plop
from plop_lora.scoring.sites.find import OUTSIDE, find_sites
from plop_lora.scoring.sites.module_paths import locator


def _roles(model: nn.Module) -> dict[str, str]:
    return {site.type: site.role for site in find_sites(model).sites}


def _gemma3n() -> nn.Module:
    torch.manual_seed(0)
    settings = families.DECODER | {
        "intermediate_size": [48] * 6, "num_hidden_layers": 6, "num_kv_shared_layers": 1,
        "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8, "head_dim": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 6, "sliding_window": 16,
    }  # fmt: skip
    return t.Gemma3nForCausalLM(t.Gemma3nTextConfig(**settings)).eval()


def test_a_list_of_bare_layers_is_no_list_of_blocks() -> None:
    """Gemma 3n's altup projections have the lowest NFN and were chosen first."""
    found = find_sites(_gemma3n())
    reasons = {entry.name: entry.reason for entry in found.not_measured}
    assert reasons["model.altup_projections.0"] == OUTSIDE
    assert reasons["model.altup_unembed_projections.2"] == OUTSIDE
    assert all(site.name.startswith("model.layers.") for site in found.sites)
    assert "q_proj" in {site.type for site in found.sites}


def test_a_model_of_bare_layers_still_has_blocks() -> None:
    """Where there is nothing but a list of linear layers, they are the blocks."""
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])})
    assert all(site.layer in (0, 1) and site.eligible for site in find_sites(model).sites)


def test_gpt_oss_has_an_mlp() -> None:
    """The letters "ssm" are in "gptossmlp": `--strategy mlp`, a default arm, found nothing."""
    model = families.build("gpt_oss")
    assert _roles(model)["experts.down_proj"] == "mlp"
    scores = plop.score(model, batches=families.rows_of("gpt_oss"), progress=False)
    chosen = {choice.type for choice in plop.place(scores, strategy="mlp").choices}
    assert chosen == {"experts.gate_up_proj", "experts.down_proj"}


def test_what_mixes_tokens_is_no_mlp() -> None:
    """A short convolution beside a projection says so, whatever its module is called."""
    torch.manual_seed(0)
    config = t.Lfm2Config(
        **families.DECODER, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False
    )
    roles = _roles(t.Lfm2ForCausalLM(config))
    assert roles["in_proj"] == "other"
    assert roles["w1"] == "mlp"
    assert roles["q_proj"] == "attention"
    assert _roles(families.build("mamba2"))["in_proj[x]"] == "other"


def test_lists_of_attentions_and_of_feed_forward_parts() -> None:
    """XLM holds both in lists of their own, so that no name between block and weight tells."""
    torch.manual_seed(0)
    config = t.XLMConfig(vocab_size=96, emb_dim=32, n_layers=2, n_heads=4)
    roles = _roles(t.XLMWithLMHeadModel(config))
    attentions = {
        f"attentions.{leaf}": "attention" for leaf in ("q_lin", "k_lin", "v_lin", "out_lin")
    }
    assert roles == attentions | {"ffns.lin1": "mlp", "ffns.lin2": "mlp"}


@pytest.mark.slow
@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_has_attention_or_a_mixer(name: str) -> None:
    """The default arms `attention` and `mlp` find their types wherever a family has them."""
    roles = set(_roles(families.build(name)).values())
    if name == "mamba2":
        assert roles == {"other"}
    else:
        assert {"attention", "mlp"} <= roles


def test_steps_of_a_sequence_are_types_of_their_own() -> None:
    """CTRL's `ffn.0` is 32 → 48 and `ffn.2` 48 → 32: one type for both has no shape."""
    torch.manual_seed(0)
    config = t.CTRLConfig(vocab_size=96, n_embd=32, dff=48, n_layer=2, n_head=4, n_positions=64)
    sites = find_sites(t.CTRLLMHeadModel(config)).sites
    shapes: dict[str, set[tuple[int, int]]] = {}
    for site in sites:
        shapes.setdefault(site.type, set()).add((site.host.in_features, site.out_features))
    assert shapes["ffn.0"] == {(32, 48)}
    assert shapes["ffn.2"] == {(48, 32)}
    assert all(len(found) == 1 for found in shapes.values())


@pytest.mark.slow
def test_a_tower_a_level_deeper_is_a_tower() -> None:
    """Qwen2.5-Omni's thinker holds an audio and a vision encoder in a configuration of its own."""
    with torch.device("meta"):
        model = t.Qwen2_5OmniForConditionalGeneration(t.Qwen2_5OmniConfig())
    locate = locator(model)
    towers = {
        name.partition(".layers.")[0].partition(".blocks.")[0]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and locate(name).in_tower
    }
    assert {"thinker.model.audio_tower", "thinker.model.visual"} <= towers
    assert not any(name.startswith("thinker.model.language_model") for name in towers)
