"""A run whose model lies on a hub, where its branch moves between two starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hubs import Hub, hub
from safetensors.torch import load_file, save_file
from test_pipeline_chain import RECIPE as CHAIN

from plop_lora.demo import DATA, MODEL
from plop_lora.records import PipelineRun, Scores, TrialSpec

pytestmark = pytest.mark.slow
NAME = "somebody/model"
RECIPE = {**CHAIN, "model": NAME, "training": {**CHAIN["training"], "steps": 2}}


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Hub]:
    """A hub with the bundled model; its next commit has other weights."""
    shutil.copytree(MODEL, tmp_path / "first")
    shutil.copytree(MODEL, tmp_path / "second")
    path = tmp_path / "second" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "v_proj" in name)
    save_file({**weights, name: 3 * weights[name]}, path, metadata={"format": "pt"})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    with hub(NAME) as known:
        known.push(tmp_path / "first")
        yield known


def plop(remote: Hub, folder: Path, *words: str) -> str:
    """Run a command against the hub and return its standard output."""
    found = subprocess.run(
        [sys.executable, "-m", "plop_lora", *words],
        cwd=folder,
        env={**os.environ, "HF_ENDPOINT": remote.url, "HF_HOME": str(folder / "home"),
             "HF_HUB_OFFLINE": "0"},
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert found.returncode in (0, 4, 5), found.stderr
    return found.stdout


def scored(folder: Path) -> Scores:
    record = PipelineRun.load(folder / "plop-run" / "pipeline.json")
    (one,) = (stage for stage in record.stages if stage.stage == "score")
    return Scores.load(folder / "plop-run" / one.result)


def test_a_branch_that_moves_does_not_move_a_run(remote: Hub, tmp_path: Path) -> None:
    """Scores of one commit would choose the placement for the weights of another."""
    first = remote.head
    plop(remote, tmp_path, "run", "recipe.yaml", "--until", "place")
    assert scored(tmp_path).model.revision == first
    second = remote.push(tmp_path / "second")
    plop(remote, tmp_path, "run", "recipe.yaml", "--until", "verify")
    assert scored(tmp_path).model.revision == first
    specs = list((tmp_path / "plop-run" / "scratch").rglob("spec.json"))
    assert specs
    assert {TrialSpec.load(path).revision for path in specs} == {first}
    assert {commit for commit, _ in remote.sent} == {first}

    plop(remote, tmp_path, "run", "recipe.yaml", "--until", "place", "--from", "score")
    assert scored(tmp_path).model.revision == second
    planned = plop(remote, tmp_path, "run", "recipe.yaml", "--dry-run")
    assert "score has changed" in " ".join(planned.split()), "the trials of the old commit are old"


def test_a_cache_that_moves_is_told(remote: Hub, tmp_path: Path) -> None:
    """Another program may fetch the newer commit into the cache that both use."""
    first = remote.head
    plop(remote, tmp_path, "run", "recipe.yaml", "--until", "place")
    second = remote.push(tmp_path / "second")
    rows = str(DATA / "problems.jsonl")
    made = plop(remote, tmp_path, "score", NAME, "--data", rows, "--text", "question",
                "--samples", "8", "-o", "other.json")  # fmt: skip
    assert made is not None
    assert Scores.load(tmp_path / "other.json").model.revision == second
    planned = " ".join(plop(remote, tmp_path, "run", "recipe.yaml", "--dry-run").split())
    assert f"model is {NAME}@{second} and was {NAME}@{first}" in planned
    kept = plop(
        remote, tmp_path, "run", "recipe.yaml", "--until", "place", "--set",
        f"score.revision={first}",
    )  # fmt: skip
    assert kept is not None
    assert scored(tmp_path).model.revision == first
