"""A trial from spec to result: what is written, what is never repeated, and what goes wrong."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from placements import placed
from trials import EVALUATION, TRAIN, rows, spec_of, write_data
from waiting import until

import plop_lora.training.trial as step
from plop_lora.errors import DataError, MachineError, OutputError, RecordError, UsageError
from plop_lora.evaluation.judged import Judged
from plop_lora.models.memory import is_out_of_memory
from plop_lora.records import EvaluationSettings, TrialResult, TrialSpec
from plop_lora.training.resources import measured
from plop_lora.training.task import Session
from plop_lora.training.tasks import CLASSIFY, TASKS
from plop_lora.training.trial import find_result, run_trial, trial_folder, write_spec

PLACEMENT = placed("bert", {"attention.self.value": 4, "output.dense": 4})


@pytest.fixture
def spec(encoder: str, tmp_path: Path) -> TrialSpec:
    return spec_of(encoder, PLACEMENT, write_data(tmp_path))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def curve(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_spec_becomes_a_result(spec: TrialSpec, tmp_path: Path) -> None:
    """Numbers, items, cost and files of a real finetune; the result reads back as it was."""
    result = run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert result.done, result.cause
    assert result.spec_digest == spec.digest()
    assert (result.arm, result.seed, result.phase) == ("plop", 0, "confirm")
    assert result.metric == "accuracy"
    for name in ("accuracy", "loss"):
        assert len(result.items[name]) == 12
        assert result.metrics[name] == pytest.approx(sum(result.items[name]) / 12)
    assert "macro-f1" in result.metrics
    assert result.trainable_parameters == PLACEMENT.trainable_parameters
    assert result.batch_size == 8
    cost = result.cost
    assert 0 < cost.train_seconds + cost.evaluate_seconds <= cost.wall_seconds + 0.01
    assert (cost.devices, cost.accelerator) == (1, False)
    assert cost.tokens == sum(len(row["text"].split()) for row in rows(32))
    assert cost.peak_memory > 2**24
    assert cost.device
    assert {"plop_lora", "torch", "transformers", "peft"} == result.versions.keys()
    assert files(tmp_path / "trial") == {"spec.json", "curve.jsonl", "adapter", "result.json"}
    assert [row["step"] for row in curve(tmp_path / "trial") if "loss" in row] == [1, 2, 3, 4]
    assert result.last_log["step"] == 4
    assert [step for step, _ in result.curve.points] == [1, 2, 3, 4]
    assert [loss for _, loss in result.curve.points] == pytest.approx(
        curve_losses(tmp_path / "trial"), rel=1e-5
    )
    assert find_result(tmp_path / "trial", spec) == result
    assert "accuracy" in str(result)
    assert "judge on evaluation.jsonl" in str(spec)


@pytest.mark.slow
def test_the_same_spec_gives_the_same_numbers(spec: TrialSpec, tmp_path: Path) -> None:
    """Head, adapters, dropout and the order of the rows are functions of the seed alone."""
    torch.manual_seed(123)
    first = run_trial(spec, tmp_path / "a", root=tmp_path)
    torch.manual_seed(321)
    second = run_trial(spec, tmp_path / "b", root=tmp_path)
    other = run_trial(replace(spec, seed=1), tmp_path / "c", root=tmp_path)
    assert first.items == second.items
    assert curve_losses(tmp_path / "a") == curve_losses(tmp_path / "b")
    assert first.items["loss"] != other.items["loss"]


def curve_losses(folder: Path) -> list[float]:
    return [row["loss"] for row in curve(folder) if "loss" in row]


@pytest.mark.slow
def test_only_the_first_rows_are_used(spec: TrialSpec, tmp_path: Path) -> None:
    spec = replace(spec, data=replace(spec.data, rows=8))
    result = run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert result.cost.tokens == 4 * sum(len(row["text"].split()) for row in rows(8))


@pytest.mark.slow
def test_paths_are_relative_to_the_folder(encoder: str, tmp_path: Path) -> None:
    data = write_data(tmp_path)
    data = replace(data, train=f"../{TRAIN}", evaluation=f"../{EVALUATION}")
    spec = spec_of(encoder, PLACEMENT, data)
    path = write_spec(tmp_path, spec)
    assert path == trial_folder(tmp_path, spec) / "spec.json"
    assert TrialSpec.load(path).digest() == spec.digest()
    assert run_trial(spec, path.parent).done


# --------------------------------------------------------------------------- once and once only


def command(*words: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "plop_lora", "trial", *words, "--folder", str(folder)]


@pytest.mark.slow
def test_a_finished_trial_is_not_repeated(spec: TrialSpec, tmp_path: Path) -> None:
    """The second call reads the result and does not even load torch, nor need the data."""
    first = run_trial(spec, tmp_path / "trial", root=tmp_path)
    (tmp_path / TRAIN).unlink()
    assert run_trial(spec, tmp_path / "trial", root=tmp_path) == first
    code = (
        "import sys; sys.argv[1:] = ['trial', 'trial/spec.json', '--format', 'json']\n"
        "from plop_lora.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert TrialResult.from_dict(json.loads(done.stdout)) == first


@pytest.mark.slow
def test_a_folder_of_another_trial_is_refused(spec: TrialSpec, tmp_path: Path) -> None:
    folder = trial_folder(tmp_path, spec)
    write_spec(tmp_path, spec)
    other = replace(spec, seed=5)
    with pytest.raises(RecordError, match=r"another trial \(plop, seed 0, spec"):
        run_trial(other, folder, root=tmp_path)
    assert files(folder) == {"spec.json"}
    run_trial(spec, folder, root=tmp_path)
    with pytest.raises(RecordError, match=r"result of another trial \(plop, seed 0"):
        find_result(folder, other)


def test_a_damaged_result_is_shown(spec: TrialSpec, tmp_path: Path) -> None:
    """It was written whole, so damage came later: training once more would hide it."""
    folder = write_spec(tmp_path, spec).parent
    (folder / "result.json").write_text('{"kind": "trial-result"')
    with pytest.raises(RecordError, match=r"result\.json is not complete JSON"):
        run_trial(spec, folder, root=tmp_path)


@pytest.mark.slow
def test_a_killed_trial_starts_over(encoder: str, tmp_path: Path) -> None:
    """SIGKILL in the middle leaves no result; the same command then completes."""
    spec = spec_of(encoder, PLACEMENT, write_data(tmp_path), steps=300)
    spec.save(tmp_path / "spec.json")
    folder = tmp_path / "trial"
    path = folder / "curve.jsonl"
    words = command("spec.json", "--format", "quiet", folder=folder)
    process = subprocess.Popen(words, cwd=tmp_path)
    try:
        until(lambda: process.poll() is not None or (path.exists() and path.read_text()))
        assert process.poll() is None, "the trial ended by itself"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert files(folder) == {"spec.json", "curve.jsonl"}
    subprocess.run(words, cwd=tmp_path, check=True)
    result = find_result(folder, spec)
    assert result is not None
    assert result.done
    steps = [row["step"] for row in curve(folder) if "loss" in row]
    assert steps == sorted(set(steps)), "the curve of the killed attempt is gone"
    assert steps[-1] == 300


# --------------------------------------------------------------------------- the user's to repair


def test_a_changed_file_is_named(spec: TrialSpec, tmp_path: Path) -> None:
    with (tmp_path / TRAIN).open("a") as file:
        file.write('{"text": "late", "label": "good"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl has changed since the trial was planned"):
        run_trial(spec, tmp_path / "trial", root=tmp_path)
    (tmp_path / TRAIN).unlink()
    with pytest.raises(DataError, match=r"Cannot read the data of the trial at .*train\.jsonl"):
        run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert files(tmp_path / "trial") == {"spec.json"}


def test_bad_rows_are_named_before_training(encoder: str, tmp_path: Path) -> None:
    """A label that only the evaluation has costs no training."""
    spec = spec_of(encoder, PLACEMENT, write_data(tmp_path))
    for text, message in (
        ('{"text": "a", "label": "odd"}\n', r"evaluation.jsonl, row 1 has the label 'odd'"),
        ('{"text": "a"}\n', r"row 1 has text; a row of classify has text and label"),
        ("\n[1]\n", r"line 2 is not a JSON object"),
        ("{", r"line 1 is not JSON"),
        ("\n", r"evaluation.jsonl has no rows"),
    ):
        (tmp_path / EVALUATION).write_text(text)
        sha = hashlib.sha256((tmp_path / EVALUATION).read_bytes()).hexdigest()
        changed = replace(spec, data=replace(spec.data, evaluation_sha256=sha))
        with pytest.raises(DataError, match=message):
            run_trial(changed, tmp_path / f"trial-{sha[:8]}", root=tmp_path)
        assert files(tmp_path / f"trial-{sha[:8]}") == {"spec.json"}


def test_a_full_disk_is_seen_before_training(spec: TrialSpec, tmp_path: Path, monkeypatch) -> None:
    free = SimpleNamespace(free=40 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(OutputError, match="has 40 MB free, and this trial may write 50 MB"):
        run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert "result.json" not in files(tmp_path / "trial")


def test_wrong_options_leave_no_result(spec: TrialSpec, tmp_path: Path) -> None:
    settings = replace(spec.placement.settings, init="corda")
    wrong = replace(spec, placement=replace(spec.placement, settings=settings))
    with pytest.raises(UsageError, match="corda"):
        run_trial(wrong, tmp_path / "trial", root=tmp_path)
    with pytest.raises(UsageError, match="Did you mean 'classify'"):
        run_trial(replace(spec, task="clasify"), tmp_path / "other", root=tmp_path)
    assert "result.json" not in files(tmp_path / "trial") | files(tmp_path / "other")


# --------------------------------------------------------------------------- failures as results

Train = Callable[..., Any]


@contextlib.contextmanager
def training(monkeypatch: pytest.MonkeyPatch, train: Train) -> Iterator[None]:
    """Put a trainer in the place of the task's own, which it is given to call."""
    task = replace(CLASSIFY, train=lambda *parts: train(CLASSIFY.train, *parts))
    with monkeypatch.context() as patch:
        patch.setitem(TASKS, "classify", task)
        yield


@pytest.mark.slow
def test_a_lost_loss_stops_at_once(encoder: str, tmp_path: Path) -> None:
    spec = spec_of(encoder, PLACEMENT, write_data(tmp_path), steps=200, learning_rate=1e30)
    result = run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert result.status == "failed"
    last = curve(tmp_path / "trial")[-1]
    assert result.cause in {
        f"loss became {word} at step {last['step']}" for word in ("NaN", "infinite")
    }
    assert last["step"] < 50
    assert last["loss"] is None
    assert result.metrics == {}
    assert files(tmp_path / "trial") == {"spec.json", "curve.jsonl", "result.json"}
    assert find_result(tmp_path / "trial", spec) == result
    assert result.cause in str(result)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_is_tried_once_more(spec, tmp_path: Path, monkeypatch, error) -> None:
    """Half the batch, twice the accumulation: the same training, and the result says so."""
    seen = []

    def train(own: Train, spec: TrialSpec, prepared: Any, data: Any, session: Session) -> Any:
        seen.append((session.batch_size, spec.training.batch_size, spec.training.accumulation))
        if session.batch_size == 8:
            raise error
        return own(spec, prepared, data, session)

    with training(monkeypatch, train):
        result = run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert result.done, result.cause
    assert seen == [(8, 8, 1), (4, 4, 2)]
    assert result.batch_size == 4
    assert result.spec_digest == spec.digest()
    assert "memory did not suffice for batches of 8" in result.notes[0]


@pytest.mark.slow
def test_memory_that_never_suffices(spec: TrialSpec, tmp_path: Path, monkeypatch, capsys) -> None:
    sizes = []

    def train(own: Train, spec: TrialSpec, prepared: Any, data: Any, session: Session) -> Any:
        sizes.append(session.batch_size)
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore lines")

    with (
        training(monkeypatch, train),
        pytest.raises(MachineError, match=r"^out of memory: CUDA out of memory.$"),
    ):
        run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert sizes == [8, 4]
    assert "result.json" not in files(tmp_path / "trial")
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_in_evaluation_does_not_train_again(spec, tmp_path: Path, monkeypatch) -> None:
    sizes = []

    def judge(spec: TrialSpec, prepared: Any, data: Any, **others: Any) -> Judged:
        sizes.append(spec.evaluation.batch_size)
        if len(sizes) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return CLASSIFY.judge(spec, prepared, data, **others)

    monkeypatch.setitem(TASKS, "classify", replace(CLASSIFY, judge=judge))
    result = run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert result.done, result.cause
    assert sizes == [16, 8]
    assert len(curve_losses(tmp_path / "trial")) == 4


def test_any_other_error_is_the_cause(spec: TrialSpec, tmp_path: Path, monkeypatch, capsys) -> None:
    def train(*parts: Any) -> Any:
        raise KeyError("a column\nof two lines")

    with training(monkeypatch, train):
        result = run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert result.status == "failed"
    assert result.cause.startswith("KeyError: ")
    assert "\n" not in result.cause
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_being_stopped_is_no_result(spec, tmp_path: Path, monkeypatch, stop) -> None:
    def train(*parts: Any) -> Any:
        raise stop

    with training(monkeypatch, train), pytest.raises(stop):
        run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert "result.json" not in files(tmp_path / "trial")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("judged", "cause"),
    [
        (Judged({"accuracy": (1.0, float("nan"))}, {"accuracy": float("nan")}), "became NaN"),
        (Judged({}, {"f2": 1.0}), "gave no accuracy; it gave: f2"),
    ],
)
def test_evaluation_without_a_number(spec, tmp_path: Path, monkeypatch, judged, cause) -> None:
    """No score is not a score of 0."""
    judge = lambda *parts, **others: judged  # noqa: E731
    monkeypatch.setitem(TASKS, "classify", replace(CLASSIFY, judge=judge))
    result = run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert result.status == "failed"
    assert cause in result.cause
    assert "accuracy" not in result.metrics | result.items
    assert "adapter" in files(tmp_path / "trial")


@pytest.mark.slow
def test_other_metrics_may_be_missing(spec: TrialSpec, tmp_path: Path, monkeypatch) -> None:
    judged = Judged({"accuracy": (1.0, 0.0)}, {"accuracy": 0.5, "perplexity": float("inf")})
    judge = lambda *parts, **others: judged  # noqa: E731
    monkeypatch.setitem(TASKS, "classify", replace(CLASSIFY, judge=judge))
    result = run_trial(spec, tmp_path / "trial", root=tmp_path)
    assert result.done
    assert result.metrics == {"accuracy": 0.5}
    assert result.notes == ("perplexity of the evaluation rows is not finite",)


def test_divisors_keep_the_effective_batch() -> None:
    for size in range(2, 40):
        smaller = step.smaller_batch(size)
        assert size % smaller == 0
        assert smaller <= size // 2
    assert step.smaller_batch(1) is None


def test_other_errors_are_not_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(OSError(errno.ENOSPC, "No space left"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_parts_of_the_time_add_up() -> None:
    with measured("cpu") as meter:
        for _ in range(2):
            with contextlib.suppress(ValueError), meter.part("train"):
                time.sleep(0.02)
                raise ValueError
    cost = meter.cost("cpu", 7)
    assert 0.04 <= cost.train_seconds <= cost.wall_seconds
    assert (cost.evaluate_seconds, cost.tokens) == (0.0, 7)


# --------------------------------------------------------------------------- the command line


@pytest.mark.slow
def test_the_verb(spec: TrialSpec, tmp_path: Path, run) -> None:
    """The result alone goes to stdout, whatever trainers print; exit code 0."""
    spec.save(tmp_path / "spec.json")
    code, output, errors = run("trial", str(tmp_path / "spec.json"), "--format", "json")
    assert code == 0, errors
    assert TrialResult.from_dict(json.loads(output)) == find_result(tmp_path, spec)
    code, output, _ = run("trial", str(tmp_path / "spec.json"))
    assert code == 0
    assert "Trial, confirm: done" in output


def test_the_verb_fails(spec: TrialSpec, tmp_path: Path, monkeypatch, run) -> None:
    spec.save(tmp_path / "spec.json")

    def train(*parts: Any) -> Any:
        raise RuntimeError("the trainer is ill")

    with training(monkeypatch, train):
        words = (str(tmp_path / "spec.json"), "--folder", str(tmp_path / "x"))
        code, output, errors = run("trial", *words)
    assert code == 1
    assert "Failed: RuntimeError: the trainer is ill." in output
    assert "The trial failed: RuntimeError: the trainer is ill" in errors
    code, _, errors = run("trial", str(tmp_path / "absent.json"))
    assert code == 1
    assert "No such file" in errors


@pytest.mark.slow
def test_two_processes_train_one_trial(encoder: str, tmp_path: Path) -> None:
    """torchrun: both train, the first writes; half the batch each is the batch of one process."""
    data = write_data(tmp_path)
    alone = spec_of(encoder, PLACEMENT, data, evaluation=EvaluationSettings(batch_size=4))
    shared = spec_of(encoder, PLACEMENT, data, batch_size=4, evaluation=alone.evaluation)
    shared.save(tmp_path / "spec.json")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "plop_lora", "trial", "spec.json", "--folder", "two", "--format", "json"],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = find_result(tmp_path / "two", shared)
    assert TrialResult.from_dict(json.loads(done.stdout)) == result
    assert result is not None
    assert result.cost.devices == 2
    one = run_trial(alone, tmp_path / "one", root=tmp_path)
    assert result.cost.tokens == one.cost.tokens
    assert len(curve_losses(tmp_path / "two")) == 4
