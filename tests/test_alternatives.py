"""Alternatives inside a pattern that match nothing, and those of which nothing may be said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import build

from plop_lora.exports.alternatives import dead_alternatives
from plop_lora.exports.imported import import_adapter

NAMES = [
    f"model.layers.{layer}.{leaf}"
    for layer in (0, 1)
    for leaf in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
]


def _dead(pattern: str, names: list[str] = NAMES) -> str:
    (found,) = dead_alternatives({"target_modules": pattern}, names, names) or ("",)
    return found.partition("match nothing: ")[2]


@pytest.mark.parametrize(
    ("pattern", "dead"),
    [
        (r".*\.(q_proj|qq_proj)", "'qq_proj'"),
        (r".*\.(?:q_proj|qq_proj)", "'qq_proj'"),
        (r".*\.(?P<leaf>q_proj|qq_proj)", "'qq_proj'"),
        (r".*\.(q|qq)_proj", "'qq'"),
        (r".*q_proj|.*qq_proj", "'.*qq_proj'"),
        (r".*\.(self_attn\.(q_proj|x_proj)|mlp\.(up_proj|down_proj))", "'x_proj', 'down_proj'"),
        (r".*\.(attn\.(q_proj|v_proj)|mlp\.up_proj)", "'attn\\\\.(q_proj|v_proj)'"),
        (r".*\.layers\.(0|1|2|3|4|5)\..*q_proj", "'2' to '5' (4 names)"),
        (r".*\.(q_proj|[x(|]_proj)", "'[x(|]_proj'"),
        (r".*\.(q_proj|\|_proj)", "'\\\\|_proj'"),
        (r".*\.(q_proj|qq_proj)?", "'qq_proj'"),
    ],
)
def test_dead_alternatives_are_named(pattern: str, dead: str) -> None:
    """The pattern matches elsewhere, so that nothing was said about what it does not match."""
    assert _dead(pattern) == dead


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q_proj|v_proj)",
        r".*\.(q_proj|v_proj|)",
        r".*\.(?:self_|attn|\.|q_proj)+",
        r".*(?!qq_proj|x_proj).*q_proj",
        r".*(?<=q_proj|x_proj)",
        r".*\.(q_proj|(?:.*\.)?v_proj)",
        r".*\.(q)(_proj|\1_proj)",
        r"(?P<a>.*\.)(q_proj|(?P=a)v_proj)",
        r".*\.(xx|yy)_proj",
        r".*\.q_proj",
        r".*q_proj|(x+x+)+y",
        r".*q_proj|(?:(?:m|o|d|e|l|\.|\w)*)*!",
    ],
)
def test_nothing_false_is_said(pattern: str) -> None:
    """Repeated, looked at, referred back to, wholly dead, or too slow to try: not told."""
    if "+y" in pattern or "!" in pattern[-1]:
        assert "q_proj" not in _dead(pattern, [*NAMES, "x" * 40])
    else:
        assert _dead(pattern) == ""


def test_the_keys_of_the_patterns_and_exclusions() -> None:
    document = {
        "rank_pattern": {r"(q_proj|k_proj)": 4, "v_proj": 8},
        "alpha_pattern": {r"layers\.(0|9)\.mlp.up_proj": 4},
        "exclude_modules": r".*\.(up_proj|head)",
    }
    found = dead_alternatives(document, NAMES, NAMES)
    assert [sentence.partition(" ")[0] for sentence in found] == [
        "exclude_modules",
        "rank_pattern",
        "alpha_pattern",
    ]
    assert [sentence.rpartition(": ")[2] for sentence in found] == ["'head'", "'k_proj'", "'9'"]


def test_stacked_experts_take_the_names_of_their_projections() -> None:
    """PEFT turns these names into the stacked experts, though no module has them."""
    names = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.experts.gate_up_proj"]
    assert _dead(r".*\.(q_proj|gate_proj)", names) == ""


def test_an_imported_adapter_is_told(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 4,
        "target_modules": r".*\.(q_proj|qq_proj)",
    }  # fmt: skip
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(config))
    (note,) = (note for note in import_adapter(path, build("llama")).notes if "qq_proj" in note)
    assert "has alternatives that match nothing: 'qq_proj'" in note
