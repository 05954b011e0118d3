"""A trial that can have learnt nothing says so, and stands in the way of claims."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import finetunes
import pytest
import torch
from builders import PlantedTrials, planted_accuracy, trial_result, trial_spec
from finetunes import prepared
from placements import placed
from test_verify import BETTER, folder, recipe, verify
from trials import checkpoint, spec_of, write_data

from plop_lora.errors import UsageError
from plop_lora.evaluation.metrics import unfinished
from plop_lora.launcher import is_first_process, process_count, settled, world_size
from plop_lora.recipe import VerifyRecipe
from plop_lora.records import TrainingSettings, TrialResult, TrialSpec
from plop_lora.records.trial import CONFIRM, LADDER, UNTRAINED
from plop_lora.reports.terminal import as_text
from plop_lora.training.classifier import _cut, _encoded
from plop_lora.training.learning import not_whole, unmoved, unrewarded
from plop_lora.training.tasks import task_named
from plop_lora.training.trial import run_trial
from plop_lora.verification import run as step

__all__ = ["folder", "recipe"]
"""Fixtures of the planted trials."""
WHOLE = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of a launcher is set."""
    for name in (*WHOLE, "LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)


def test_adapters_that_no_step_has_changed() -> None:
    """One step at a rate of 0: every loss 7.561832, every difference 0, and CONFIRMED."""
    made = prepared("q_proj", "v_proj")
    assert "B is 0 in every adapter" in unmoved(made.model)[0]
    with torch.no_grad():
        next(w for name, w in made.model.named_parameters() if "lora_B" in name)[0, 0] = 1e-9
    assert unmoved(made.model) == ()


def test_rewards_that_teach_nothing() -> None:
    equal, cut = {"frac_reward_zero_std": 1.0}, {"completions/clipped_ratio": 1.0}
    assert "are equal in every step" in unrewarded([equal, equal])[0]
    assert "cut at completion_length" in unrewarded([cut, {"loss": 0.1}])[0]
    assert unrewarded([equal, {"frac_reward_zero_std": 0.5}]) == ()
    assert unrewarded([]) == ()


def test_answers_that_are_all_cut() -> None:
    assert "2 of 2 answers are cut at max_new_tokens 8" in unfinished([False, False], 8)[0]
    assert unfinished([False, True], 8) == ()
    assert unfinished([], 8) == ()


def test_rows_that_are_not_seen_whole_are_counted() -> None:
    """The table said 84 rows where 20 were trained."""
    left_out, cut = not_whole(84, 64, 10, 128)
    assert left_out == (
        "64 of 84 training rows (76%) have no completion and were left out at max_length 128"
    )
    assert "10 of 84 training rows (12%) lose their end" in cut
    assert not_whole(100, 5, 5, 128) == ()


def test_rows_of_a_classifier_that_lose_their_end_are_counted() -> None:
    tokenizer = prepared().tokenizer
    rows = [{"text": "word " * count} for count in (3, 40, 80)]
    most = len(tokenizer(rows[1]["text"])["input_ids"])
    examples = [tokenizer(r["text"], truncation=True, max_length=most) for r in rows]
    assert _cut(rows, examples, tokenizer, most) == 1


def test_padding_of_a_classifier_is_on_the_right() -> None:
    """On absolute positions, padding on the left moved items by 0.12 nats with the batch size."""
    tokenizer = prepared().tokenizer
    tokenizer.padding_side = "left"
    rows = [{"text": "one", "label": "a"}, {"text": "one two three", "label": "b"}]
    batch = tokenizer.pad(_encoded(finetunes.spec("classify"), tokenizer, rows))
    assert batch["attention_mask"][0][0] == 1


# --------------------------------------------------------------------------- plan


@pytest.mark.parametrize(
    ("task", "settings", "rows", "wanted"),
    [
        ("sft", {"steps": 8, "batch_size": 4}, 162, (8, 4, 32)),
        ("sft", {"epochs": 2.0, "batch_size": 8}, 20, (5, 8, 20)),
        ("sft", {"batch_size": 32}, 24, (1, 24, 24)),
        ("grpo", {"batch_size": 8, "generations": 4, "steps": 3}, 50, (3, 2, 6)),
        ("classify", {"batch_size": 4, "accumulation": 2}, 64, (8, 8, 64)),
    ],
)
def test_what_a_trial_sees(task: str, settings: dict[str, Any], rows: int, wanted) -> None:
    """162 rows were planned, and 8 steps of 4 see 32 of them."""
    found = task_named(task).passes(TrainingSettings(**settings), rows)
    assert (found.steps, found.rows_a_step, found.rows) == wanted


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"warmup": 1}, "share of the steps; give less than 1"),
        ({"warmup": 100}, "share of the steps"),
        ({"schedule": "cosin"}, "allowed: linear, cosine"),
        ({"schedule": "reduce_lr_on_plateau"}, "allowed: linear"),
        ({"dtype": "fp8"}, "allowed: auto, float32, bfloat16, float16"),
    ],
)
def test_settings_that_no_trial_can_have(settings: dict[str, Any], words: str) -> None:
    """A warm-up of 1 or more was silently a number of steps; the others failed in every trial."""
    with pytest.raises(UsageError, match=words):
        VerifyRecipe.parse(
            {"task": "sft", "train": "a", "eval": "b", "training": settings}, "the recipe"
        )


def test_half_precision_on_a_processor_is_told_before_any_trial(scores, recipe, tmp_path) -> None:
    """Every trial failed in its first step."""
    half = recipe.model_copy(update={"training": TrainingSettings(dtype="float16", device="cpu")})
    planted = planted_accuracy(BETTER)
    with pytest.raises(UsageError, match="float16 is for a GPU"):
        verify(scores, half, tmp_path, planted)
    assert planted.ran == []


# --------------------------------------------------------------------------- environment


@pytest.mark.parametrize(
    "given",
    [
        {"RANK": "1"},
        {"WORLD_SIZE": ""},
        {"WORLD_SIZE": "4"},
        {**WHOLE, "RANK": "5"},
        {**WHOLE, "WORLD_SIZE": "two"},
    ],
)
def test_half_an_environment_is_left_out(monkeypatch, given: dict[str, str]) -> None:
    """RANK=1 alone trained, wrote nothing and exited with 0; WORLD_SIZE='' was a traceback."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert process_count() == 1
    assert is_first_process()
    with settled() as notes:
        assert not {"RANK", "WORLD_SIZE"} & os.environ.keys()
    assert "in the environment is ignored" in notes[0]
    assert {name: os.environ[name] for name in given} == given


@pytest.mark.parametrize(("said", "count"), [(None, 1), ("", 1), ("two", 1), ("1", 1), ("4", 4)])
def test_one_function_reads_the_number_of_processes(monkeypatch, said, count: int) -> None:
    """An empty `WORLD_SIZE` ended `plop score` in a traceback, and a trial went on."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if said is not None:
        monkeypatch.setenv("WORLD_SIZE", said)
    assert world_size() == count


def test_a_launcher_is_trusted(monkeypatch) -> None:
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    assert (process_count(), is_first_process()) == (2, False)
    with settled() as notes:
        assert os.environ["RANK"] == "1"
    assert notes == ()


def test_the_spec_decides_the_precision(monkeypatch) -> None:
    """A float32 trial was computed in bfloat16 by a variable that nobody remembered."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with settled() as notes:
        assert "ACCELERATE_MIXED_PRECISION" not in os.environ
    assert notes == (
        "ACCELERATE_MIXED_PRECISION=bf16 in the environment is ignored: the spec decides",
    )
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_another_engine_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UsageError, match="ACCELERATE_USE_DEEPSPEED is set"), settled():
        pass


# --------------------------------------------------------------------------- claims


@pytest.mark.slow
def test_a_trial_that_moved_nothing_says_so(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "encoder", "BertModel")
    made = spec_of(model, placed("bert", {"attention.self.query": 4}), write_data(tmp_path))
    still = dataclasses.replace(made, learning_rate=0.0)
    result = run_trial(still, tmp_path / "still", root=tmp_path)
    assert result.done
    assert "B is 0 in every adapter" in result.nothing_learned[0]
    assert run_trial(made, tmp_path / "moved", root=tmp_path).nothing_learned == ()
    untrained = dataclasses.replace(still, phase=UNTRAINED)
    assert run_trial(untrained, tmp_path / "untrained", root=tmp_path).nothing_learned == ()
    assert TrialResult.load(tmp_path / "still" / "result.json") == result


def test_an_old_result_has_no_such_fields(tmp_path: Path) -> None:
    document = trial_result(trial_spec()).to_dict()
    assert not {"nothing_learned", "rows_dropped", "rows_cut"} & document.keys()


def still(arm: str, *, ladder: bool) -> PlantedTrials:
    """Return trials of which every deciding one of an arm, or its ladder, has learnt nothing."""

    def stand_still(spec: TrialSpec, found: TrialResult) -> TrialResult:
        if spec.arm == arm and spec.phase == CONFIRM and not ladder:
            return dataclasses.replace(found, nothing_learned=("B is 0 in every adapter",))
        if spec.arm == arm and spec.phase == LADDER and ladder:
            return dataclasses.replace(found, metrics={"accuracy": 0.5, "loss": 0.7})
        return found

    return planted_accuracy(BETTER, change=stand_still)


@pytest.mark.slow
@pytest.mark.parametrize("ladder", [False, True])
@pytest.mark.parametrize("arm", ["plop", "mlp"])
def test_what_learnt_nothing_confirms_nothing(scores, recipe, tmp_path, arm, ladder) -> None:
    record = verify(scores, recipe, tmp_path, still(arm, ladder=ladder))
    assert record.verdict == "cannot separate"
    assert record.exit_code == 4
    why = "the same value and the same loss at every rate" if ladder else "has learnt nothing: B is"
    assert f"{arm}: its " in record.more
    assert why in record.more
    assert why.split(":")[0] in " ".join(as_text(record, 120).split())


def test_the_plan_says_what_trials_see(scores, recipe, tmp_path: Path) -> None:
    small = recipe.model_copy(
        update={"training": TrainingSettings(steps=8, batch_size=4, schedule="constant")}
    )
    made = step.plan(scores, small, folder=tmp_path / "run")
    assert any("8 steps of 4 rows, 32 different ones of 180" in note for note in made.notes)
    assert any("2 steps of 4 rows, 8 different ones of 45" in note for note in made.notes)
    assert any("constant has no warm-up" in note for note in made.notes)
