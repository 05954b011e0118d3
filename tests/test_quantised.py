"""Quantised layers: the module is the operator, and its scores are those of its own weight.

torchao's int8 and HQQ's 4 bit run on a CPU and are tested. bitsandbytes, GPTQ, AWQ, FP8 and MXFP4
layers need an accelerator or kernels that are not at hand; they go the same way, by the width
they declare, and a stand-in below packs its weight as they do.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import families
import pytest
import torch
import transformers
from torch import nn

import plop_lora as plop

WIDE = {"hidden_size": 128, "intermediate_size": 192}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.Phi3Config(**(families.DECODER | WIDE))
    return transformers.Phi3ForCausalLM(config).eval()


def _replace(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """Return a copy with every projection of the blocks replaced."""
    replaced = copy.deepcopy(model)
    for layer in replaced.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name, child in list(owner.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(owner, name, make(child))
    return replaced


def _dense(model: nn.Module, read: Callable[[nn.Module], torch.Tensor]) -> nn.Module:
    """Return the model with the weights that quantised layers stand for, as plain matrices."""

    def plain(module: nn.Module) -> nn.Linear:
        weight = read(module)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight
        return layer

    replaced = copy.deepcopy(model)
    for layer in replaced.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name, child in list(owner.named_children()):
                if hasattr(child, "in_features"):
                    setattr(owner, name, plain(child))
    return replaced


def _check(quantised: nn.Module, dense: nn.Module) -> None:
    batch = families.batch_of("phi3")
    ours = plop.score(quantised, batches=[batch], progress=False)
    expected = {s.name: s for s in plop.score(dense, batches=[batch], progress=False).sites}
    assert ours.coverage.share == 1.0
    assert {site.name for site in ours.sites} == set(expected)
    assert any("[q]" in site.name for site in ours.sites)
    for site in ours.sites:
        # 4096 draws through matrices this small: a standard error of about 0.15 %.
        assert site.nfn == pytest.approx(expected[site.name].nfn, rel=6e-3), site.name
        assert site.parameters == expected[site.name].parameters


@pytest.mark.slow
def test_torchao_int8_weight_only(model) -> None:
    """A tensor subclass says it is floating and of the declared shape; it must not be read."""
    pytest.importorskip("torchao", reason="extra quant")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantised = copy.deepcopy(model)
        quantize_(quantised.model.layers, Int8WeightOnlyConfig())
        _check(quantised, _dense(quantised, lambda module: module.weight.dequantize().data.clone()))


@pytest.mark.slow
def test_hqq_4_bit(model) -> None:
    """HQQ's layer is no `Linear` and holds a packed weight."""
    pytest.importorskip("hqq", reason="extra quant")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

        def make(layer: nn.Linear) -> nn.Module:
            config = BaseQuantizeConfig(nbits=4, group_size=64)
            return HQQLinear(layer, config, compute_dtype=torch.float32, device="cpu")

        quantised = _replace(model, make)
        _check(quantised, _dense(quantised, lambda module: module.dequantize()))


class Packed(nn.Module):
    """Packs a weight in 4 bits with a scale per row, in buffers, with a bias, as GPTQ does."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = layer.weight.shape
        scale = layer.weight.detach().abs().amax(dim=1, keepdim=True) / 7
        levels = (layer.weight.detach() / scale).round().to(torch.int8) + 8
        self.register_buffer("packed", levels[:, ::2] * 16 + levels[:, 1::2])
        self.register_buffer("scale", scale)
        self.register_buffer("bias", torch.randn(self.out_features))

    def dequantised(self) -> torch.Tensor:
        unsigned = self.packed.to(torch.int16) & 255
        pairs = torch.stack([unsigned // 16, unsigned % 16], dim=-1).flatten(1)
        return (pairs - 8) * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.dequantised(), self.bias)


@pytest.mark.slow
def test_packed_buffers_with_a_bias(model) -> None:
    """Nothing but the declared width is known: the bias is found by asking for zero."""
    quantised = _replace(model, Packed)
    dense = copy.deepcopy(quantised)
    for layer in dense.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name, child in list(owner.named_children()):
                if isinstance(child, Packed):
                    plain = nn.Linear(child.in_features, child.out_features)
                    plain.weight.data, plain.bias.data = child.dequantised(), child.bias
                    setattr(owner, name, plain)
    _check(quantised, dense)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="bitsandbytes' 4 bit needs CUDA")
def test_bitsandbytes_4_bit(model) -> None:
    """The weight is a flat row of bytes in a `Linear` subclass."""
    bnb = pytest.importorskip("bitsandbytes")

    def make(layer: nn.Linear) -> nn.Module:
        packed = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=False)
        packed.load_state_dict({"weight": layer.weight.data})
        return packed

    quantised = _replace(model, make).cuda()
    scores = plop.score(quantised, batches=[families.batch_of("phi3")], progress=False)
    assert scores.coverage.share == 1.0
