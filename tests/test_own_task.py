"""A task is one object: one that the package has never heard of is planned, trained and judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tagging import TAGS
from trials import FILLERS, WORDS, checkpoint
from typer.testing import CliRunner

import plop_lora as plop
from plop_lora.cli import app
from plop_lora.errors import UsageError
from plop_lora.recipe import VerifyRecipe
from plop_lora.records import Scores, VerificationPlan
from plop_lora.study.study import Study
from plop_lora.training.tasks import task_named
from plop_lora.training.trial import run_trial
from plop_lora.verification.design import confirm_specs, make_design

NAME = "my_tagging:TAGGING"


def rows(start: int, count: int) -> str:
    lines = []
    for n in range(start, start + count):
        tag = TAGS[1 + n % 2]
        words = [FILLERS[(n * step) % len(FILLERS)] for step in (1, 3, 5)] + [
            WORDS[tag][n // 2 % 4]
        ]
        words.insert(0, f"w{n}")
        lines.append(json.dumps({"words": words, "tags": ["neutral"] * 4 + [tag]}))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the user has it: a module with the task, rows, a model and its scores."""
    folder = tmp_path_factory.mktemp("tagging")
    shutil.copy(Path(__file__).with_name("tagging.py"), folder / "my_tagging.py")
    (folder / "train.jsonl").write_text(rows(0, 80))
    (folder / "eval.jsonl").write_text(rows(500, 24))
    model = checkpoint(folder / "encoder", "BertModel")
    texts = [" ".join(json.loads(line)["words"]) for line in rows(0, 16).splitlines()]
    plop.score(model, texts=texts, device="cpu").save(folder / "scores.json")
    return folder


@pytest.fixture
def recipe(here: Path, monkeypatch: pytest.MonkeyPatch) -> VerifyRecipe:
    monkeypatch.chdir(here)
    return VerifyRecipe.model_validate({
        "task": NAME, "train": "train.jsonl", "eval": "eval.jsonl", "arms": ["mlp"], "seeds": 2,
        "top": 2, "ladder": [1.0], "training": {"steps": 60, "device": "cpu"},
    })  # fmt: skip


def test_it_is_planned_from_the_command_line(here: Path, monkeypatch) -> None:
    monkeypatch.chdir(here)
    words = ["--train", "train.jsonl", "--eval", "eval.jsonl", "--task", NAME, "--arms", "mlp"]
    words = ["verify", "scores.json", *words, "--top", "2", "--plan", "-o", "plan.json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.exception
    plan = VerificationPlan.load(here / "plan.json")
    assert (plan.task, plan.metric, plan.beside) == (NAME, "loss", "tags")
    assert plan.learning_rates[1] == pytest.approx(0.019)
    assert "tags" in done.stdout


@pytest.mark.slow
def test_a_trial_trains_it_and_judges_by_its_metric(here: Path, recipe: VerifyRecipe) -> None:
    study = Study.open(Scores.load(here / "scores.json"), recipe, here / "run")
    design = make_design(study, recipe)
    study.check([arm.placements[0] for arm in design.arms])
    study.claim("verify")
    spec = confirm_specs(design, {arm.name: 2e-2 for arm in design.arms})[0]
    result = run_trial(spec, here / "run" / "trials" / "one")
    assert result.done, result.cause
    assert (result.metric, set(result.items)) == ("tags", {"tags", "loss"})
    assert len(result.items["tags"]) == 24
    assert result.metrics["tags"] > 0.9
    assert result.nothing_learned == ()


def test_a_name_that_is_no_task(here: Path, monkeypatch) -> None:
    monkeypatch.chdir(here)
    with pytest.raises(
        UsageError, match=r"my_tagging has no task 'TAGGIN'. Did you mean 'TAGGING'"
    ):
        task_named("my_tagging:TAGGIN")
    with pytest.raises(UsageError, match="there is no module 'no_tagging'"):
        task_named("no_tagging:TAGGING")
    with pytest.raises(UsageError, match=r"no task 'tagging'. Allowed: sft, .*module:NAME"):
        task_named("tagging")
