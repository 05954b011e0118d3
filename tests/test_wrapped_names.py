"""Adapters that were saved inside a wrapper: the folded one has the names that servers have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from plop_lora.errors import AdapterError
from plop_lora.exports import fold
from plop_lora.exports.adapters import read_adapter
from plop_lora.exports.wrapped import unwrapped, unwrapped_fields

STEMS = [
    f"model.layers.{layer}.self_attn.{leaf}" for layer in (0, 1) for leaf in ("q_proj", "v_proj")
]
PREFIX = "base_model.model."
CONFIG = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {r"model\.layers\.0\.self_attn\.q_proj": 2},
    "alpha_pattern": {r"model\.layers\.0\.self_attn\.q_proj": 5},
}  # fmt: skip


def _save(folder: Path, where: str, wrapper: str) -> Path:
    """Save an adapter whose names hold a wrapper: outermost, inside PEFT's prefix, in a block."""
    folder.mkdir()
    torch.manual_seed(0)
    tensors = {}
    for stem in STEMS:
        rank = 2 if stem == STEMS[0] else 4
        name = PREFIX + stem
        if where == "outermost":
            name = wrapper + name
        elif where == "inside":
            name = PREFIX + wrapper + stem
        elif where == "block":
            name = name.replace(".self_attn", f".{wrapper}self_attn")
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, 8)
        tensors[f"{name}.lora_B.weight"] = torch.randn(8, rank)
    save_file(tensors, folder / "adapter_model.safetensors")
    keys = {
        field: {wrapper.replace(".", r"\.") + key if where == "inside" else key: value
                for key, value in CONFIG[field].items()}
        for field in ("rank_pattern", "alpha_pattern")
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **keys}))
    return folder


@pytest.mark.parametrize(
    ("where", "wrapper"),
    [
        ("inside", "_orig_mod."),
        ("outermost", "_orig_mod."),
        ("block", "_orig_mod."),
        ("block", "_checkpoint_wrapped_module."),
        ("inside", "_fsdp_wrapped_module."),
        ("inside", "module."),
        ("outermost", "module."),
    ],
)
def test_a_wrapper_is_taken_out_of_names(where: str, wrapper: str, tmp_path: Path) -> None:
    """Servers and PEFT load such an adapter without a word, and the base model answers."""
    plain = fold(_save(tmp_path / "plain", "nowhere", ""), tmp_path / "a")
    folded = fold(_save(tmp_path / "wrapped", where, wrapper), tmp_path / "b")
    assert folded.config == plain.config
    wanted = load_file(plain.path / "adapter_model.safetensors")
    found = load_file(folded.path / "adapter_model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    said = [line for line in folded.messages if f"hold {wrapper.rstrip('.')}," in line]
    assert len(said) == 1
    assert "Repaired" in said[0]
    assert not any("wrapper" in line for line in plain.messages)
    assert read_adapter(folded.path).wrappers == ()


def test_one_weight_with_and_without_its_wrapper_is_refused(tmp_path: Path) -> None:
    """Which of the two was trained cannot be told."""
    folder = _save(tmp_path / "wrapped", "inside", "_orig_mod.")
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    twin = next(iter(tensors))
    save_file({**tensors, twin.replace("_orig_mod.", ""): tensors[twin].clone()}, weights)
    with pytest.raises(AdapterError, match="name the same weight, once with the wrapper"):
        fold(folder, tmp_path / "folded")


@pytest.mark.parametrize(
    "name", ["model.layers.0.module.q_proj", "my_orig_mod.q_proj", r".*\.q_proj", "modules.q_proj"]
)
def test_other_names_stay(name: str) -> None:
    """A model of one's own may have a part called `module`."""
    assert unwrapped(name) == (name, ())
    assert unwrapped_fields({"target_modules": [name]}) == ({"target_modules": [name]}, ())
