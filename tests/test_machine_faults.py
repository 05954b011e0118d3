"""Faults of the machine are no result of a placement: they are tried again, and told."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pretend
import pytest
import torch
from builders import trial_result, trial_spec
from pretend import notes

from plop_lora.errors import UsageError
from plop_lora.recipe import Runner
from plop_lora.records import TrialResult
from plop_lora.training.folder import check_no_links, trial_folder
from plop_lora.training.machine import is_of_machine
from plop_lora.training.runners.run import COMMAND, run_trials
from plop_lora.training.trial import write_spec

QUICK = {"learning_rate": 0.001}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., TrialResult]:
    command = pretend.command(tmp_path)

    def run_here(arm: str) -> TrialResult:
        (result,) = run_trials(
            [trial_spec(arm, **QUICK)], tmp_path / "run", Runner(workers=1), command=command
        )
        return result

    return run_here


def _raised(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "of_machine"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (ModuleNotFoundError("No module named 'x'"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (_raised(RuntimeError("Failed to import transformers.x"), ImportError("x")), True),
        (ValueError("a shape"), False),
        (_raised(ValueError("a shape"), KeyError("x")), False),
    ],
)
def test_what_belongs_to_the_machine(error: Exception, of_machine: bool) -> None:
    """A full disk was an arm's result for ever, and the arm went on at another rate."""
    assert is_of_machine(error) == of_machine


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["crash", "killed", "silent", "memory"])
def test_what_the_trial_did_not_write_is_not_kept(run, tmp_path: Path, arm: str) -> None:
    """A segmentation fault of a driver was the outcome of the placement."""
    result = run(arm)
    assert (result.status, result.mendable) == ("failed", True)
    assert not list((tmp_path / "run").glob("*/result.json"))
    before = len(notes(tmp_path / "run", "start"))
    run(arm)
    assert len(notes(tmp_path / "run", "start")) == 2 * before


def test_a_killed_trial_is_run_once_more(run, tmp_path: Path) -> None:
    result = run("crash-once")
    assert (result.status, result.mendable, result.batch_size) == ("done", False, 8)
    assert len(notes(tmp_path / "run", "start")) == 2


@pytest.mark.slow
def test_trials_do_not_import_from_the_working_directory(tmp_path: Path) -> None:
    """A file datasets.py of the user's was what every trial imported, and failed by."""
    for name in ("pydantic", "typer", "datasets"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run(
        [*COMMAND, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert COMMAND[:2] == (sys.executable, "-P")


# --------------------------------------------------------------------------- the folder


@pytest.mark.parametrize(
    ("arm", "beginning"),
    [
        ("plop", "plop-seed3-confirm-"),
        ("../my placements/é.json", "my-placements-.json-seed3-confirm-"),
        ("plop r16 default lr 0.002", "plop-r16-default-lr-0.002-seed3-confirm-"),
        ("\n", "arm-seed3-confirm-"),
        ("a" * 500, "a" * 60 + "-seed3-confirm-"),
    ],
)
def test_a_folder_is_named_by_arm_and_seed(tmp_path: Path, arm: str, beginning: str) -> None:
    """Forty folders of hexadecimal digits say nothing to whoever looks for one log."""
    made = trial_spec(arm, seed=3)
    folder = trial_folder(tmp_path, made)
    assert folder.name == beginning + made.digest()[:16]
    assert folder.parent == tmp_path
    write_spec(tmp_path, made)
    assert (folder / "spec.json").is_file()


def test_a_folder_of_an_older_release_is_found(tmp_path: Path) -> None:
    made = trial_spec()
    (tmp_path / made.digest()[:16]).mkdir()
    assert trial_folder(tmp_path, made) == tmp_path / made.digest()[:16]


@pytest.mark.parametrize("name", ["curve.jsonl", "log.txt", "result.json", ".lock", "adapter"])
def test_a_link_in_the_folder_keeps_its_target(run, tmp_path: Path, name: str) -> None:
    """An emptied curve was what the link pointed to: any file of the user's."""
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    folder = trial_folder(tmp_path / "run", trial_spec("good", **QUICK))
    folder.mkdir(parents=True)
    (folder / name).symlink_to(precious)
    with pytest.raises(UsageError, match="is a link"):
        run("good")
    with pytest.raises(UsageError, match="is a link"):
        check_no_links(folder)
    assert precious.read_text() == "mine"


def test_old_results_say_nothing_of_the_machine() -> None:
    document = trial_result(trial_spec()).to_dict()
    assert "mendable" not in document
    assert TrialResult.from_dict(document) == dataclasses.replace(trial_result(trial_spec()))
