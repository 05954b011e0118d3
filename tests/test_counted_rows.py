"""What a model does beside multiplying tokens by weights is not counted as if it were that."""

from __future__ import annotations

import shutil
from pathlib import Path

import families
import pytest
import torch
import transformers
from conftest import make_batch
from torch import nn
from torch.nn.utils import parametrizations, prune

import plop_lora as plop
from plop_lora.errors import ModelError
from plop_lora.scoring.sites.find import NO_PRODUCT


def _rows(*lengths: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, 96, (1, n), generator=generator) for n in lengths]
    return [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]


def _padded(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    width = max(row["input_ids"].shape[1] for row in rows)
    return {
        key: torch.cat([nn.functional.pad(r[key], (0, width - r[key].shape[1])) for r in rows])
        for key in rows[0]
    }


def _longformer() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LongformerConfig(**families.ENCODER, attention_window=[8, 8])
    return transformers.LongformerModel(config).eval()


@pytest.mark.slow
def test_padding_of_the_model_is_no_token() -> None:
    """Longformer pads to its window and runs time first: 512 rows were counted for 261 tokens."""
    rows = _rows(11, 5, 19)
    alone = plop.score(_longformer(), batches=rows, stop="fixed", progress=False)
    batch = plop.score(_longformer(), batches=[_padded(rows)], stop="fixed", progress=False)
    assert alone.sites
    assert {site.tokens for site in alone.sites} == {35}
    assert {s.name: s.nfn for s in batch.sites} == pytest.approx(
        {s.name: s.nfn for s in alone.sites}, rel=1e-4
    )


def test_a_scored_model_is_the_same_after_as_before() -> None:
    """BigBird changes its attention for good on a short text."""
    config = transformers.BigBirdConfig(**families.ENCODER, block_size=4, num_random_blocks=1)
    model = transformers.BigBirdModel(config).train()
    before = [(n, id(m), m.training) for n, m in model.named_modules()]
    plop.score(model, batches=_rows(6, 9), stop="fixed", progress=False)
    assert model.attention_type == "block_sparse"
    assert [(n, id(m), m.training) for n, m in model.named_modules()] == before


class _Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight) * 0.05 + self.bias


class _Normed(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.normalize(x, dim=-1))


class _Net(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"a": nn.Linear(24, 16), "b": inner})])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0]["b"](self.layers[0]["a"](x))


def _score(inner: nn.Module) -> tuple[plop.Scores, _Net]:
    torch.manual_seed(1)
    net = _Net(inner)
    return plop.score(net, batches=[{"x": torch.randn(3, 50, 24)}], progress=False), net


def test_a_layer_that_scales_its_product() -> None:
    """BitNet multiplies its output: v_proj read 0.06 where 1.10 is right."""
    torch.manual_seed(0)
    scaled = _Scaled(16, 20)
    plain = nn.Linear(16, 20)
    plain.load_state_dict(scaled.state_dict())
    found = {site.name: site.nfn for site in _score(scaled)[0].sites}
    expected = {site.name: site.nfn for site in _score(plain)[0].sites}
    assert found == pytest.approx(expected, rel=0.02)


def test_a_layer_that_is_no_product_is_not_measured() -> None:
    """Its output over its weight was called its NFN."""
    scores, _ = _score(_Normed(16, 20))
    assert [(e.type, e.reason) for e in scores.coverage.not_measured] == [("b", NO_PRODUCT)]
    assert scores.coverage.share < 1


def _buffered() -> nn.Module:
    linear = nn.Linear(16, 20)
    weight = linear.weight.detach()
    del linear.weight
    linear.register_buffer("weight", weight)
    return linear


@pytest.mark.parametrize(
    "make",
    [
        lambda: prune.l1_unstructured(nn.Linear(16, 20), "weight", amount=0.3),
        lambda: parametrizations.weight_norm(nn.Linear(16, 20)),
        lambda: nn.utils.weight_norm(nn.Linear(16, 20)),
        _buffered,
    ],
    ids=["pruned", "parametrized", "weight norm", "buffer"],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
def test_weights_that_are_no_parameter(make) -> None:
    """They vanished from the scores and from coverage, which said 100 %."""
    inner = make()
    plain = nn.Linear(16, 20)
    with torch.no_grad():
        plain.weight.copy_(inner(torch.eye(16)).T - inner(torch.zeros(16))[:, None])
        plain.bias.copy_(inner(torch.zeros(16)))
    scores, expected = _score(inner)[0], _score(plain)[0]
    assert {s.name: (s.nfn, s.parameters) for s in scores.sites} == {
        s.name: (pytest.approx(s.nfn, rel=1e-4), s.parameters) for s in expected.sites
    }
    assert scores.coverage.share == 1
    assert scores.coverage.not_measured == ()


@pytest.mark.slow
def test_an_output_embedding_inside_the_body() -> None:
    """FSMT names the decoder's embedding as its head, where the run was stopped: coverage 40 %."""
    torch.manual_seed(0)
    config = transformers.FSMTConfig(
        langs=["en", "de"], src_vocab_size=96, tgt_vocab_size=96, d_model=32,
        encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.FSMTForConditionalGeneration(config).eval()
    rows = [{**row, "decoder_input_ids": row["input_ids"]} for row in _rows(7, 12)]
    scores = plop.score(model, batches=rows, stop="fixed", progress=False)
    assert scores.coverage.share == 1


def test_an_adapter_in_the_folder_of_the_model_is_refused(tmp_path: Path) -> None:
    """Its matrices were scored as layers of the model, where an adapted object is refused."""
    from peft import LoraConfig, get_peft_model

    model = families.build("llama")
    model.save_pretrained(tmp_path)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    for file in (tmp_path / "adapter").iterdir():
        shutil.copy(file, tmp_path)
    with pytest.raises(ModelError, match="holds a model and an adapter"):
        plop.score(str(tmp_path), batches=[make_batch("llama")], progress=False)
