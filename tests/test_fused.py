"""Fused projections: the slices are what their names say, and scoring them apart is exact."""

from __future__ import annotations

import copy
import importlib
import re
from pathlib import Path

import families
import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

import plop_lora as plop
from plop_lora.models.architectures import FUSED_PROJECTIONS, LLAMA4_EXPERTS
from plop_lora.scoring.sites.find import Site, find_sites

ATTENTION = {
    "phi3": "qkv_proj", "gpt2": "c_attn", "gpt_neox": "query_key_value", "bloom": "query_key_value",
    "falcon": "query_key_value", "falcon_heads": "query_key_value",
    "falcon_new": "query_key_value", "modernbert": "Wqkv",
}  # fmt: skip
ALL_FUSED = [*ATTENTION, "deepseek_v3", "qwen3_next", "qwen3_5", "mamba2", "granite_moe_hybrid"]


class Split(nn.Module):
    """A fused projection taken apart: one Linear per slice, put together in the fused order."""

    def __init__(self, module: nn.Module, sites: list[Site]) -> None:
        super().__init__()
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        self.in_features, self.out_features = weight.shape[1], weight.shape[0]
        self.pieces = nn.ModuleDict()
        self.rows: dict[str, torch.Tensor] = {}
        for site in sites:
            part = site.part
            rows = torch.cat(
                [
                    torch.arange(part.start, part.start + part.size) + group * part.width
                    for group in range(part.groups)
                ]
            )
            piece = nn.Linear(self.in_features, len(rows), bias=module.bias is not None)
            piece.weight.data = weight.data[rows]
            if module.bias is not None:
                piece.bias.data = module.bias.data[rows]
            self.pieces[part.name] = piece
            self.rows[part.name] = rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = x.new_empty(*x.shape[:-1], self.out_features)
        for name, piece in self.pieces.items():
            output[..., self.rows[name]] = piece(x)
        return output


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_FUSED)
def test_equals_an_unfused_model(name: str) -> None:
    """Taken apart, the model gives the same outputs, and each piece the score of its slice."""
    fused = families.build(name)
    whole = copy.deepcopy(fused)
    hosts: dict[str, list[Site]] = {}
    for site in find_sites(fused).sites:
        if site.part is not None and not site.host.is_parameter:
            hosts.setdefault(site.host.name, []).append(site)
    assert hosts
    for host, sites in hosts.items():
        owner, _, leaf = host.rpartition(".")
        setattr(fused.get_submodule(owner), leaf, Split(fused.get_submodule(host), sites))
    rows = families.rows_of(name)
    with torch.no_grad():
        for one in rows:
            assert torch.allclose(fused(**one)[0], whole(**one)[0], atol=1e-5)
    apart = {s.name: s.nfn for s in plop.score(fused, batches=rows, progress=False).sites}
    for site in plop.score(whole, batches=rows, progress=False).sites:
        if "[" in site.name and "experts" not in site.name:
            host, _, part = site.name.rstrip("]").partition("[")
            assert apart[f"{host}.pieces.{part}"] == pytest.approx(site.nfn, rel=1e-4), site.name


def _sensitive_rows(name: str, leaf: str, tokens: int, moved: int, read: int) -> torch.Tensor:
    """Return which rows of the fused output at token `moved` change the attention at `read`."""
    model = families.build(name).double()
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    owner = next(m for m in model.modules() if hasattr(m, leaf))
    caught: dict[str, torch.Tensor] = {}

    def keep(module: nn.Module, arguments: object, output: torch.Tensor) -> torch.Tensor:
        caught["fused"] = output.detach().requires_grad_()
        return caught["fused"]

    def attended(module: nn.Module, arguments: object, output: object) -> None:
        caught["output"] = output[0] if isinstance(output, tuple) else output

    getattr(owner, leaf).register_forward_hook(keep)
    owner.register_forward_hook(attended)
    ids = torch.arange(5, 5 + tokens)[None]
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    weights = torch.randn_like(caught["output"][:, read])
    (caught["output"][:, read] * weights).sum().backward()
    return caught["fused"].grad[0, moved].abs() > 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(("name", "leaf"), ATTENTION.items())
def test_names_say_what_the_rows_do(name: str, leaf: str) -> None:
    """Attention itself tells: with one token only v matters; from another token, k and v do."""
    sites = [s for s in find_sites(families.build(name)).sites if s.host.name.endswith(leaf)][:3]
    rows = {}
    for site in sites:
        mark = torch.arange(site.host.out_features)
        rows[site.part.name] = set(site.part.of_output(mark[None])[0].flatten().tolist())
    alone = _sensitive_rows(name, leaf, tokens=1, moved=0, read=0)
    other = _sensitive_rows(name, leaf, tokens=3, moved=0, read=2)
    itself = _sensitive_rows(name, leaf, tokens=3, moved=2, read=2)
    assert set(alone.nonzero().flatten().tolist()) == rows["v"]
    assert set(other.nonzero().flatten().tolist()) <= rows["k"] | rows["v"]
    assert rows["v"] < set(other.nonzero().flatten().tolist())
    queries = set(itself.nonzero().flatten().tolist()) - rows["k"] - rows["v"]
    assert queries
    assert queries <= rows["q"]


def test_a_layout_that_does_not_add_up_is_not_believed() -> None:
    """Three heads of four over 32 rows: better one score for the whole than three wrong ones."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads = 3
            self.qkv = nn.Linear(8, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.qkv(x)[..., :8]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Attention()])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[0](x)

    scores = plop.score(Net(), batches=[{"x": torch.randn(2, 4, 8)}], progress=False)
    assert [site.name for site in scores.sites] == ["layers.0.qkv"]


def test_a_fused_weight_is_placed_as_one_and_says_so() -> None:
    """The trainer cannot split it: the user must see which slices come along."""
    model = families.build("phi3")
    scores = plop.score(model, batches=families.rows_of("phi3"), progress=False)
    fused = next(row for row in scores.types if row.type == "qkv_proj[v]")
    assert fused.host_type == "qkv_proj"
    placement = plop.place(scores, strategy="custom", types=["qkv_proj[v]"])
    assert {site.type for site in placement.sites} == {"qkv_proj"}
    assert len(placement.sites) == 2
    everything = plop.place(scores, top=4)
    assert {choice.type for choice in everything.choices} == {
        "qkv_proj", "o_proj", "gate_up_proj", "down_proj",
    }  # fmt: skip
    chosen = plop.place(scores, top=2)
    taken = {row.type for row in scores.types for c in chosen.choices if row.host_type == c.type}
    lowest = {name for _, name in sorted((row.nfn, row.type) for row in scores.types)[: len(taken)]}
    assert {name for choice in chosen.choices for name in choice.forced} <= taken - lowest
    for choice in chosen.choices:
        assert all(name in str(chosen) for name in choice.forced)
    for name in lowest - taken:
        assert any(name in note for note in chosen.notes) or "[" not in name


@pytest.mark.slow
def test_forced_and_held_back_slices_are_named() -> None:
    """k_rope alone is low and latent is not: who takes one takes both, and must be told."""
    model = families.build("deepseek_v3")
    scores = plop.score(model, batches=families.rows_of("deepseek_v3", rows=30), progress=False)
    placement = plop.place(scores, top=3)
    chosen = {choice.type: choice.forced for choice in placement.choices}
    assert chosen["kv_b_proj"] == ("kv_b_proj[v]",)
    assert "Forced along: kv_b_proj[v], since kv_b_proj is one weight." in str(placement)
    fewer = plop.place(scores, top=1)
    assert "kv_a_proj_with_mqa[k_rope] would be chosen alone" in str(fewer.notes)


@pytest.mark.parametrize("leaf", FUSED_PROJECTIONS)
def test_the_families_of_the_table_have_the_projection(leaf: str) -> None:
    """A row that names a family without such a projection misleads whoever adds the next one."""
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    package = Path(transformers.__file__).parent / "models"
    for family in FUSED_PROJECTIONS[leaf].families:
        name = model_type_to_module_name(family)
        source = (package / name / f"modeling_{name}.py").read_text(encoding="utf-8")
        assert re.search(rf"self\.{leaf} = ", source), f"{family} has no {leaf}"


def test_the_class_of_undescribed_experts_is_there() -> None:
    """A release that renames the class would leave its experts unmeasured without a word."""
    source = importlib.import_module(LLAMA4_EXPERTS.module)
    assert hasattr(source, LLAMA4_EXPERTS.name)
