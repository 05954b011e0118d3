"""What `--help` shows in a terminal of 80 columns, and errors that name the next step."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import GOLDEN
from typer.testing import CliRunner

from plop_lora.cli import COMMANDS, app, command_of
from plop_lora.demo import MODEL
from plop_lora.recipe import (
    AcquireRecipe,
    ExperimentRecipe,
    GateRecipe,
    PlaceRecipe,
    ScoreRecipe,
    VerifyRecipe,
)
from plop_lora.recipe.section import field_of

Run = Callable[..., tuple[int, str, str]]
READS = {
    "score": ScoreRecipe, "robustness": ScoreRecipe, "place": PlaceRecipe, "gate": GateRecipe,
    "acquire": AcquireRecipe, "ab init": ExperimentRecipe, "verify": VerifyRecipe,
}  # fmt: skip
"""A command → the recipe from which its help takes the example of `--set`."""


def shown(command: str) -> str:
    """Return the help of a command as a terminal of 80 columns shows it, without the boxes."""
    done = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    return done.stdout.replace("│", " ")


def options(command: str) -> list[Any]:
    """Return the arguments and options of a command that its help lists."""
    return [p for p in command_of(command).params if not getattr(p, "hidden", False)]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_loses_no_word_of_its_texts(command: str) -> None:
    """Markdown takes a pair of asterisks for emphasis, and a narrow column cuts long words."""
    words = set(shown(command).split())
    for option in options(command):
        lost = [w for w in option.help.replace("`", "").split() if w not in words]
        assert not lost, f"{option.name}: {lost}"


@pytest.mark.parametrize("command", COMMANDS)
def test_arguments_are_named_as_the_texts_name_them(command: str) -> None:
    arguments = [o for o in options(command) if not o.opts[0].startswith("-")]
    for argument in arguments:
        assert argument.metavar.isupper()
        assert argument.metavar in shown(command)


@pytest.mark.parametrize("command", READS)
def test_the_example_of_set_is_a_key_that_the_command_reads(command: str) -> None:
    (option,) = [o for o in options(command) if "--set" in o.opts]
    (key,) = re.findall(r"--set ([\w.]+)=", option.help)
    assert field_of(READS[command], key) is not None


def test_one_option_has_one_text() -> None:
    """The same words for the same thing, where commands do not differ in what they do."""
    for name in ("--force", "--device", "--recipe"):
        texts: dict[str, list[str]] = {}
        for command in COMMANDS:
            for option in options(command):
                if name in option.opts and option.metavar != "REASON":
                    texts.setdefault(option.help.removesuffix(" Default: auto."), []).append(
                        command
                    )
        own = [text for text in texts if "section" not in text and "output folder" not in text]
        assert len(own) <= 1, texts


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with records of earlier runs, in which commands run."""
    for name in ("placement-1.json", "scores-1.json", "experiment-1.json", "trial-1.json"):
        shutil.copyfile(GOLDEN / name, tmp_path / name)
    shutil.copyfile(GOLDEN / "llama-scores.json", tmp_path / "other.json")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "adapter").mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    rows = [{"text": f"number {n} and {n * n}"} for n in range(400)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = "task: sft\ntrain: rows.jsonl\neval: rows.jsonl\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    (tmp_path / "whole.yaml").write_text(f"{recipe}model: {MODEL}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("status", 2, "There is no run in plop-run. Start one with: plop run recipe.yaml"),
        ("status mine", 2, "Give the folder of a run"),
        ("run absent.yaml", 2, "write one with: plop init MODEL TRAIN"),
        ("run recipe.yaml --plan", 2, "model is needed.*plop init MODEL TRAIN"),
        ("run whole.yaml --plan --adapter absent", 1, "absent does not exist.*plop finetune"),
        ("init ./absent rows.jsonl --yes -o r.yaml", 1, "The model folder ./absent is not there"),
        (f"init {MODEL} rows.jsonl --yes -o r.yaml --task stf", 2,
         "In the options, task: 'stf' is unknown"),
        ("init MODEL rows.jsonl --yes -o notes.txt/r.yaml", 1, "Cannot write notes.txt/r.yaml"),
        (f"init MODEL rows.jsonl --yes -o {MODEL}/r.yaml", 2, "is the folder of a model"),
        ("acquire --train absent.jsonl", 1, "No data at absent.jsonl. Give a file"),
        (f"acquire --train {MODEL}", 1, "is the folder of a model, but rows of data are needed"),
        ("finetune placement-1.json --recipe recipe.yaml --plan --folder mine", 2,
         r"holds something else than a run. Name another folder with --folder\.$"),
        ("gate absent --eval rows.jsonl", 1, "absent does not exist.*plop finetune"),
        ("gate adapter --eval rows.jsonl", 1, "is not a trained adapter. Train one with: plop"),
        ("gate --checkpoints absent --eval rows.jsonl", 1, "Give the folder of a training run"),
        ("gate --canaries 0 -o c.jsonl", 2, "--canaries 0 is not possible; give 1 or more"),
        ("report placement-1.json -o report.pdf", 2, "ends neither in .html nor in .md"),
        ("report placement-1.json --lang de", 2, "'--lang': 'de' is not one of 'en', 'ja'"),
        ("report scores-1.json other.json", 2, "plop compare FIRST SECOND"),
        ("trial trial-1.json --folder notes.txt", 2, "--folder notes.txt is a file. Give a new"),
        ("serve model --port 99999", 2, "--port 99999 is not possible; give 0 to 65535"),
        ("ab assign u -e placement-1.json", 1, "but an 'experiment' record is needed here"),
        ("ab init --recipe recipe.yaml -o e.json", 2, "ab is needed.*plop ab init --template"),
        ("ab status -e experiment-1.json", 2, "plop ab init --from experiment-1.json"),
        ("ab analyze -e experiment-1.json --from absent.csv", 1, "Give a file of events: .csv"),
        ("ab replay rows.jsonl --upstream http://localhost:9 --model now", 2, "is not NAME=VALUE"),
    ],
    ids=lambda value: str(value).replace(str(MODEL), "MODEL"),
)  # fmt: skip
def test_an_error_names_the_next_step(
    here: Path, run: Run, line: str, code: int, message: str
) -> None:
    """One line that says what is wrong and what to do; and no file, such as a database, is left."""
    before = sorted(here.rglob("*"))
    returned, output, errors = run(*line.split())
    assert (returned, output) == (code, ""), errors
    assert errors.startswith("Error: ")
    assert errors.count("\n") == 1
    assert re.search(message, errors.rstrip()), errors
    assert sorted(here.rglob("*")) == before


def test_a_report_may_have_another_ending_where_its_format_is_given(here: Path, run: Run) -> None:
    code, _, errors = run("report", "placement-1.json", "-o", "page.txt", "--format", "html")
    assert code == 0, errors
    assert (here / "page.txt").read_text().startswith("<!doctype html>")
