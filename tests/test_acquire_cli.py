"""`plop acquire` as it is typed: exit codes, outputs, one recipe for all verbs, and a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from plop_lora.acquisition import acquire
from plop_lora.cli import app
from plop_lora.data.reading import read_rows
from plop_lora.demo import DATA
from plop_lora.errors import UsageError
from plop_lora.recipe import AcquireRecipe, GateRecipe, PlaceRecipe, ScoreRecipe, VerifyRecipe
from plop_lora.recipe.acquire import TASKS as NAMED
from plop_lora.records import Acquisition
from plop_lora.training.tasks import TASKS

PROBLEMS = str(DATA / "problems.jsonl")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def typed(*words: str) -> tuple[int, str]:
    """Return the exit code of a command and its output, or the text of its error."""
    done = CliRunner().invoke(app, ["acquire", *words])
    return done.exit_code, f"{done.output}{done.exception or ''}"


def test_one_file_of_rows_becomes_a_folder() -> None:
    """The next command has to be one that works on what was written."""
    code, shown = typed("--train", PROBLEMS, "--licence", "CC0-1.0", "-o", "report.md")
    assert code == 0
    assert "plop score MODEL --data acquired/train.jsonl" in shown
    assert "licence “CC0-1.0”, from the recipe" in " ".join(shown.split())
    record = Acquisition.load("acquired/acquisition.json")
    for side, count in (("train", record.train_rows), ("eval", record.eval_rows)):
        assert len(list(read_rows(f"acquired/{side}.jsonl"))) == count
    assert Path("report.md").read_text().startswith("# plop acquire: ")
    assert typed("--train", PROBLEMS, "-o", "report.md")[0] == 0
    assert json.loads(typed("--train", PROBLEMS, "--format", "json")[1].splitlines()[0])


def test_the_table_says_where_every_row_went() -> None:
    """Rows that were read, removed and left add up, or somebody has to look for the rest."""
    rows = [{"text": f"a row about subject {n % 18} of its own"} for n in range(20)]
    Path("rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    code, shown = typed("--train", "rows.jsonl")
    cells = [
        line.split("  ") for line in shown.splitlines() if line.startswith(("train ", "eval "))
    ]
    words = [[cell.strip() for cell in line if cell.strip()] for line in cells]
    assert code == 0
    assert words == [
        ["train", "were read", "20"],
        ["train", "repeat another", "2", "10.0%", "removed", "19, 20"],
        ["train", "are left", "16", "80.0%"],
        ["eval", "are held out", "2", "10.0%"],
    ]
    assert Acquisition.load("acquired/acquisition.json").eval_rows == 2


def test_what_is_refused_exits_with_3_and_writes_nothing() -> None:
    words = ("--train", PROBLEMS, "--set", "acquire.leakage.action=refuse")
    code, shown = typed(*words)
    assert code == 3
    assert "refused, nothing was written" in shown
    assert "Refused: 2 train rows" in shown
    assert not Path("acquired").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--train", PROBLEMS, "-o", "acquired/report.md"), "lies in acquired"),
        (("--train", PROBLEMS, "--task", "sftt"), "'sftt' is unknown"),
        (("--train", PROBLEMS, "--set", "acquire.exact=drop"), "'drop' is unknown"),
        (("--train", PROBLEMS, "--set", "acquire.split.by=time"), "need a column"),
        (("--train", "-"), "no digest"),
        (("--train", PROBLEMS, "--completion", "{answer}"), "the prompt alone"),
        (("--train", PROBLEMS, "-o", PROBLEMS), "which is read here"),
    ],
)
def test_wrong_options(words: tuple[str, ...], text: str) -> None:
    code, shown = typed(*words)
    assert code in (1, 2)
    assert text in shown
    assert not Path("acquired").exists()


def test_one_recipe_serves_all_verbs() -> None:
    """A section of one verb was an unknown key for the others."""
    document = {
        "task": "sft", "train": PROBLEMS, "eval": "eval.jsonl", "prompt": "{question}\n",
        "completion": "{answer}", "score": {"top": 3},
        "acquire": {"split": {"by": "group", "column": "question"}, "exact": "count"},
    }  # fmt: skip
    Path("recipe.yaml").write_text(yaml.safe_dump(document))
    for recipe in (AcquireRecipe, GateRecipe, PlaceRecipe, ScoreRecipe, VerifyRecipe):
        recipe.read("recipe.yaml")
    Path("recipe.yaml").write_text(yaml.safe_dump(document | {"acquire": {"exact": "drop"}}))
    with pytest.raises(UsageError, match="'drop' is unknown"):
        ScoreRecipe.read("recipe.yaml")
    assert set(NAMED) == set(TASKS)


KILLED = """
import os, signal, sys
from pathlib import Path
whole = Path.write_text
def dying(self, *arguments, **options):
    whole(self, *arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "killed":
    Path.write_text = dying
from plop_lora.acquisition import acquire
acquire(train=sys.argv[1], folder="acquired")
"""


def test_a_kill_leaves_no_half_of_a_folder() -> None:
    """A folder with one of two files was read as complete; the next run has to clear it away."""
    run = (sys.executable, "-c", KILLED, PROBLEMS)
    assert subprocess.run((*run, "killed")).returncode < 0
    assert not Path("acquired").exists()
    (left,) = Path.cwd().iterdir()
    subprocess.run((*run, "whole"), check=True)
    assert not left.exists()
    before = {file.name: file.read_bytes() for file in Path("acquired").iterdir()}
    acquire(train=PROBLEMS, folder="again")
    assert {file.name: file.read_bytes() for file in Path("again").iterdir()} == before


def test_the_verb_needs_no_torch() -> None:
    code = (
        "import sys; from plop_lora.cli import main\n"
        f"sys.argv[1:] = ['acquire', '--train', {PROBLEMS!r}, '--format', 'quiet']\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sets_that_are_read_by_different_fields() -> None:
    """A text was compared with a question, and nothing leaked."""
    Path("eval.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    code, shown = typed("--train", PROBLEMS, "--eval", "eval.jsonl")
    assert code == 1
    assert "is read by question, answer, but eval.jsonl by text" in shown
