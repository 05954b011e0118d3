"""Trainings with checkpoints: a killed one ends with the adapter of one that was not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import finetunes
import placements
import pytest
import resumed
import torch
import trials
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import plop_lora as plop
from plop_lora.demo import MODEL
from plop_lora.gating.adapter import read_judged
from plop_lora.records import TrialResult, TrialSpec
from plop_lora.training.checkpoints import MARK, find_last, mark_complete, rotate
from plop_lora.training.curve import Curve

BUNDLED = {"self_attn.q_proj": 4}
ENCODER = {"attention.self.value": 4, "output.dense": 4}


def sft(folder: Path, **settings: Any) -> TrialSpec:
    rows = finetunes.NEW
    data = resumed.write_rows(
        folder, train=rows[:16], evaluation=rows[24:28], selection=rows[30:34]
    )
    placed = placements.placed("bundled", BUNDLED, dropout=0.1, loraplus_ratio=4.0)
    spec = finetunes.spec("sft", steps=None, epochs=2.0)
    return resumed.final(replace(spec, placement=placed), data, **settings)


def grpo(folder: Path, **settings: Any) -> TrialSpec:
    rows = [
        {"prompt": row["prompt"], "answer": problem["answer"]}
        for row, problem in zip(finetunes.ROWS, finetunes.PROBLEMS, strict=True)
    ]
    data = resumed.write_rows(folder, train=rows[:8], evaluation=rows[24:28], selection=rows[30:32])
    spec = finetunes.spec(
        "grpo", steps=None, epochs=2.0, generations=2, completion_length=8, max_new_tokens=4,
        rewards=("trials_rewards:letters",), rate=1e-2,
    )  # fmt: skip
    placed = placements.placed("bundled", BUNDLED)
    return resumed.final(replace(spec, placement=placed), data, **settings)


def classify(folder: Path, **settings: Any) -> TrialSpec:
    model = trials.checkpoint(folder / "model", "BertModel")
    data = resumed.write_rows(
        folder,
        train=trials.rows(32),
        evaluation=trials.rows(12, start=100),
        selection=trials.rows(8, start=200),
    )
    spec = trials.spec_of(model, placements.placed("bert", ENCODER), data, steps=None, epochs=2.0)
    return resumed.final(spec, data, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("make", [sft, classify, grpo])
def test_a_killed_training_ends_with_the_same_adapter(
    make: Callable[..., TrialSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another order of rows, other random numbers or a new optimizer would give another adapter.

    Killed are: the second pass in its middle, a checkpoint in its middle, and the process after
    the last checkpoint.
    """
    (tmp_path / "trials_rewards.py").write_text(
        "def letters(completions, **given):\n    return [len(set(text)) for text in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    spec = make(tmp_path, patience=5)
    assert resumed.run_forked(spec, tmp_path / "whole", tmp_path) == 0
    whole = TrialResult.load(tmp_path / "whole" / "result.json")
    for number, plant in enumerate(
        (resumed.killed_at_step(5), resumed.killed_in_save(2), resumed.killed_at_the_end())
    ):
        folder = tmp_path / str(number)
        assert resumed.run_forked(spec, folder, tmp_path, plant) == -9
        assert not (folder / "adapter").exists()
        assert resumed.run_forked(spec, folder, tmp_path) == 0
        found = TrialResult.load(folder / "result.json")
        expected = resumed.factors(tmp_path / "whole")
        for name, tensor in resumed.factors(folder).items():
            assert torch.equal(tensor, expected[name]), f"{number}: {name}"
        assert (found.steps, found.best_step) == (whole.steps, whole.best_step)
        assert found.metrics == whole.metrics
        assert found.cost.tokens == whole.cost.tokens
        assert any("resumed from the checkpoint of step" in note for note in found.notes)


@pytest.mark.slow
def test_the_best_checkpoint_ships(tmp_path: Path) -> None:
    """A training that goes on after its best evaluation would ship what it made worse."""
    spec = replace(sft(tmp_path, patience=1), learning_rate=0.1)
    assert resumed.run_forked(spec, tmp_path / "run", tmp_path) == 0
    found = TrialResult.load(tmp_path / "run" / "result.json")
    lines = (tmp_path / "run" / "curve.jsonl").read_text().splitlines()
    losses = {row["step"]: row["eval_loss"] for row in map(json.loads, lines) if "eval_loss" in row}
    assert found.best_step == min(losses, key=losses.__getitem__)
    assert found.best_step < found.steps < 8
    assert dict(found.curve.evaluations) == pytest.approx(losses, rel=1e-5)
    best = load_file(
        tmp_path / "run" / "checkpoints" / f"checkpoint-{found.best_step}"
        / "adapter_model.safetensors"
    )  # fmt: skip
    for name, tensor in resumed.factors(tmp_path / "run").items():
        assert torch.equal(tensor, best[name]), name


@pytest.mark.slow
def test_a_training_that_diverges_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    """A checkpoint of NaN would be resumed from, and gated."""
    spec = sft(tmp_path, patience=3)
    folder = tmp_path / "run"
    assert resumed.run_forked(spec, folder, tmp_path, resumed.nan_after_step(5)) == 3
    found = TrialResult.load(folder / "result.json")
    assert "became NaN" in found.cause
    assert not (folder / "adapter").exists()
    last = find_last(folder / "checkpoints").last
    assert last.name == "checkpoint-5"
    factors = load_file(last / "adapter_model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in factors.values())


# --------------------------------------------------------------------------- without training


def checkpoint(folder: Path, step: int, *, best: int | None = None, mark: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(bytes([step]))
    state = {"global_step": step, "best_global_step": best, "epoch": 0.5}
    (path / "trainer_state.json").write_text(json.dumps(state))
    if mark:
        mark_complete(path)
    return path


def test_half_written_and_damaged_checkpoints_are_skipped(tmp_path: Path) -> None:
    """A training that resumes from half a checkpoint fails, or goes on with other factors."""
    first = checkpoint(tmp_path, 4)
    damaged = checkpoint(tmp_path, 8)
    checkpoint(tmp_path, 12, mark=False)
    (damaged / "adapter_model.safetensors").write_bytes(b"other")
    found = find_last(tmp_path)
    assert found.last == first
    assert found.notes == (
        "checkpoint 12 is not complete and was not used",
        "checkpoint 8 is damaged and was not used",
    )
    assert find_last(tmp_path / "none").last is None


def test_a_checkpoint_counts_only_with_the_best_one_before_it(tmp_path: Path) -> None:
    """Without it, the best factors of the whole training would be lost without a word."""
    checkpoint(tmp_path, 4)
    best = checkpoint(tmp_path, 8, best=8)
    checkpoint(tmp_path, 12, best=8)
    assert find_last(tmp_path).last == tmp_path / "checkpoint-12"
    (best / MARK).unlink()
    found = find_last(tmp_path)
    assert found.last == tmp_path / "checkpoint-4"
    assert "checkpoint 8, the best one until then, is damaged or missing" in found.notes[0]


def test_a_link_is_no_checkpoint(tmp_path: Path) -> None:
    """The `.pt` files of a folder of somebody else are not read."""
    elsewhere = checkpoint(tmp_path / "elsewhere", 4)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint-4").symlink_to(elsewhere)
    assert find_last(tmp_path / "run").last is None
    inside = checkpoint(tmp_path / "run", 8)
    (inside / "adapter_model.safetensors").unlink()
    (inside / "adapter_model.safetensors").symlink_to(elsewhere / "adapter_model.safetensors")
    assert find_last(tmp_path / "run").last is None


def test_the_best_one_is_kept_beside_the_last(tmp_path: Path) -> None:
    """The best checkpoint of each that is kept stays, so that any of them can be resumed from."""
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5)):
        checkpoint(tmp_path, step, best=best)
    rotate(tmp_path, 3)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"checkpoint-{step}" for step in (2, 4, 5, 6)
    }


def test_the_curve_goes_on_at_the_checkpoint(tmp_path: Path) -> None:
    """Rows after the checkpoint are logged again, and would stand twice."""
    log = Curve(tmp_path)
    for step in (1, 2, 3):
        log({"step": step, "loss": 1.0 / step})
    with (tmp_path / "curve.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    again = Curve(tmp_path, upto=2)
    again({"step": 3, "loss": 0.3})
    lines = (tmp_path / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert [row["step"] for row in again.rows] == [1, 2, 3]


def test_specs_without_checkpoints_keep_their_digest() -> None:
    """Another digest would run every finished trial of an older folder again."""
    document = finetunes.spec("sft").to_dict()
    assert "checkpoints" not in document
    assert "selection" not in document["data"]


@pytest.mark.slow
def test_a_finetune_from_a_placement_to_the_gate(tmp_path: Path) -> None:
    """What a finetune leaves must load with PEFT's own reader, and be an adapter for the gate."""
    for name, rows in (("train", finetunes.NEW[:48]), ("eval", finetunes.NEW[60:80])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    placed = placements.placed("bundled", BUNDLED)
    model = replace(
        placed.model, name=str(MODEL), config=AutoConfig.from_pretrained(MODEL).to_dict()
    )
    record = plop.finetune(
        replace(placed, model=model), folder=tmp_path / "run", task="sft",
        train=str(tmp_path / "train.jsonl"), eval=str(tmp_path / "eval.jsonl"),
        finetune={"learning_rate": 1e-2}, general={"most": 0},
        training={"device": "cpu", "batch_size": 4, "dtype": "float32"},
    )  # fmt: skip
    assert record.verdict == "better than base", record.outcomes
    assert record.best_step
    folder = tmp_path / "run" / "adapter"
    assert PeftConfig.from_pretrained(folder).base_model_name_or_path == str(MODEL)
    base = AutoModelForCausalLM.from_pretrained(MODEL)
    assert PeftModel.from_pretrained(base, folder).active_adapter == "default"
    assert read_judged(folder, None).digest == record.adapter_digest
