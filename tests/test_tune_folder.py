"""What a search writes and finds in its folder, and what it makes of its recipe; no training."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import lost, trial_result, trial_spec
from test_tune import RECIPE, TRAIN_ROWS, Machine, changed, rows_of_sft, write_rows  # noqa: F401

from plop_lora.errors import MeasurementError, UsageError
from plop_lora.recipe import TuneRecipe
from plop_lora.records import TrialResult, TrialSpec
from plop_lora.records.trial import CONFIRM, LADDER, SEARCH
from plop_lora.records.tuning import SEARCHED, UNCONFIRMED, Configuration
from plop_lora.statistics import paired_interval
from plop_lora.tuning import plan, tune
from plop_lora.tuning.confirm import compared
from plop_lora.tuning.storage import SearchStorage

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.usefixtures("unsynced_sqlite"),
]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def here(tmp_path: Path, scores, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with rows and the folder of the scored model."""
    for name, start in (("train", 0), ("eval", 900)):
        rows = ({"text": f"text {n}", "label": n % 2} for n in range(start, start + 80))
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / scores.model.name).mkdir()
    (tmp_path / scores.model.name / "config.json").write_text(json.dumps(scores.model.config))
    monkeypatch.chdir(tmp_path)
    return tmp_path


CLASSIFY = TuneRecipe(task="classify", train="train.jsonl", eval="eval.jsonl")


def test_a_plan_writes_nothing(scores, here: Path) -> None:
    """It wrote the splits, and the next recipe with other data was refused for them."""
    before = files(here)
    plan(scores, CLASSIFY, folder=here / "run")
    assert files(here) == before


@pytest.mark.slow
def test_a_plan_in_a_folder_with_trials_leaves_it_alone(scores, tmp_path: Path) -> None:
    tune(scores, changed(trials=12), folder=tmp_path, run=Machine())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    other = changed(trials=12, training=dataclasses.replace(RECIPE.training, epochs=2.0))
    plan(scores, other, folder=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_other_data_are_refused(scores, here: Path) -> None:
    """The page promised another search beside it."""
    with pytest.raises(KeyboardInterrupt):
        tune(scores, CLASSIFY, folder=here / "run", run=Machine(die_after=0))
    rows = ({"text": f"other {n}", "label": n % 2} for n in range(80))
    (here / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match="belongs to other data"):
        tune(scores, CLASSIFY, folder=here / "run", run=Machine(die_after=0))
    page = Path(__file__).parents[1] / "docs" / "how-to" / "tune.md"
    assert "Other data are an error" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_fixed_steps_are_scaled_for_the_ladder(scores, tmp_path: Path) -> None:
    """Steps do not follow the rows: the ladder cost as much as the search."""
    machine = Machine()
    training = dataclasses.replace(RECIPE.training, steps=40)
    tune(scores, changed(training=training), folder=tmp_path, run=machine)
    assert {spec.training.steps for spec in machine.of_phase(LADDER)} == {10}
    assert {spec.training.steps for spec in machine.of_phase(SEARCH)} == {40}
    assert {spec.training.steps for spec in machine.of_phase(CONFIRM)} == {40}
    assert {spec.data.rows for spec in machine.of_phase(LADDER)} == {round(0.25 * TRAIN_ROWS)}


@pytest.mark.slow
def test_a_folder_of_tasks_goes_by_its_whole_path(scores, tmp_path: Path, monkeypatch) -> None:
    """Trials read it from wherever they run; a relative one is found by accident."""
    write_rows(tmp_path, scores)
    monkeypatch.chdir(tmp_path)
    machine = Machine()
    evaluation = dataclasses.replace(RECIPE.evaluation, include_path="tasks")
    tune(scores, changed(evaluation=evaluation), folder=tmp_path / "run", run=machine)
    assert {spec.evaluation.include_path for spec in machine.ran} == {str(tmp_path / "tasks")}


# --------------------------------------------------------------------------- stops and starts


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_a_search_whose_worker_file_is_gone_goes_on(scores, tmp_path: Path, shared: bool) -> None:
    """It took itself for another worker, waited for the first, and never confirmed."""
    storage = f"sqlite:///{tmp_path / 'search.db'}" if shared else None
    recipe = changed(trials=12, storage=storage)
    with pytest.raises(KeyboardInterrupt):
        tune(scores, recipe, folder=tmp_path / "run", run=Machine(die_after=8))
    (tmp_path / "run" / "worker").unlink()
    tuning = tune(scores, recipe, folder=tmp_path / "run", run=Machine())
    assert tuning.verdict != UNCONFIRMED
    assert not any("running" in note for note in tuning.notes)


WRITER = """
import sqlite3, sys, time
study = sqlite3.connect(sys.argv[1])
study.execute("PRAGMA cache_spill = 1").close()
study.execute("BEGIN EXCLUSIVE")
study.execute("UPDATE trials SET state = 'FAIL'")
print("writing", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("relative", [True, False])
def test_a_worker_killed_while_it_writes(
    scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, relative: bool
) -> None:
    """A journal kept the lock of a killed worker, and half a line: four minutes, or no end."""
    write_rows(tmp_path, scores)
    monkeypatch.chdir(tmp_path)
    folder = Path("run") if relative else tmp_path / "run"
    recipe = changed(trials=12)
    with pytest.raises(KeyboardInterrupt):
        tune(scores, recipe, folder=folder, run=Machine(die_after=8))
    words = [sys.executable, "-c", WRITER, str(folder / "study.db")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "writing\n"
        worker.kill()
    tuning = tune(scores, recipe, folder=folder, run=Machine())
    assert len(tuning.ladder) + sum(t.state == SEARCHED for t in tuning.history) == 12
    assert "lock" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("name", "message"),
    [("study.journal", "of an earlier release"), ("study.db", "DatabaseError")],
)
def test_a_study_that_cannot_be_read(tmp_path: Path, name: str, message: str) -> None:
    """One line that says what to do, where the folder holds another format or a damaged file."""
    tmp_path.joinpath(name).write_bytes(b"no database " * 200)
    search: Any = SimpleNamespace(
        folder=tmp_path,
        recipe=RECIPE,
        policy=RECIPE,
        study=SimpleNamespace(higher=True),
        identity=lambda: "0" * 64,
    )  # fmt: skip
    with pytest.raises(UsageError, match=rf"{message}.* anew") as error:
        SearchStorage.open(search)
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------- the machine's faults


def losing(phase: str, *, every: bool = False) -> Machine:
    """Return a machine that ends the first trial of a phase, or every one; `change` is how."""
    machine = Machine()

    def lose(spec: TrialSpec, found: TrialResult) -> TrialResult:
        first = len(machine.of_phase(phase)) == 1
        return lost(found, "no space left") if spec.phase == phase and (first or every) else found

    machine.change = lose
    return machine


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "what"), [(LADDER, "ladder"), (SEARCH, "search")])
def test_a_lost_trial_is_told_and_run_at_the_next_start(
    scores, tmp_path: Path, phase: str, what: str
) -> None:
    """A full disk counted as what the configuration reaches, for this search and all later ones."""
    machine = losing(phase)
    tuning = tune(scores, RECIPE, folder=tmp_path, run=machine)
    (note,) = (note for note in tuning.notes if "the machine ended" in note)
    assert note.startswith(f"trials of the {what}")
    assert "no space left; start again" in note
    lost = machine.of_phase(phase)[0].digest()
    machine.change = None
    again = tune(scores, RECIPE, folder=tmp_path, run=machine)
    assert not any("the machine ended" in note for note in again.notes)
    assert sum(spec.digest() == lost for spec in machine.ran) == 2


@pytest.mark.slow
def test_nothing_but_lost_trials_ends_the_search(scores, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="All 3 trials of the search failed"):
        tune(scores, RECIPE, folder=tmp_path, run=losing(SEARCH, every=True))


def test_intervals_of_finalists_hold_together() -> None:
    """Each held for itself, and the best of two was taken by them: 1 in 10 was wrong."""
    points = [Configuration(name, 8, "default", 1e-4) for name in ("default", "one", "two")]
    losses = [[1.0, 1.01, 1.03, index / 100 + 1] for index in range(3)]
    results = {
        point: [
            trial_result(trial_spec(point.label, seed=n), value) for n, value in enumerate(values)
        ]
        for point, values in zip(points, losses, strict=True)
    }
    one = compared(results, "loss", higher=False)[points[1]]
    differences = (np.array(losses[0]) - np.array(losses[1]))[:, None]
    together = paired_interval(differences, level=1 - 0.05 / 2)
    assert one.high - one.low == pytest.approx(together.high - together.low)
    alone = paired_interval(differences)
    assert together.high - together.low > alone.high - alone.low
