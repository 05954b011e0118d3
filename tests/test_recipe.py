"""Recipes: every key is told of, a wrong one is refused by its name."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from plop_lora.errors import UsageError
from plop_lora.recipe import (
    PlaceRecipe,
    Price,
    Runner,
    ScoreRecipe,
    ScoringSettings,
    TuneRecipe,
    VerifyRecipe,
)
from plop_lora.records import EvaluationSettings, TrainingSettings

ROOT = Path(__file__).parents[1]
NEEDED = {"task": "sft", "train": "t.jsonl", "eval": "e.jsonl"}


def page() -> str:
    return (ROOT / "docs" / "reference" / "recipe.md").read_text(encoding="utf-8")


def test_reference_is_current() -> None:
    """`python docs/generate.py` renews it."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert page() == generate.recipe_page()


def test_every_key_is_documented() -> None:
    keys = {*VerifyRecipe.model_fields, *TuneRecipe.model_fields, *Runner.model_fields}
    keys |= {*Price.model_fields, *ScoringSettings.model_fields}
    for settings in (TrainingSettings, EvaluationSettings):
        keys |= {field.name for field in dataclasses.fields(settings)}
    text = page()
    for key in keys:
        assert f"| `{key}` |" in text


def test_a_file_and_options_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "task: sft\ntrain: t.jsonl\neval: e.jsonl\nseeds: 3\nladder: [3, 1]\n"
        "training: {epochs: 2, batch_size: 4}\nprice: {hourly: 2.5}\n"
    )
    given = {"seeds": 8, "training": {"batch_size": 16}, "runner": {"workers": 2}}
    recipe = VerifyRecipe.read(path, given)
    assert recipe.seeds == 8
    assert recipe.training == TrainingSettings(epochs=2, batch_size=16)
    assert recipe.price.hourly == 2.5
    assert recipe.runner.workers == 2
    assert recipe.ladder == (1.0, 3.0)
    assert VerifyRecipe.read(None, NEEDED).seeds is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sedes": 3}, "sedes: there is no such key. Did you mean 'seeds'"),
        (
            {"training": {"epoch": 3}},
            r"training.epoch: there is no such key. Did you mean 'epochs'",
        ),
        ({"runner": {"worker": 3}}, r"runner.worker: there is no such key. Did you mean 'workers'"),
        ({"runner": {"kind": "slurm"}}, "allowed: local, ray"),
        ({"seeds": 0}, "seeds is 0; it must be 1 or more"),
        ({"seeds": "many"}, "seeds must be a whole number, and is 'many'"),
        ({"ladder": [0, 1]}, "above 0"),
        ({"ladder": [1, 1]}, "differ"),
        ({"ladder": []}, "ladder has 0 entries; it must have at least 1"),
        ({"selection": 0.7}, "selection is 0.7; it must be below 0.5"),
        ({"training": {"epochs": 0}}, "epochs is 0; it must be above 0"),
        ({"training": {"batch_size": 0}}, "batch_size is 0; it must be 1 or more"),
        ({"training": {"generations": 1}}, "generations is 1; it must be 2 or more"),
        ({"evaluation": {"max_new_tokens": 0}}, "max_new_tokens is 0"),
    ],
)
def test_wrong_values_are_named(given, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        VerifyRecipe.read(None, NEEDED | given)


def test_what_is_needed_is_named() -> None:
    with pytest.raises(
        UsageError,
        match=r"--task is needed: the task that is .*module:NAME\. Give it, or a recipe that has",
    ):
        VerifyRecipe.read(None, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1\n", "no keys with values"),
        (None, "Cannot read the recipe .* no such file"),
        ("task: sft\ntask: grpo\n", "line 2, is not valid YAML.* the key 'task' occurs twice"),
        (
            "training:\n  epochs: 1\n  epochs: 9\n",
            "line 3, is not valid YAML.* the key 'epochs' occurs twice",
        ),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        VerifyRecipe.read(path)


def test_a_saved_recipe_reads_back(tmp_path: Path) -> None:
    import yaml

    recipe = VerifyRecipe(**NEEDED, arms=("mlp",), training=TrainingSettings(steps=5))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert VerifyRecipe.read(path) == recipe


def test_scoring_has_a_section_of_its_own(tmp_path: Path) -> None:
    """`plop score` reads it, and an option goes before it; a slip in a key is told."""
    path = tmp_path / "recipe.yaml"
    path.write_text("score:\n  indicators: [response-gain, rank-of-weights]\n")
    recipe = ScoreRecipe.read(path)
    assert recipe.score.indicators == ("response-gain", "rank-of-weights")
    given = {"score": {"indicators": ["parameter-share"]}}
    assert ScoreRecipe.read(path, given).score.indicators == ("parameter-share",)
    assert ScoreRecipe.read().score.indicators == ()
    path.write_text("score: {indicator: [response-gain]}\n")
    with pytest.raises(UsageError, match="Did you mean 'indicators'"):
        ScoreRecipe.read(path)


ONE_FILE = """
task: sft
train: train.jsonl
eval: eval.jsonl
seeds: 4
score: {stop: fixed, top: 2}
place: {top: 2, layers: 0-3, rslora: true}
arms: [attention]
learning_rates: [1e-5, 1e-4, 1e-3]
trials: 12
training: {epochs: 2}
"""


def test_one_file_serves_every_verb(tmp_path: Path) -> None:
    """`plop score` refused the recipe of a verification, which refused the section of scoring."""
    path = tmp_path / "recipe.yaml"
    path.write_text(ONE_FILE)
    scoring = ScoreRecipe.read(path).score
    assert (scoring.stop, scoring.top) == ("fixed", 2)
    placing = PlaceRecipe.read(path).place
    assert (placing.top, placing.layers, placing.adapters.rslora) == (2, "0-3", True)
    verify = VerifyRecipe.read(path)
    assert (verify.arms, verify.seeds, len(verify.learning_rates)) == (("attention",), 4, 3)
    path.write_text(ONE_FILE.replace("1e-5, 1e-4", "1e-4"))
    tune = TuneRecipe.read(path)
    assert (tune.trials, tune.seeds, tune.training.epochs) == (12, 4, 2)
    assert TuneRecipe.of({**NEEDED, "arms": ["mlp"]}, {}) == TuneRecipe.of(NEEDED, {})


@pytest.mark.parametrize("recipe", [ScoreRecipe, PlaceRecipe, VerifyRecipe, TuneRecipe])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian: x", "trian: there is no such key. Did you mean 'train'"),
        ("scores: {}", "scores: there is no such key. Did you mean 'score'"),
        ("score: {sotp: fixed}", "score.sotp: there is no such key. Did you mean 'stop'"),
        ("place: {dropout: 1}", "place.dropout is 1; it must be below 1"),
        ("training: {epoch: 2}", "training.epoch: there is no such key. Did you mean 'epochs'"),
        ("margin: -1", "margin: -1 is below 0"),
        ("trials: 0", "trials is 0; it must be 1 or more"),
    ],
)
def test_a_slip_in_a_key_of_any_verb_is_told(tmp_path: Path, recipe, line, message: str) -> None:
    """What a verb does not read is checked all the same: the next verb will read it."""
    path = tmp_path / "recipe.yaml"
    path.write_text(f"task: sft\ntrain: a\neval: b\n{line}\n")
    with pytest.raises(UsageError, match=f"In the recipe .*recipe.yaml, {message}"):
        recipe.read(path)


def test_an_option_of_another_verb_is_still_refused() -> None:
    """On the line there is one verb, so that nothing else can be meant."""
    with pytest.raises(UsageError, match="In the options, trials: there is no such key"):
        VerifyRecipe.read(None, {**NEEDED, "trials": 3})
