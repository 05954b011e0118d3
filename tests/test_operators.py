"""Modules whose forward is not the product with their weight: read as they are, or not at all."""

from __future__ import annotations

import pytest
import torch
import transformers
from conftest import HEADS, SMALL
from torch import nn

import plop_lora as plop


class Scaled(nn.Linear):
    """Multiplies its output, as BitNet's layers do: what an adapter sees is this map."""

    factor = 0.05

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features) * self.factor


class Squared(nn.Linear):
    """No linear map at all."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features).square()


class Halved(nn.Linear):
    """Uses the first half of its inputs only, as a block-diagonal projection uses one block."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        half = features.shape[-1] // 2
        return nn.functional.linear(features[..., :half], self.weight[:, :half])


def _model(kind: type[nn.Linear] = nn.Linear, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a Llama whose v_proj are of some kind, with the same weights for each kind."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, **HEADS)
    model = transformers.LlamaForCausalLM(config).to(dtype).eval()
    for layer in model.model.layers:
        layer.self_attn.v_proj.__class__ = kind
    return model


def _score(model: nn.Module) -> plop.Scores:
    generator = torch.Generator().manual_seed(1)
    batches = [{"input_ids": torch.randint(3, 96, (4, 12), generator=generator)} for _ in range(3)]
    return plop.score(model, batches=batches, progress=False)


@pytest.mark.slow
def test_an_output_that_is_scaled_is_read_with_its_scale() -> None:
    """BitNet's v_proj read 0.06 where 1.10 is right: "room for an adapter"."""
    plain, scaled = _score(_model()), _score(_model(Scaled))
    # Values behind a scaled v_proj differ; the first layer's inputs are the same.
    first = {site.name: site.nfn for site in plain.sites if site.layer == 0}
    found = {site.name: site.nfn for site in scaled.sites if site.layer == 0}
    name = "model.layers.0.self_attn.v_proj"
    assert found[name] == pytest.approx(first[name], rel=0.02)
    assert scaled.coverage.share == 1.0


def test_a_part_of_the_weight_is_read_as_that_part() -> None:
    model = _model(Halved)
    layer = model.model.layers[0].self_attn.v_proj
    found = next(s for s in _score(model).sites if s.name.endswith("layers.0.self_attn.v_proj"))
    generator = torch.Generator().manual_seed(2)
    draws = torch.randn(20_000, layer.in_features, generator=generator)
    layer.requires_grad_(False)
    gain = (layer(draws).norm(dim=1) / draws.norm(dim=1)).mean()
    inputs: list[torch.Tensor] = []
    layer.register_forward_hook(lambda module, given, output: inputs.append(given[0]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randint(3, 96, (4, 12), generator=generator))
    rows = torch.cat([given.reshape(-1, layer.in_features) for given in inputs])
    wanted = (layer(rows).norm(dim=1) / rows.norm(dim=1)).mean() / gain
    assert found.nfn == pytest.approx(float(wanted), rel=0.02)


def test_a_map_that_is_not_linear_has_no_score() -> None:
    scores = _score(_model(Squared))
    assert not [site for site in scores.sites if site.type == "v_proj"]
    reasons = {entry.reason for entry in scores.coverage.not_measured if entry.type == "v_proj"}
    assert reasons == {"its output is not the product of its weight and its input"}
    assert scores.coverage.share < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_other_map(dtype: torch.dtype) -> None:
    """A large bias rounds the product away in half precision; the weight is right all the same."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(**SMALL, **HEADS, num_key_value_heads=2)
    model = transformers.Qwen2ForCausalLM(config).to(dtype).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_proj.bias.fill_(60.0)
    scores = _score(model)
    assert scores.coverage.share == 1.0
    exact = _score(model.float())
    for row in exact.types:
        if row.type != "k_proj":
            assert scores[row.type].nfn == pytest.approx(row.nfn, rel=0.05)


def test_bitnet_is_read_by_its_own_forward() -> None:
    """Transformers' own class, quantised while it runs."""
    from transformers.integrations.bitnet import AutoBitLinear

    torch.manual_seed(0)
    model = _model()
    for layer in model.model.layers:
        old = layer.self_attn.v_proj
        layer.self_attn.v_proj = AutoBitLinear(
            old.in_features, old.out_features, bias=False, online_quant=True
        )
        layer.self_attn.v_proj.weight.data.copy_(old.weight.data)
    scores = _score(model)
    values = [site.nfn for site in scores.sites if site.type == "v_proj"]
    assert len(values) == SMALL["num_hidden_layers"]
    assert all(0.8 < value < 1.3 for value in values)


# --------------------------------------------------------------------------- weights


def _pruned(layer: nn.Module) -> None:
    from torch.nn.utils import prune

    prune.l1_unstructured(layer, "weight", amount=0.4)


def _normed(layer: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(layer)


def _buffered(layer: nn.Module) -> None:
    weight = layer.weight.data
    del layer.weight
    layer.register_buffer("weight", weight)


@pytest.mark.slow
@pytest.mark.parametrize("change", [_pruned, _normed, _buffered])
def test_a_weight_of_another_name_is_measured(change) -> None:
    """It was missing among the scores and from the coverage, which said 100 %."""
    model = _model()
    for layer in model.model.layers:
        change(layer.self_attn.v_proj)
        layer.self_attn.v_proj(torch.zeros(1, SMALL["hidden_size"]))
    bare = _model()
    with torch.no_grad():
        for old, new in zip(model.model.layers, bare.model.layers, strict=True):
            new.self_attn.v_proj.weight.copy_(old.self_attn.v_proj.weight)
    scores, wanted = _score(model), _score(bare)
    assert scores.coverage.block_parameters == wanted.coverage.block_parameters
    assert scores["v_proj"].nfn == pytest.approx(wanted["v_proj"].nfn, rel=1e-4)
    assert [row.type for row in scores.types] == [row.type for row in wanted.types]


def test_an_output_embedding_that_the_body_reads_ends_nothing() -> None:
    """FSMT's decoder never ran: a coverage of 40 %, and exit code 0."""
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48}
    config = transformers.FSMTConfig(
        langs=["en", "de"], src_vocab_size=96, tgt_vocab_size=96, encoder_attention_heads=4,
        decoder_attention_heads=4, decoder_ffn_dim=48, max_position_embeddings=64, **sizes,
    )  # fmt: skip
    model = transformers.FSMTForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(5, 96, (4, width), generator=generator) for width in (12, 9)]
    batch = dict(zip(("input_ids", "decoder_input_ids"), tokens, strict=True))
    scores = plop.score(model, batches=[batch], progress=False)
    assert scores.coverage.share == 1.0
