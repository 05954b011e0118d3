"""Options that are made from a recipe's fields, and `--set` for all of its keys."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from plop_lora.cli.keys import Key, field_of, takes_recipe
from plop_lora.errors import UsageError
from plop_lora.recipe import WITH_OPTION, ScoreRecipe, TuneRecipe, VerifyRecipe, option_of

KEYS = (
    *(Key(path, "P") for path in ("arms", "seeds", "quick", "budget", "prompt", "margin")),
    Key("training.rewards", "P", hidden=True),
)
REWARDS = Key("training.rewards", "P", hidden=True, former="--rewards-of-old")
VERBS = {
    name: importlib.import_module(f"plop_lora.cli.{name}").KEYS
    for name in ("verify", "tune", "finetune", "score", "place", "gate", "acquire", "run")
}


def given(*words: str, keys: tuple[Key, ...] = KEYS) -> dict[str, Any]:
    """Return what a command that takes these keys is given."""
    found: list[dict[str, Any]] = []
    app = typer.Typer()

    @app.command()
    @takes_recipe(VerifyRecipe, keys)
    def command(given: dict[str, Any]) -> None:
        found.append(given)

    done = CliRunner().invoke(app, list(words))
    if isinstance(done.exception, UsageError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return found[0]


@pytest.mark.parametrize(
    ("words", "document"),
    [
        ((), {}),
        (("--seeds", "0"), {"seeds": 0}),
        (("--margin", "0"), {"margin": "0"}),
        (("--quick",), {"quick": True}),
        (("--budget", "10M"), {"budget": "10M"}),
        (("--arms", "mlp, attention"), {"arms": ["mlp", "attention"]}),
        (("--prompt", "Q: {q}\\nA:"), {"prompt": "Q: {q}\nA:"}),
        (("--rewards", "number"), {"training": {"rewards": ["number"]}}),
        (("--set", "training.steps=8", "--rewards", "format"),
         {"training": {"steps": 8, "rewards": ["format"]}}),
        (("--set", "ladder=[1, 3]", "--set", "full_rate=2e-5"),
         {"ladder": [1, 3], "full_rate": "2e-5"}),
        (("--set", "seeds=2", "--seeds", "4"), {"seeds": 4}),
    ],
)  # fmt: skip
def test_what_the_line_sets(words: tuple[str, ...], document: dict[str, Any]) -> None:
    """A 0 was dropped as if nothing had been given; a named option goes before --set."""
    assert given(*words) == document


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--set", "training.steps"), "give a key and its value"),
        (("--set", "=3"), "give a key and its value"),
        (("--set", "seeds=1", "--set", "seeds=2"), "given twice"),
        (("--set", "ladder=[1"), "is not valid YAML"),
        (("--set", "training=3", "--set", "training.steps=2"), "was also set as a whole"),
    ],
)
def test_settings_that_cannot_be(words: tuple[str, ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        given(*words)


def test_help_and_bounds_are_those_of_the_field() -> None:
    for name, recipe in (("verify", VerifyRecipe), ("tune", TuneRecipe)):
        for key in VERBS[name]:
            told = field_of(recipe, key.path).description
            assert told[0].isupper(), key.path
            assert told.endswith("."), key.path


def test_errors_name_options_that_there_are() -> None:
    """An error that names `--ladder` sends the user to an option that does not exist."""
    paths = {key.path for keys in VERBS.values() for key in keys}
    own = ("indicators", "batch_size", "include", "exclude", "token", "trust_remote_code")
    assert paths | {f"score.{name}" for name in own} == WITH_OPTION
    assert option_of("ladder") == "--set ladder"


def test_the_former_name_of_an_option_sets_its_key() -> None:
    """Scripts that say `--baseline` go on working, and the help shows the new name alone."""
    (old,) = (key for key in VERBS["score"] if key.former)
    assert (old.option, old.path, old.hidden) == ("--baseline", "score.denominator", True)
    assert given("--rewards-of-old", "number", keys=(REWARDS,)) == given("--rewards", "number")


@pytest.mark.parametrize("name", ["denominator", "baseline"])
def test_the_former_name_of_a_key_is_read(name: str) -> None:
    read = ScoreRecipe.parse({"score": {name: "monte_carlo"}}, "the recipe")
    assert read.score.denominator == "monte_carlo"
    assert "baseline" not in read.model_dump_json()


def test_a_verb_without_given_is_a_fault_of_ours() -> None:
    with pytest.raises(TypeError, match="takes no `given`"):
        takes_recipe(VerifyRecipe, KEYS)(lambda scores: None)
