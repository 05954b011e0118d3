"""Serving: what the lint says, and that a folded adapter computes what the trained one does.

vLLM and SGLang do not run here. Their arithmetic is stood in for by `serve`: B·A of every tensor
in the folder, times the one factor that `PEFTHelper` of vLLM before 0.32.0 computes from r,
lora_alpha and use_rslora. Every claim has the unfolded adapter as its positive control.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from conftest import build, make_batch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import plop_lora as plop
from plop_lora.cli import app
from plop_lora.errors import AdapterError, ExportError, OutputError, PlopError, UsageError
from plop_lora.exports import Finding, fold, lint
from plop_lora.exports.adapters import read_adapter
from plop_lora.exports.serving.servers import SERVERS, VLLM_RANKS
from plop_lora.files import atomic_folder
from plop_lora.records import Placement

pytestmark = pytest.mark.filterwarnings("ignore")

MIXED = {
    "target_modules": ["q_proj", "v_proj", "down_proj"],
    "rank_pattern": {r"layers\.0\.self_attn\.q_proj": 3, "down_proj": 12},
    "alpha_pattern": {"v_proj": 5, "down_proj": 7},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"target_modules": ["q_proj"]}),
    "mixed": ("llama", MIXED),
    "rslora": ("llama", {**MIXED, "use_rslora": True}),
    "alpha only": (
        "llama", {"target_modules": ["q_proj", "o_proj"], "alpha_pattern": {"o_proj": 1}},
    ),
    "pattern": (
        "llama", {"target_modules": r".*\.1\.mlp\.(up|down)_proj", "rank_pattern": {"up_proj": 2}},
    ),
    "layers": ("llama", {"target_modules": ["o_proj"], "layers_to_transform": [1]}),
    "conv1d": (
        "gpt2", {"target_modules": ["c_attn", "mlp.c_proj"], "rank_pattern": {"c_attn": 2}},
    ),
    "embedding": (
        "llama", {"target_modules": ["embed_tokens", "q_proj"], "rank_pattern": {"q_proj": 9}},
    ),
    "parameter": ("llama", {
        "target_modules": ["q_proj"], "target_parameters": ["mlp.up_proj.weight"],
        "rank_pattern": {"up_proj.weight": 2},
    }),
    "experts": ("moe", {
        "target_modules": ["q_proj"],
        "target_parameters": ["experts.down_proj", "experts.gate_up_proj"],
        "rank_pattern": {"experts.gate_up_proj": 3}, "alpha_pattern": {"experts.down_proj": 9},
    }),
    "converted": ("moe", {"target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"]}),
}  # fmt: skip


def _base(name: str) -> nn.Module:
    if name != "moe":
        return build(name)
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        hidden_size=32, intermediate_size=48, moe_intermediate_size=24, num_hidden_layers=2,
        vocab_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4,
        num_experts_per_tok=2,
    )  # fmt: skip
    return transformers.Qwen3MoeForCausalLM(config).eval()


def _train(folder: Path, name: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
    """Save an adapter whose A and B are random, as if it had been trained."""
    options = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **settings}
    model = peft.get_peft_model(_base(name), peft.LoraConfig(**options))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(folder, save_embedding_layers=False)
    weights = folder / "adapter_model.safetensors"
    save_file({key: value.to(dtype) for key, value in load_file(weights).items()}, weights)
    return folder


def _logits(folder: Path | None, name: str) -> torch.Tensor:
    model = _base(name)
    if folder is not None:
        model = peft.PeftModel.from_pretrained(model, folder).eval()
    with torch.no_grad():
        return model(**make_batch("llama")).logits


def serve(folder: Path, name: str) -> torch.Tensor:
    """Return logits under vLLM's arithmetic, experts by PEFT's layout of stacked factors.

    Source of the rule: vLLM `lora/peft_helper.py` (scaling) and `lora_weights.py` (`optimize`).
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    root = math.sqrt(config["r"]) if config["use_rslora"] else config["r"]
    factor = config["lora_alpha"] / root
    model = _base(name)
    tensors = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for key, A in tensors.items():
            if "lora_A" not in key and "lora_embedding_A" not in key:
                continue
            B = tensors[key.replace("_A", "_B")]
            stem = key.removeprefix("base_model.model.").split(".lora_")[0]
            if ".experts" in stem:
                leaf = "gate_up_proj" if stem.endswith("base_layer") else "down_proj"
                weight = model.get_parameter(f"{stem.removesuffix('.base_layer')}.{leaf}")
                copies = len(weight)
                delta = torch.einsum(
                    "ore,eri->eoi",
                    B.reshape(len(B), -1, copies),
                    A.reshape(copies, -1, A.shape[1]),
                )
            else:
                weight = model.get_parameter(f"{stem}.weight")
                delta = B @ A
                delta = delta if delta.shape == weight.shape and "c_" not in stem else delta.T
            weight += factor * delta
        return model(**make_batch("llama")).logits


def _gap(left: torch.Tensor, right: torch.Tensor) -> float:
    return (left - right).abs().max().item()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_folding_changes_no_output(case: str, tmp_path: Path) -> None:
    """PEFT computes the same before and after; so does vLLM's rule, only after."""
    name, settings = CASES[case]
    trained = _train(tmp_path / "trained", name, **settings)
    folded = fold(trained, tmp_path / "folded")
    wanted = _logits(trained, name)
    assert _gap(wanted, _logits(None, name)) > 1e-2, "the adapter does nothing"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert _gap(wanted, _logits(folded.path, name)) < 1e-5
    assert not [str(w.message) for w in caught if "is_gradient_checkpointing" not in str(w.message)]
    assert _gap(wanted, serve(folded.path, name)) < 1e-5
    if case in ("mixed", "rslora", "alpha only", "pattern", "conv1d", "experts"):
        assert _gap(wanted, serve(trained, name)) > 1e-3, "the control must differ"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_folded_configuration_is_flat(case: str, tmp_path: Path) -> None:
    """One rank that vLLM allows, alpha = r, no patterns, names as a list."""
    name, settings = CASES[case]
    folded = fold(_train(tmp_path / "trained", name, **settings), tmp_path / "folded")
    config = json.loads((folded.path / "adapter_config.json").read_text())
    assert config == folded.config
    assert config["r"] == config["lora_alpha"]
    assert config["r"] in VLLM_RANKS
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    assert config["use_rslora"] is False
    assert isinstance(config["target_modules"], list)
    again = read_adapter(folded.path)
    assert {pair.scaling for pair in again.pairs} == {1.0}
    assert {pair.rank for pair in again.pairs} == {config["r"]}
    assert [(p.name, p.copies) for p in again.pairs] == [(p.name, p.copies) for p in folded.pairs]


@pytest.mark.parametrize("scaling", [1.5, 2.0])
def test_bfloat16_is_folded_in_float32(tmp_path: Path, scaling: float) -> None:
    """B moves by at most half a step of bfloat16, and not at all times a power of two."""
    settings = {"target_modules": ["q_proj"], "lora_alpha": 4 * scaling}
    trained = _train(tmp_path / "trained", "llama", torch.bfloat16, **settings)
    folded = fold(trained, tmp_path / "folded")
    before, after = (
        load_file(path / "adapter_model.safetensors") for path in (trained, folded.path)
    )
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    for key in before:
        if "lora_B" in key:
            exact = before[key].float() * scaling
            error = (after[key][:, :4].float() - exact).abs() / exact.abs()
            assert error.max() <= (0 if scaling == 2 else 1 / 256)
            assert not after[key][:, 4:].any()


def test_an_embedding_saved_along_travels(tmp_path: Path) -> None:
    """PEFT saves the base embedding beside its adapter; losing it breaks resized vocabularies."""
    trained = _train(tmp_path / "trained", "llama", target_modules=["embed_tokens"])
    weights = trained / "adapter_model.safetensors"
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    save_file({**load_file(weights), key: torch.ones(64, 32)}, weights)
    folded = fold(trained, tmp_path / "folded")
    assert load_file(folded.path / "adapter_model.safetensors")[key].sum() == 64 * 32


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return _train(tmp_path / "trained", "llama", **MIXED)


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def _truncate(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def _poison(tensors: dict[str, torch.Tensor]) -> None:
    next(value for key, value in tensors.items() if "lora_B" in key)[0, 0] = float("nan")


DAMAGE: list[tuple[Callable[[Path], Any], str]] = [
    (lambda f: (f / "adapter_model.safetensors").unlink(), "holds no adapter_model.safetensors"),
    (lambda f: (f / "adapter_config.json").unlink(), "holds no adapter_config.json"),
    (lambda f: (f / "adapter_config.json").write_text("{"), "is not complete JSON"),
    (lambda f: (f / "adapter_config.json").write_text("[]"), "peft_type None"),
    (_truncate, "is truncated or not a safetensors file"),
    (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"GGUF"),
        "is truncated or not a safet",
    ),
    (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\xff" * 64), "longer than the file"),
    (lambda f: _edit(f, peft_type="IA3"), "only 'LORA' can be folded"),
    (lambda f: _edit(f, r=None), "no numbers r and lora_alpha"),
    (lambda f: _edit(f, r=5), "not what adapter_config.json gives it"),
    (lambda f: _edit(f, rank_pattern={}), "rank 12 (A) and 12 (B)"),
    (lambda f: _rewrite(f, lambda t: t.update(score=torch.ones(2))), "also holds, or only: score"),
    (lambda f: _rewrite(f, lambda t: t.pop(next(iter(t)))), "It also holds, or only: base_model"),
    (lambda f: _rewrite(f, dict.clear), "or only: nothing"),
    (lambda f: _rewrite(f, _poison), "holds NaN or infinity"),
    (lambda f: _edit(f, use_dora=True), "DoRA"),
    (lambda f: _edit(f, bias="all"), 'Train with bias="none"'),
    (lambda f: _edit(f, lora_bias=True), "lora_bias=False"),
    (lambda f: _edit(f, modules_to_save=["lm_head"]), "Train without modules_to_save"),
    (lambda f: _edit(f, trainable_token_indices=[3]), "merge_and_unload"),
    (lambda f: _edit(f, layer_replication=[[0, 1]]), "merge_and_unload"),
    (lambda f: _edit(f, init_lora_weights="pissa_niter_4"), "path_initial_model_for_weight_conv"),
    (lambda f: _edit(f, init_lora_weights="olora"), "path_initial_model_for_weight_conv"),
    (lambda f: _edit(f, init_lora_weights="loftq"), "base model that LoftQ made"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[message for _, message in DAMAGE])
def test_bad_adapters_are_refused_and_nothing_is_written(
    trained: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    """Each of these would be served wrong, or half written; the text says what repairs it."""
    damage(trained)
    with pytest.raises(AdapterError, match=r"^(?!.*\n)") as error:
        fold(trained, tmp_path / "folded")
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["trained"]


def test_the_line_that_repairs_pissa_works(tmp_path: Path) -> None:
    """The refusal names PEFT's conversion; what it gives is folded and equals the trained model."""
    targets = {"target_modules": ["q_proj", "o_proj"], "r": 4, "lora_alpha": 6}
    config = peft.LoraConfig(**targets, init_lora_weights="pissa", task_type="CAUSAL_LM")
    model = peft.get_peft_model(_base("llama"), config).eval()
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "initial")
    model.peft_config["default"].init_lora_weights = "pissa"
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        wanted = model(**make_batch("llama")).logits
    model.save_pretrained(tmp_path / "trained")
    with pytest.raises(AdapterError, match="path_initial_model_for_weight_conversion"):
        fold(tmp_path / "trained", tmp_path / "folded")
    initial = str(tmp_path / "initial")
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=initial)
    folded = fold(tmp_path / "converted", tmp_path / "folded")
    assert _gap(wanted, serve(folded.path, "llama")) < 1e-5
    assert _gap(wanted, serve(tmp_path / "trained", "llama")) > 1e-2


def test_rank_above_all_servers(tmp_path: Path) -> None:
    trained = _train(tmp_path / "trained", "llama", r=600, target_modules=["q_proj"])
    with pytest.raises(AdapterError, match="rank 600; vLLM serves at most 512"):
        fold(trained, tmp_path / "folded")


def test_a_foreign_folder_is_never_overwritten(trained: Path, tmp_path: Path) -> None:
    """The one irreplaceable thing here is the trained adapter itself."""
    before = (trained / "adapter_model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="was not written by plop export"):
        fold(trained, trained)
    assert (trained / "adapter_model.safetensors").read_bytes() == before
    first = fold(trained, tmp_path / "folded")
    assert fold(trained, tmp_path / "folded").config == first.config
    (first.path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        fold(trained, first.path)
    (tmp_path / "empty").mkdir()
    assert fold(trained, tmp_path / "empty").path.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="it is a file"):
        fold(trained, tmp_path / "file")


def test_a_folded_adapter_can_be_folded_in_place(trained: Path, tmp_path: Path) -> None:
    """Its own folder is ours, so the second fold reads all before it replaces anything."""
    folder = fold(trained, tmp_path / "folded").path
    wanted = _logits(trained, "llama")
    assert _gap(wanted, _logits(fold(folder, folder).path, "llama")) < 1e-5


@pytest.mark.parametrize("older", [False, True])
def test_atomic_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool) -> None:
    """A failure inside the block, or in the rename, leaves the old folder and nothing else."""
    folder = tmp_path / "out"
    if older:
        folder.mkdir()
        (folder / "old").write_text("old")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ZeroDivisionError), atomic_folder(folder) as new:
        (new / "half").write_text(str(1 / 0))
    assert sorted(tmp_path.rglob("*")) == before
    real, calls = os.replace, []

    def fail(source: Any, target: Any) -> None:
        calls.append(target)
        if Path(target) == folder and len(calls) <= 2:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="the disk is full"), atomic_folder(folder) as new:
        (new / "whole").write_text("whole")
    monkeypatch.undo()
    assert sorted(tmp_path.rglob("*")) == before
    with atomic_folder(folder) as new:
        (new / "whole").write_text("whole")
    assert [path.name for path in folder.iterdir()] == ["whole"]


PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
LAYER = "model.layers.0"


def _found(server: str, modules: tuple[str, ...] = (), **changes: Any) -> tuple[Finding, ...]:
    tokens = changes.pop("added_tokens", False)
    return lint({**PLAIN, **changes}, server, modules=modules, added_tokens=tokens)


def test_a_plain_adapter_has_no_findings_on_vllm() -> None:
    """The control of all that follows: a lint that always speaks is not read."""
    assert _found("vllm") == ()
    assert _found("vllm", (f"{LAYER}.self_attn.q_proj",)) == ()
    assert [finding.severity for finding in _found("sglang")] == ["note"]


OLD = "vllm==0.31.0"
EXPERTS = (f"{LAYER}.mlp.experts.gate_up_proj", f"{LAYER}.mlp.experts.down_proj")
LINT: list[tuple[str, dict[str, Any], str, str]] = [
    ("vllm", {"r": 17}, "note", "--max-lora-rank 32"),
    ("vllm", {"rank_pattern": {"q_proj": 64}}, "note", "--max-lora-rank 64"),
    ("vllm", {"r": 513}, "rejected", "rank 513 is above 512"),
    ("sglang", {"r": 513}, "note", "--max-lora-rank 513"),
    (OLD, {"rank_pattern": {"v_proj": 4}}, "ignored", "scales all modules by 2"),
    (OLD, {"alpha_pattern": {"v_proj": 4}}, "ignored", "scales all modules by 2"),
    (OLD, {"rank_pattern": {"v": 4}, "alpha_pattern": {"v": 8}}, "note", "nothing to do"),
    ("sglang", {"rank_pattern": {"v": 4}, "alpha_pattern": {"v": 8}}, "rejected", "--to vllm"),
    ("sglang", {"alpha_pattern": {"v_proj": 4}}, "ignored", "scales all modules by 2"),
    ("sglang", {"use_rslora": True}, "ignored", "2.83 times too weak"),
    ("vllm", {"modules_to_save": ["lm_head"]}, "rejected", "modules_to_save) is not served"),
    ("sglang", {"modules_to_save": ["lm_head"]}, "ignored", "(lm_head)"),
    ("vllm", {"use_dora": True}, "rejected", "DoRA"),
    ("sglang", {"use_dora": True}, "rejected", "DoRA"),
    ("vllm", {"bias": "lora_only"}, "rejected", "bias"),
    ("vllm", {"lora_bias": True}, "rejected", "lora_bias"),
    ("vllm", {"trainable_token_indices": [1]}, "rejected", "trained tokens"),
    (OLD, {"alora_invocation_tokens": [1]}, "ignored", "activated LoRA"),
    (OLD, {"init_lora_weights": "pissa"}, "ignored", "path_initial_model_for_weight_conversion"),
    ("sglang", {"init_lora_weights": "corda"}, "ignored", "path_initial_model"),
    ("vllm", {"added_tokens": True}, "ignored", "added_tokens.json"),
    ("sglang", {"added_tokens": True}, "rejected", "added_tokens.json"),
    ("vllm", {"modules": ("visual.blocks.0.attn.qkv",)}, "ignored", "enable-tower-connector-lora"),
    ("sglang", {"modules": ("audio_tower.layers.0.q_proj",)}, "ignored", "language model only"),
    ("vllm", {"modules": ("model.language_model.layers.0.q_proj",)}, "note", "multimodal class"),
    ("vllm", {"modules": EXPERTS}, "note", "--enable-mixed-moe-lora-format"),
    ("vllm", {"modules": EXPERTS[1:]}, "rejected", "both projections"),
    ("vllm", {"modules": EXPERTS, "peft_version": "0.18.1"}, "rejected", "transposed"),
    ("sglang", {"modules": EXPERTS}, "rejected", "no layer for experts"),
    ("vllm", {"modules": (f"{LAYER}.qkv_proj",)}, "note", "packed_modules_mapping"),
    ("sglang", {"modules": ("transformer.h.0.attn.c_attn",)}, "rejected", "has no LoRA layer"),
    ("vllm", {"modules": (f"{LAYER}.mamba.conv1d",)}, "rejected", "linear layers only"),
    ("vllm", {"modules": ("lm_head",)}, "note", "tied"),
    ("sglang", {"target_modules": r".*\.q_proj"}, "rejected", "takes a list"),
]  # fmt: skip


@pytest.mark.parametrize(("server", "changes", "severity", "text"), LINT, ids=str)
def test_findings(server: str, changes: dict[str, Any], severity: str, text: str) -> None:
    """One finding a rule of the server, and nothing worse beside it."""
    findings = [finding for finding in _found(server, **changes) if text in str(finding)]
    assert [finding.severity for finding in findings] == [severity]
    rejected = [f for f in _found(server, **changes) if f.severity == "rejected"]
    assert len(rejected) == (severity == "rejected")


def test_findings_name_the_modules(trained: Path) -> None:
    """Known names are matched as PEFT matches them: only weights with another scaling are named."""
    adapter = read_adapter(trained)
    names = tuple(pair.name for pair in adapter.pairs)
    (finding,) = lint(adapter.config, OLD, modules=names)
    own = {pair.name for pair in adapter.pairs if pair.scaling != 1.5}
    assert set(finding.modules) == own
    assert len(own) < len(names)
    assert "and 2 more)" in str(finding)


def test_unknown_server() -> None:
    with pytest.raises(UsageError, match="Did you mean 'vllm'"):
        lint(PLAIN, "vlm")


def _mixed_ranks(placement: Placement, *, rslora: bool = False) -> Placement:
    """Give the first site rank 2, as a budget does."""
    first = dataclasses.replace(placement.sites[0], rank=2)
    settings = dataclasses.replace(placement.settings, rslora=rslora)
    return dataclasses.replace(placement, sites=(first, *placement.sites[1:]), settings=settings)


@pytest.mark.parametrize("rslora", [False, True])
def test_placements_of_ours_are_served_right_by_vllm(scores: plop.Scores, rslora: bool) -> None:
    """Ranks differ, scaling does not; so the patterns that vLLM skipped change nothing."""
    placement = _mixed_ranks(plop.place(scores), rslora=rslora)
    assert lint(placement, "vllm") == ()
    (finding,) = lint(placement, OLD)
    assert finding.severity == "note"
    assert finding.modules == (placement.sites[0].name,)
    assert lint(plop.place(scores), "vllm") == ()


def test_a_placement_is_linted_before_it_is_trained(scores: plop.Scores, tmp_path: Path) -> None:
    """SGLang wants one rank; finding it out after the training is too late."""
    placement = _mixed_ranks(plop.place(scores))
    pissa = dataclasses.replace(
        placement, settings=dataclasses.replace(placement.settings, init="pissa")
    )
    assert any("init 'pissa'" in f.what and f.severity == "note" for f in lint(pissa, "vllm"))
    path = placement.save(tmp_path / "placement.json")
    words = ["export", str(path), "-o", str(tmp_path / "out"), "--serve", "sglang", "--no-dry-run"]
    with pytest.raises(ExportError, match=r"sglang would refuse .* one rank an adapter"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    with pytest.raises(ExportError, match="Nothing was written"):
        placement.export(tmp_path / "out", serve="sglang", dry_run=False)
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*words, "--allow-loss"])
    assert done.exit_code == 0
    assert "rejected: sglang has one rank an adapter" in done.stderr
    assert (tmp_path / "out" / "adapter_config.json").exists()


def test_fold_on_the_command_line(trained: Path, tmp_path: Path) -> None:
    """What was wrong goes to stderr, the result and the line that serves it to stdout."""
    out = tmp_path / "folded"
    words = ["export", str(trained), "--to", "vllm", "-o", str(out)]
    done = CliRunner().invoke(app, [*words, "--serve", OLD], catch_exceptions=False)
    assert done.exit_code == 0
    assert "Repaired: rank_pattern and alpha_pattern: vllm scales all modules" in done.stderr
    assert f"{out}: 6 adapters, rank 3 to 12 → 16" in done.stdout
    assert f"--enable-lora --lora-modules NAME={out}" in done.stdout
    done = CliRunner().invoke(app, [*words, "--serve", "sglang", "--format", "json"])
    assert "Repaired: sglang has one rank an adapter" in done.stderr
    assert json.loads(done.stdout)["r"] == 16


def test_what_the_server_rejects_stops_the_fold(tmp_path: Path) -> None:
    """Half of the experts can be folded, but vLLM stops at them."""
    settings = {"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]}
    trained = _train(tmp_path / "trained", "moe", **settings)
    with pytest.raises(ExportError, match=r"both projections .* --allow-loss"):
        fold(trained, tmp_path / "folded")
    assert not (tmp_path / "folded").exists()
    folded = fold(trained, tmp_path / "folded", allow_loss=True)
    assert _gap(_logits(trained, "moe"), _logits(folded.path, "moe")) < 1e-5


def test_parameters_that_cannot_be_told_apart(tmp_path: Path) -> None:
    """A guess about which rank belongs to which tensor would be served without an error."""
    trained = _train(tmp_path / "trained", "moe", **CASES["experts"][1])
    _edit(trained, target_parameters=["experts.down_proj"])
    with pytest.raises(AdapterError, match="has 2 nested adapters"):
        fold(trained, tmp_path / "folded")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "placement.json", "--to", "vllm"], "is a file, but a trained adapter is a"),
        (["export", "trained"], "is a folder, but --to peft exports a file of plop place"),
        (["export", "placement.json", "--to", "vlm"], "Allowed: peft"),
        (["export", "placement.json", "--serve", "vlm"], "Did you mean 'vllm'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_wrong_kind_of_source(
    trained: Path, tmp_path: Path, scores: plop.Scores, monkeypatch: pytest.MonkeyPatch,
    words: list[str], message: str,
) -> None:  # fmt: skip
    """A file for a folder and a folder for a file: the text gives the command that works."""
    plop.place(scores).save(tmp_path / "placement.json")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlopError) as error:
        CliRunner().invoke(app, [*words, "-o", "out"], catch_exceptions=False)
    assert error.value.exit_code == 2
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


NAMED_OTHERWISE = {"use_dora": "DoRA", "trainable_token_indices": "trained tokens"}


def test_every_finding_is_documented() -> None:
    """The how-to names each setting and each check; a new one without a line there fails."""
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "serve.md").read_text()
    for word in map(str, (*SERVERS, *VLLM_RANKS, *SERVERS["vllm"].rejects)):
        assert NAMED_OTHERWISE.get(word, word) in page
    for word in ("rejected", "ignored", "note", "rslora", "rank_pattern", "tower"):
        assert word in page


def test_saved_placement_is_what_is_linted(scores: plop.Scores, tmp_path: Path) -> None:
    placement = plop.place(scores)
    again = Placement.load(placement.save(tmp_path / "placement.json"))
    assert lint(again, "sglang") == lint(placement, "sglang")
    shutil.rmtree(tmp_path)
