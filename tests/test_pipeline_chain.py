"""The pipeline on the bundled model, from rows to a report, with real finetunes on a few rows."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from plop_lora.demo import DATA, MODEL
from plop_lora.records import Finetune, GateVerdict, PipelineRun, Placement, Verification

pytestmark = pytest.mark.slow
RECIPE: dict[str, Any] = {
    "model": str(MODEL),
    "task": "sft",
    "train": str(DATA / "problems.jsonl"),
    "prompt": "Task: {question}\nSolution:",
    "completion": " {answer}",
    "acquire": {"split": {"share": 0.2}},
    "score": {"reference": False, "max_length": 64},
    "rank": 2,
    "arms": ["plop", "attention"],
    "seeds": 2,
    "quick": True,
    "ladder": [1.0],
    "widen": 0,
    "training": {"steps": 3, "batch_size": 4, "max_length": 64, "dtype": "float32"},
    "evaluation": {"metric": "loss", "batch_size": 64},
    "general": {"most": 6},
    "runner": {"workers": 1},
    "finetune": {"steps": 6, "patience": 0},
    "gate": {"checks": ["task", "forgetting"], "task": {"margin": 1.0}},
    "run": {"samples": 16},
}


def write(folder: Path, **values: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **values}))
    return path


def plop(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "plop_lora", *words], cwd=folder, text=True, capture_output=True,
    )  # fmt: skip


def states(record: PipelineRun) -> dict[str, str]:
    return {stage.stage: str(stage.state) for stage in record.stages}


def loaded(folder: Path) -> PipelineRun:
    return PipelineRun.load(folder / "plop-run" / "pipeline.json")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the chain has run once."""
    folder = tmp_path_factory.mktemp("chain")
    write(folder)
    done = plop(folder, "run", "recipe.yaml")
    assert done.returncode in (0, 4, 5), done.stderr
    return folder


def test_every_stage_leaves_its_record(chain: Path) -> None:
    record = loaded(chain)
    assert set(states(record).values()) == {"done"}
    for stage in record.stages:
        assert (chain / "plop-run" / stage.result).is_file()
        assert stage.outcome is not None
        assert stage.outcome.words
    found = {one.stage: chain / "plop-run" / one.result for one in record.stages}
    tuned = Finetune.load(found["finetune"])
    verified = Verification.load(found["verify"])
    expected = verified.better_placement or verified.placement
    assert _types(tuned.placement) == _types(expected)
    verdict = GateVerdict.load(found["gate"])
    assert verdict.adapter_digest == tuned.adapter_digest
    assert (found["export"].parent / "peft" / "adapter_config.json").is_file()


def _types(placement: Placement) -> set[str]:
    return {choice.type for choice in placement.choices}


def written(folder: Path, record: PipelineRun) -> dict[Path, int]:
    """Return when each file of the stages of a run was written."""
    folders = [folder / "plop-run" / stage.folder for stage in record.stages]
    files = [path for each in folders for path in each.rglob("*") if path.is_file()]
    assert files
    return {path: path.stat().st_mtime_ns for path in files}


def test_again_it_repeats_nothing_and_another_margin_trains_nothing(chain: Path) -> None:
    before = loaded(chain)
    made = written(chain, before)
    assert plop(chain, "run", "recipe.yaml").returncode == before.exit_code
    assert written(chain, before) == made, "something was computed"
    assert set(states(loaded(chain)).values()) == {"reused"}
    plop(chain, "run", "recipe.yaml", "--set", "gate.task.margin=0.5")
    again = states(loaded(chain))
    assert [name for name, state in again.items() if state == "done"] == ["gate", "export"]


def test_another_rival_goes_on_from_the_trials_that_are_there(chain: Path, tmp_path: Path) -> None:
    """It would train all the others once more, also where the folder has been moved."""
    moved = tmp_path / "moved"
    shutil.copytree(chain / "plop-run", moved)
    before = {
        path.relative_to(moved) for path in moved.glob("scratch/verify/*/trials/*/result.json")
    }
    assert len(before) > 3
    write(tmp_path, arms=["plop", "attention", "mlp"])
    done = plop(tmp_path, "run", "recipe.yaml", "--folder", "moved", "--until", "verify")
    assert done.returncode in (0, 4, 5), done.stderr
    after = {
        path.relative_to(moved) for path in moved.glob("scratch/verify/*/trials/*/result.json")
    }
    assert before < after
    assert len({path.parts[2] for path in after}) == 1, "the trials lie in one folder"


def test_the_report_of_a_run(chain: Path) -> None:
    done = plop(chain, "report", "plop-run", "-o", "report.html")
    assert done.returncode == 0, done.stderr
    page = (chain / "report.html").read_text()
    for words in ("The run, stage by stage", "The adapter that ships", "forgetting"):
        assert words in page
    assert plop(chain, "report", "plop-run", "--lang", "ja", "-o", "ja.md").returncode == 0
    assert "出荷するアダプター" in (chain / "ja.md").read_text()
    status = plop(chain, "status", "plop-run")
    assert "finetune" in status.stdout


def test_an_adapter_of_ones_own_and_an_ab_test(chain: Path, tmp_path: Path) -> None:
    """Whoever has a trainer gets its configuration, and goes on at the gate."""
    made = next(one for one in loaded(chain).stages if one.stage == "finetune")
    adapter = chain / "plop-run" / made.folder / "finetune" / "adapter"
    ab = {
        "name": "support",
        "unit": "account",
        "arms": {"now": {"weight": 0.5}, "next": {"weight": 0.5}},
        "control": "now",
        "metrics": {"resolved": {"kind": "share"}},
        "primary": "resolved",
        "planned_units": 1000,
    }
    own = {**RECIPE["run"], "trainer": "trl", "arm": "next"}
    write(chain, run=own, ab=ab)
    waits = plop(chain, "run", "recipe.yaml")
    assert "--adapter DIR" in waits.stdout
    assert states(loaded(chain))["gate"] == "open"
    goes_on = plop(chain, "run", "recipe.yaml", "--adapter", str(adapter))
    assert goes_on.returncode in (0, 4, 5), goes_on.stderr
    record = loaded(chain)
    last = chain / "plop-run" / record.stages[-1].folder
    verdict = GateVerdict.load(chain / "plop-run" / record.stages[-2].result)
    assert (last / "experiment.json").exists() == (str(verdict.verdict) == "pass")
    missing = plop(chain, "run", "recipe.yaml", "--adapter", str(tmp_path))
    assert missing.returncode == 1
    assert "adapter" in missing.stderr


def test_killed_at_random_moments_it_ends_the_same(chain: Path, tmp_path: Path) -> None:
    """A preempted machine would lose hours, or end with another answer."""
    write(tmp_path)
    draw = random.Random(0)
    kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "plop_lora", "run", "recipe.yaml"], cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(draw.uniform(2, 9) if kills < 20 else 600)
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    assert process.returncode in (0, 4, 5)
    write(chain)
    plop(chain, "run", "recipe.yaml")
    whole, resumed = loaded(chain), loaded(tmp_path)
    assert _without_times(whole, chain) == _without_times(resumed, tmp_path)


def _without_times(record: PipelineRun, folder: Path) -> list[object]:
    """Return what a run says, without what differs from one hour and folder to another."""
    found: list[object] = []
    for stage in record.stages:
        result = json.loads((folder / "plop-run" / stage.result).read_text())
        verdict = None if stage.outcome is None else stage.outcome.verdict
        found.append((stage.stage, stage.key, verdict, _timeless(result)))
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if not _TIMES.search(key)}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


_TIMES = re.compile(
    r"digest|seconds|created|memory|cost|^adapter$|evidence|fingerprint|^data$|^measurement$"
)
"""Keys of times, of paths, and of digests of what holds either."""
