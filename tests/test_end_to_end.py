"""`plop verify` and `plop tune` from end to end: real trials on networks whose truth is planted."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import planted
import pytest
import yaml
from planted import Here, kept, lowest
from waiting import until

import plop_lora as plop
from plop_lora.recipe import Runner, TuneRecipe, VerifyRecipe
from plop_lora.records import Placement, Scores, TrialResult, Tuning, Verification
from plop_lora.records.trial import CONFIRM, UNTRAINED
from plop_lora.study.folder import keep, mark
from plop_lora.study.model import model_of
from plop_lora.training.folder import trial_folder
from plop_lora.verification import run as step

pytest.importorskip("trl")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),  # as the trials in processes of their own
    pytest.mark.filterwarnings(
        "ignore::FutureWarning",
        "ignore::UserWarning:torch.*",
        "ignore::optuna.exceptions.ExperimentalWarning",
    ),
]


BY_ANSWERS = {"decide_by": "metric", "design": "fixed"}


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder with the planted network, its rows and its real scores."""

    folder: Path
    scores: Scores

    def recipe(self, **given: Any) -> VerifyRecipe:
        paths = {name: str(self.folder / f"{name}.jsonl") for name in ("train", "eval")}
        return VerifyRecipe.read(self.folder / "recipe.yaml", paths | given)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    here = tmp_path_factory.mktemp("planted")
    model = planted.write_network(here / "network")
    planted.write_rows(here)
    (here / "recipe.yaml").write_text(planted.RECIPE)
    return Place(here, planted.score(model, here))


def types_of(placement: Placement) -> set[str]:
    return {site.type for site in placement.sites}


# --------------------------------------------------------------------------- the verdict


@pytest.mark.slow
def test_a_shortlist_that_is_right_is_confirmed(place: Place, tmp_path: Path) -> None:
    """Adapters on o_proj learn what adapters elsewhere cannot; a proof that misses it is none."""
    scores = lowest(place.scores, "o_proj")
    recipe = place.recipe(arms=["mlp", "query-value"], margin=0.1, **BY_ANSWERS)
    record = plop.verify(scores, recipe, folder=tmp_path, run=Here())
    arms = {arm.arm: arm for arm in record.arms}
    assert (record.verdict, record.exit_code, record.better) == ("confirmed", 0, None)
    assert types_of(record.placement) == {"o_proj"}
    assert arms["plop"].mean > 0.9
    assert arms["mlp"].mean < 0.5
    assert arms["query-value"].mean < 0.5
    for name in ("mlp", "query-value"):
        assert arms[name].difference == pytest.approx(arms["plop"].mean - arms[name].mean)
        assert arms[name].difference > 0.5
    rivals = {arm.verdict for arm in record.arms if arm.arm != "plop"}
    assert rivals <= {"non-inferior", "worse"}
    every = [TrialResult.load(path) for path in tmp_path.glob("trials/*/result.json")]
    results = [result for result in every if result.phase != UNTRAINED]
    assert len(results) == len(arms) * len(record.seeds) == len(every) - 1
    (untrained,) = record.references
    assert untrained.value < 0.5
    assert {result.trainable_parameters for result in results} == {record.budget}
    assert {arm.parameters for arm in arms.values()} == {record.budget}
    assert all(arm.mismatch == 0 for arm in arms.values())
    for result in results:
        assert len(result.items["exact"]) == record.report_rows == 32
        assert sum(result.items["exact"]) / 32 == result.metrics["exact"]


@pytest.mark.slow
def test_a_shortlist_that_is_wrong_is_beaten(place: Place, tmp_path: Path) -> None:
    """The same network, with scores that send the adapters where they can change nothing."""
    scores = lowest(place.scores, "up_proj")
    recipe = place.recipe(arms=["attention"], margin=0.1, **BY_ANSWERS)
    record = plop.verify(scores, recipe, folder=tmp_path, run=Here())
    arms = {arm.arm: arm for arm in record.arms}
    assert (record.verdict, record.exit_code) == ("beaten", 3)
    assert types_of(record.placement) == {"up_proj"}
    assert record.better in ("attention", "all-linear")
    assert "o_proj" in types_of(record.better_placement)
    assert arms["plop"].mean < 0.5
    assert arms[record.better].mean > 0.9
    assert arms[record.better].verdict == "better than shortlist"
    assert record.arms[-1].arm == "plop"


@pytest.mark.slow
def test_what_cannot_matter_is_never_better(tmp_path: Path) -> None:
    """The last norm lets nothing through: any difference would come from us, not from an arm."""
    model = planted.write_network(tmp_path / "dead", dead=True)
    planted.write_rows(tmp_path)
    (tmp_path / "recipe.yaml").write_text(planted.RECIPE)
    dead = Place(tmp_path, lowest(planted.score(model, tmp_path), "q_proj"))
    recipe = dead.recipe(
        arms=["mlp"], margin=0.0, evaluation={"metric": "loss"}, training={"steps": 4}
    )
    record = plop.verify(dead.scores, recipe, folder=tmp_path / "run", run=Here())
    # Nor is it confirmed: no arm is better than the model as it was.
    assert record.verdict == "cannot separate"
    assert "not shown to be better than the untrained model" in record.more
    values = {value for arm in record.arms for value in arm.values}
    assert values == {reference.value for reference in record.references}
    assert len(values) == 1
    for arm in record.arms:
        if arm.arm != "plop":
            assert (arm.difference, arm.low, arm.high, arm.p) == (0, 0, 0, 1)
            assert arm.verdict == "not settled"
    assert record.predictive.rho is None


# --------------------------------------------------------------------------- kill and go on


LADDER_TRIALS, ALL_TRIALS = 5, 10
"""Two arms at two rates, then two arms with two seeds, and the untrained model for each."""
SHORT = {
    "task": "classify", "text": "question", "label": "answer", "prompt": None, "completion": None,
    "evaluation": {"metric": "accuracy"}, "arms": ["gradient"], "ladder": [0.5, 1.0],
    "ladder_share": 1.0, "widen": 0,
    "training": {"steps": 8},
}  # fmt: skip
"""A task whose trials start without TRL, in half of the time. One rival follows a signal that is
measured first: the gradient, which is largest in down_proj. That is the shortlist here, so the two
are one arm and cost no further trials."""


def write_short(place: Place, folder: Path) -> VerifyRecipe:
    recipe = place.recipe(**SHORT, runner={"workers": 2})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    lowest(place.scores, "down_proj").save(folder / "scores.json")
    return recipe


def start(folder: Path) -> subprocess.Popen[str]:
    command = "-m plop_lora verify scores.json --recipe recipe.yaml --folder run -o record.json"
    return subprocess.Popen(
        [sys.executable, *command.split(), "--format", "quiet"], cwd=folder, text=True,
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def processes_in(folder: Path) -> list[int]:
    """Return the processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def kill_when(folder: Path, reached: Callable[[], bool]) -> None:
    """Start the run, and kill its process group in the moment that something is so."""
    process = start(folder)
    while not reached():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not processes_in(folder))


def untimed(record: Verification) -> dict[str, Any]:
    """Return a record without times and memory."""
    document = record.to_dict()
    cost = document.pop("cost")
    measured = {"seconds": None, "peak_memory": None}
    document["arms"] = [arm | measured for arm in document["arms"]]
    return document | {"cost": [(x["what"], x["trials"], x["tokens"]) for x in cost["lines"]]}


@pytest.fixture(scope="module")
def resumed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its signals, its ladder and its confirmation, and then ended."""
    if not sys.platform.startswith("linux"):
        pytest.skip("elsewhere a trial outlives a runner that is killed")
    here = tmp_path_factory.mktemp("killed")
    write_short(place, here)
    run = here / "run"
    kill_when(here, (run / "data" / "report.jsonl").exists)
    assert not (run / "signals.json").exists()
    kill_when(here, lambda: len(kept(run)) > 0)
    first = kept(run)
    assert 0 < len(first) < LADDER_TRIALS
    kill_when(here, lambda: len(kept(run)) > LADDER_TRIALS)
    second = kept(run)
    assert LADDER_TRIALS < len(second) < ALL_TRIALS
    last = start(here)
    errors = last.communicate()[1]
    assert last.returncode == Verification.load(run / "verification.json").exit_code, errors
    after = kept(run)
    assert len(after) == ALL_TRIALS
    for before in (first, second):
        assert {name: after[name] for name in before} == before
    return here


@pytest.mark.slow
def test_a_run_that_is_killed_anywhere_ends_as_if_it_was_not(
    place: Place, resumed: Path, tmp_path: Path
) -> None:
    """A night of trials is not lost with its machine, nor is the verdict another for it."""
    run = Here()
    recipe = write_short(place, tmp_path)
    scores = Scores.load(tmp_path / "scores.json")
    whole = plop.verify(scores, recipe, folder=tmp_path / "run", run=run)
    record = Verification.load(resumed / "record.json")
    assert len(run.trained) == ALL_TRIALS
    assert {trial_folder(Path(), s).name for s in run.trained} == kept(resumed / "run").keys()
    assert {arm.arm for arm in record.arms} == {"plop", "all-linear"}
    assert any("gradient has the same weights" in note for note in record.notes)
    assert untimed(record) == untimed(whole)
    before = kept(resumed / "run")
    again = start(resumed)
    assert (again.communicate(), again.returncode) == ((None, ""), record.exit_code)
    assert kept(resumed / "run") == before


@pytest.mark.slow
def test_ray_gives_the_numbers_of_the_local_pool(
    place: Place, resumed: Path, tmp_path: Path
) -> None:
    """Two trials of a run that the local pool has ended, lost and made again on a cluster."""
    pytest.importorskip("ray")
    shutil.copytree(resumed / "run", tmp_path / "run")
    found = {path.parent: TrialResult.load(path) for path in tmp_path.glob("run/*/*/result.json")}
    lost = {at: old for at, old in found.items() if (old.phase, old.seed) == (CONFIRM, 1)}
    assert len(lost) == 2
    for folder in lost:
        shutil.rmtree(folder)
    recipe = place.recipe(**SHORT, runner={"kind": "ray"})
    scores = Scores.load(resumed / "scores.json")
    record = plop.verify(scores, recipe, folder=tmp_path / "run")
    for folder, old in lost.items():
        new = TrialResult.load(folder / "result.json")
        assert (new.items, new.metrics) == (old.items, old.metrics)
        assert new.last_log["loss"] == old.last_log["loss"]
        assert dataclasses.replace(new, cost=old.cost, last_log=old.last_log) == old
    assert untimed(record) == untimed(Verification.load(resumed / "record.json"))


# --------------------------------------------------------------------------- tune


@pytest.mark.slow
def test_a_search_ends_in_files_that_the_next_steps_take(
    place: Place, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    """The whole search with real trials; what it leaves is used by verify and export as it is."""
    pytest.importorskip("optuna")
    from plop_lora.tuning import tune

    shared = place.recipe().model_dump(include={*TuneRecipe.model_fields} - {"seeds", "rank"})
    recipe = TuneRecipe.model_validate(
        shared | {"trials": 4, "seeds": 2, "ranks": (8, planted.RANK), "budget": 1792,
                  "runner": Runner(workers=1), "placements": ("plop", "mlp", "all-linear"),
                  "inits": ("default",)}
    )  # fmt: skip
    scores, here, folder = lowest(place.scores, "o_proj"), Here(), tmp_path / "run"
    tuning = tune(scores, recipe, folder=folder, run=here)
    searched = [trial for trial in tuning.history if trial.value is not None]
    assert len(searched) == 4
    assert len(here.trained) == 4 + len(tuning.candidates) * len(tuning.seeds)
    assert tuning.verdict in ("improved", "default stands", "cannot separate")
    assert all(trial.parameters <= 1792 for trial in searched)
    written = Placement.load(folder / "placement.json")
    assert written == tuning.placement
    verify = VerifyRecipe.read(folder / "recipe.yaml")
    planned = step.plan(scores, verify, folder=tmp_path / "verify")
    assert {arm.arm for arm in planned.arms} >= {"plop", "all-linear"}
    assert planned.budget == written.trainable_parameters
    words = ["export", str(folder / "placement.json"), "-o", str(tmp_path / "adapter")]
    code, _, errors = run(*words)
    assert not code, errors
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == tuning.chosen.rank
    before, again = kept(folder), Here()
    second = tune(scores, recipe, folder=folder, run=again)
    assert again.trained == []
    assert kept(folder) == before
    assert (second.chosen, second.history) == (tuning.chosen, tuning.history)
    assert second.candidates == tuning.candidates
    assert Tuning.load(second.save(tmp_path / "tuning.json")) == second


# --------------------------------------------------------------------------- bad inputs


REWARDS = """
def raises(completions, **columns):
    raise RuntimeError("no such column")

def short(completions, **columns):
    return [0.0]
"""
GROUPS = {"generations": 4, "completion_length": 2}
GRPO = {"task": "grpo", "completion": None, "evaluation": {"metric": "pass@1"}}
BAD = {
    "overlap": (
        {"eval": "train.jsonl"}, 1,
        ("128 of 128 rows of train.jsonl (100.0%)", "give evaluation rows that were not trained"),
    ),
    "labels": (
        {"task": "classify", "text": "question", "label": "class", "prompt": None,
         "completion": None, "evaluation": {"metric": "accuracy"}}, 1,
        ("'class'", "question, answer"),
    ),
    "reward-raises": (
        {**GRPO, "training": {"rewards": ["rewards_of_mine:raises"], **GROUPS}}, 1,
        ("'rewards_of_mine:raises' raised RuntimeError: no such column",),
    ),
    "reward-short": (
        {**GRPO, "training": {"rewards": ["rewards_of_mine:short"], **GROUPS}}, 1,
        ("'rewards_of_mine:short' returned 1 values for 2", "it must return one for each"),
    ),
    "reward-absent": (
        {**GRPO, "training": GROUPS}, 2, ("needs", "number, format"),
    ),
    "groups": (
        {**GRPO, "training": {**GROUPS, "rewards": ["format"], "generations": 5}}, 2,
        ("do not hold whole groups of 5", "Allowed generations: 2, 4, 8, 16"),
    ),
    "metric": (
        {"evaluation": {"metric": "acuracy"}}, 2, ("'acuracy'", "Allowed for sft: loss, exact"),
    ),
}  # fmt: skip


@pytest.fixture
def plop_in(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., tuple[int, str, str]],
) -> Callable[..., tuple[int, str]]:
    """A verb on a recipe in a folder with real parts: the exit code, and the one line on stderr."""
    for name in ("train.jsonl", "eval.jsonl"):
        shutil.copy(place.folder / name, tmp_path)
    (tmp_path / "rewards_of_mine.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    lowest(place.scores, "o_proj").save(tmp_path / "scores.json")

    def call(verb: str, changes: dict[str, Any]) -> tuple[int, str]:
        document = yaml.safe_load(planted.RECIPE) | {"train": "train.jsonl", "eval": "eval.jsonl"}
        if verb == "tune":
            del document["ladder"]
        for key, value in changes.items():
            old = document.get(key)
            document[key] = old | value if isinstance(old, dict) else value
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
        words = f"{verb} scores.json --recipe recipe.yaml --folder run --format quiet"
        code, _, errors = run(*words.split())
        sys.modules.pop("rewards_of_mine", None)
        return code, errors

    return call


@pytest.mark.parametrize("verb", ["verify", "tune"])
@pytest.mark.parametrize("case", BAD)
def test_what_cannot_work_is_told_before_any_trial(
    plop_in, tmp_path: Path, verb: str, case: str
) -> None:
    """A fault that the first trial would show after an hour in a queue is shown now."""
    changes, code, texts = BAD[case]
    found, errors = plop_in(verb, changes)
    assert found == code, errors
    assert errors.startswith("Error: ")
    assert errors.count("\n") == 1
    for text in texts:
        assert text in errors
    assert not (tmp_path / "run" / "trials").exists()


@pytest.mark.parametrize("verb", ["verify", "tune"])
def test_a_budget_that_cannot_be_met_says_which_can(plop_in, tmp_path: Path, verb: str) -> None:
    code, errors = plop_in(verb, {"budget": 100 if verb == "verify" else 60})
    assert (code, errors.count("\n")) == (2, 1)
    assert "--budget " in errors
    assert not (tmp_path / "run" / "trials").exists()


def test_a_folder_of_another_recipe_is_refused(plop_in, place: Place, tmp_path: Path) -> None:
    """Trials of two recipes under one roof would be compared with each other."""
    scores = Scores.load(tmp_path / "scores.json")
    other = place.recipe(top=2)
    mark(tmp_path / "run", "verify", model_of(scores))
    keep(tmp_path / "run", other, scores)
    code, errors = plop_in("verify", {})
    assert (code, errors.count("\n")) == (2, 1)
    assert "belongs to another recipe: its top is 2, now 1 is asked" in errors
    assert "--folder" in errors
    assert not (tmp_path / "run" / "trials").exists()
