"""Which projections a server serves alone: the lint beside the loaders' rules, for every subset.

The rules are written down twice: as data in `exports/serving/stacking.py`, and here by what
SGLang's loader does with names and tensors. Where SGLang is installed, its own source does it
(0.5.23 was used).
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import itertools
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from placements import placed

import plop_lora as plop
from plop_lora.exports import Finding, lint

SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MLA = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
QWEN_3_5 = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
SUBSETS = [
    subset
    for every in (SEVEN, MLA, FUSED)
    for size in range(1, len(every) + 1)
    for subset in itertools.combinations(every, size)
]
BLOCK = "model.layers.0.block"


def _found(server: str, leaves: Iterable[str], **changes: Any) -> tuple[Finding, ...]:
    config = {"r": 8, "lora_alpha": 8, "target_modules": list(leaves), **changes}
    return lint(config, server, modules=[f"{BLOCK}.{leaf}" for leaf in leaves])


def _rejected(server: str, leaves: Iterable[str]) -> set[str]:
    return {
        name.rpartition(".")[2]
        for finding in _found(server, leaves)
        if finding.severity == "rejected"
        for name in finding.modules
    }


def _by_hand(leaves: Iterable[str]) -> bool:
    """Whether SGLang serves a subset: every adapted projection must reach a buffer."""
    have = set(leaves)
    attention = not have & {"q_proj", "k_proj", "v_proj"} or {"q_proj", "v_proj"} <= have
    mlp = "up_proj" not in have or "gate_proj" in have
    latent = len(have & {"q_a_proj", "kv_a_proj_with_mqa"}) != 1
    return attention and mlp and latent


@pytest.mark.parametrize("leaves", SUBSETS, ids="+".join)
def test_every_subset_is_served_or_rejected(leaves: tuple[str, ...]) -> None:
    """Of v, up and down SGLang takes down alone, and nothing was said."""
    assert (not _rejected("sglang", leaves)) == _by_hand(leaves)
    assert not _rejected("vllm", leaves)


@pytest.mark.parametrize("leaves", SUBSETS, ids="+".join)
def test_the_advice_names_what_serves(leaves: tuple[str, ...]) -> None:
    """Whoever follows the advice must not meet the next rejection."""
    for finding in _found("sglang", leaves):
        named = re.search(r"Train (.*) together", finding.todo)
        if named:
            completed = named[1].split(", ")
            assert set(completed) >= set(leaves)
            assert not _rejected("sglang", completed)


def test_the_usual_answer_of_this_product(scores: plop.Scores) -> None:
    """The three lowest types of most decoders; the advice is a placement that is served."""
    placement = plop.place(scores, strategy="custom", types=["v_proj", "up_proj", "down_proj"])
    findings = [f for f in lint(placement, "sglang") if f.severity == "rejected"]
    assert {name.rpartition(".")[2] for f in findings for name in f.modules} == {
        "v_proj",
        "up_proj",
    }
    (types_named,) = {re.search(r"--types (\S+);", str(finding))[1] for finding in findings}
    assert types_named == "down_proj,gate_proj,q_proj,up_proj,v_proj"
    served = plop.place(scores, strategy="custom", types=types_named.split(","))
    assert [finding.severity for finding in lint(served, "sglang")] == ["note"]
    assert lint(placement, "vllm") == ()


def test_one_block_without_its_lead_is_enough() -> None:
    """The loader looks into each block by itself."""
    names = [f"model.layers.{layer}.self_attn.{leaf}" for layer in (0, 1) for leaf in SEVEN[:3]]
    config = {"r": 8, "lora_alpha": 8, "target_modules": list(SEVEN[:3])}
    rejected = [
        finding
        for finding in lint(config, "sglang", modules=names[:3] + names[4:])
        if finding.severity == "rejected"
    ]
    assert [finding.modules for finding in rejected] == [(names[4], names[5])]


def test_a_projection_that_does_not_exist_is_not_advised() -> None:
    """Where v is k, as in some blocks of Gemma 4, q can never be served: merging is left."""
    placement = placed("llama", {"self_attn.q_proj": 8, "self_attn.v_proj": 8})
    sites = tuple(s for s in placement.sites if s.name != "model.layers.1.self_attn.v_proj")
    findings = lint(dataclasses.replace(placement, sites=sites), "sglang")
    (finding,) = [f for f in findings if f.severity == "rejected"]
    assert finding.modules == ("model.layers.1.self_attn.q_proj",)
    assert "which some of these blocks have not" in finding.what
    assert "merge_and_unload" in finding.todo


@pytest.mark.parametrize("size", range(1, len(QWEN_3_5) + 1))
def test_parts_of_linear_attention(size: int) -> None:
    """SGLang has no buffer for these names; vLLM counts z alone as all four slices."""
    for leaves in itertools.combinations(QWEN_3_5, size):
        served = set(leaves) <= {"out_proj"}
        assert (not _rejected("sglang", leaves)) == served, leaves
        alone = "in_proj_z" in leaves and "in_proj_qkv" not in leaves
        assert _rejected("vllm", leaves) == ({"in_proj_z"} if alone else set()), leaves


@pytest.mark.parametrize(("kind", "severity"), [("qwen3_next", "rejected"), ("qwen3_5", "note")])
def test_sizes_that_only_some_classes_know(kind: str, severity: str) -> None:
    """Its class of Qwen3-Next has no sizes for linear attention, that of Qwen3.5 has."""
    placement = placed("llama", {"self_attn.o_proj": 8})
    site = dataclasses.replace(placement.sites[0], name="model.layers.0.linear_attn.out_proj")
    model = dataclasses.replace(
        placement.model, config={**placement.model.config, "model_type": kind}
    )
    found = lint(dataclasses.replace(placement, sites=(site,), model=model), "sglang")
    assert [f.severity for f in found if "class of the model" in f.what] == [severity]


@pytest.mark.parametrize(
    ("model", "ranks", "lost"),
    [
        ("deepseek_v3", {"mlp.shared_experts.down_proj": 4, "self_attn.o_proj": 8}, {"down_proj"}),
        ("qwen3_moe", {"mlp.gate_proj": 4, "mlp.down_proj": 4}, {"gate_proj", "down_proj"}),
        ("llama", {"mlp.gate_proj": 4, "mlp.down_proj": 4}, set()),
    ],
)
def test_modules_that_stand_in_target_parameters(model: str, ranks: dict, lost: set[str]) -> None:
    """SGLang makes its layers from `target_modules`, where PEFT must not have these names."""
    findings = [f for f in lint(placed(model, ranks), "sglang") if "target_parameters" in f.what]
    found = {name.rpartition(".")[2] for f in findings for name in f.modules}
    assert found == lost
    for finding in findings:
        assert finding.severity == "rejected"
        flag = re.search(r"--lora-target-modules ([\w ]+),", finding.todo)[1].split()
        assert set(flag) >= lost


# ------------------------------------------------------------------- the loader itself


def _sglang() -> Path:
    spec = importlib.util.find_spec("sglang")
    if spec is None:
        pytest.skip("SGLang is not installed")
    return Path(next(iter(spec.submodule_search_locations)), "srt", "lora")


def _functions(path: Path, names: Iterable[str], **known: Any) -> dict[str, Any]:
    """Run the definitions of these functions and methods of a file, and nothing else of it."""
    wanted = set(names)
    nodes = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name in wanted
    ]
    for node in nodes:
        node.returns = None
        for argument in (*node.args.args, *node.args.kwonlyargs):
            argument.annotation = None
    made = {"torch": torch, "re": re, **known}
    exec(compile(ast.Module(nodes, []), str(path), "exec"), made)
    return made


SIZES = {"q_proj": 8, "k_proj": 4, "v_proj": 4, "q_a_proj": 6, "kv_a_proj_with_mqa": 5}


def _loads(folder: Path, leaves: Iterable[str]) -> bool:
    """Whether the real loader brings every tensor of an adapter into a buffer of its shape."""
    steps = ("normalize_qkv_proj", "normalize_gate_up_proj", "normalize_fused_qkv_a_proj")
    lora = _functions(folder / "lora.py", steps)
    utils = _functions(
        folder / "utils.py", ("get_normalized_target_modules", "get_target_module_name")
    )
    adapter = types.SimpleNamespace(_is_non_gated_moe_weight=lambda name: False)
    weights = {}
    for leaf in leaves:
        stem = f"base_model.model.{BLOCK}.{leaf}"
        weights[f"{stem}.lora_A.weight"] = torch.zeros(2, 8)
        weights[f"{stem}.lora_B.weight"] = torch.zeros(SIZES.get(leaf, 8), 2)
    targets = utils["get_normalized_target_modules"](list(leaves))
    try:
        for step in steps:
            lora[step](adapter, list(weights), weights)
        for name in weights:
            buffer = utils["get_target_module_name"](name, targets)
            if buffer == "fused_qkv_a_proj_with_mqa" and "lora_B" in name:
                assert len(weights[name]) == SIZES["q_a_proj"] + SIZES["kv_a_proj_with_mqa"]
    except (KeyError, ValueError, AssertionError):
        return False
    return True


@pytest.mark.parametrize("leaves", SUBSETS, ids="+".join)
def test_real_sglang(leaves: tuple[str, ...]) -> None:
    """What the lint rejects is what SGLang's own code does not load, and nothing else."""
    folder = _sglang()
    assert _loads(folder, leaves) == (not _rejected("sglang", leaves))
