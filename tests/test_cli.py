"""The command line, as a user types it: real processes for start-up, streams and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import plop_lora as plop
from plop_lora.cli import VERBS, app, verb_name
from plop_lora.demo import DATA, MODEL
from plop_lora.errors import PlopError

PROBLEMS = str(DATA / "problems.jsonl")
TEMPLATE = "{question}\\n{answer}"


def plop_command(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "plop_lora", *words],
        capture_output=True, text=True, cwd=folder, env=os.environ | {"COLUMNS": "160"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scores of the bundled model, made by the command line."""
    here = tmp_path_factory.mktemp("cli")
    words = ("score", str(MODEL), "--data", PROBLEMS, "--template", TEMPLATE, "--samples", "64")
    done = plop_command(*words, "-o", "scores.json", "--format", "json", folder=here)
    assert done.returncode == 0, done.stderr
    (here / "stdout.json").write_text(done.stdout)
    return here


def test_score_prints_what_it_writes(folder: Path) -> None:
    """`--format json` is one document, the same as the file's, and nothing else."""
    printed = json.loads((folder / "stdout.json").read_text())
    assert printed == json.loads((folder / "scores.json").read_text())
    assert printed["sequences"] == 64


def test_place_export_compare(folder: Path) -> None:
    done = plop_command(
        "place", "scores.json", "--budget", "2%", "-o", "placement.json", folder=folder
    )
    assert done.returncode == 0, done.stderr
    assert "of a budget of 55,100" in done.stdout
    done = plop_command("export", "placement.json", "-o", "adapter", folder=folder)
    assert "read back from peft" in done.stdout, done.stderr
    assert (folder / "adapter" / "adapter_config.json").exists()
    done = plop_command("compare", "scores.json", "scores.json", folder=folder)
    assert "paired over 64 sequences" in done.stdout


def test_demo_from_any_folder(tmp_path: Path) -> None:
    done = plop_command("demo", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "PEFT loads it: 18 adapted modules" in done.stdout
    names = {path.name for path in (tmp_path / "plop-demo").iterdir()}
    assert names == {"problems.json", "snippets.json", "placement.json", "adapter"}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["place", "scores.json"],
        ["compare", "scores.json", "scores.json"],
        ["export", "placement.json", "-o", "light", "--no-dry-run"],
    ],
    ids=lambda words: words[0],
)
def test_light_verbs_import_no_torch(folder: Path, words: list[str]) -> None:
    """A user on a laptop waits for torch only where a model runs."""
    plop.place(plop.Scores.load(folder / "scores.json")).save(folder / "placement.json")
    code = (
        f"import sys; sys.argv[1:] = {words!r}\n"
        "from plop_lora.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["score", "./no-such-model", "--data", PROBLEMS], 1, "./no-such-model is not there"),
        (["score", "nobody/nothing-here", "--data", PROBLEMS], 1, "hub did not give one"),
        (["score", str(MODEL), "--data", "no.jsonl"], 1, "No data at no.jsonl"),
        (["score", str(MODEL), "--data", PROBLEMS], 1, "it has: question, answer"),
        (["score", str(MODEL), "--data", PROBLEMS, "-o", "."], 1, "it is a folder"),
        (["score", str(MODEL), "--data", PROBLEMS, "--batch-size", "x"], 2, "give auto or"),
        (["place", "scores.json", "--top", "9"], 2, "these scores have 7 module types"),
        (["place", "scores.json", "--budget", "9"], 2, "The smallest that works is"),
        (["place", "scores.json", "--strategy", "plopp"], 2, "Did you mean 'plop'"),
        (["place", "absent.json"], 1, "No such file: absent.json"),
        (["place", "text.json"], 1, "not complete JSON"),
        (["export", "scores.json", "-o", "x"], 1, "a 'placement' record is needed here"),
        (["score", str(MODEL)], 2, "Missing option '--data'"),
        (["scor"], 2, "No such command 'scor'"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_errors_are_one_line(folder: Path, words: list[str], code: int, message: str) -> None:
    """What, where, what next; no traceback, nothing on stdout, no file left."""
    (folder / "text.json").write_text("not json")
    before = sorted(folder.iterdir())
    here = Path.cwd()
    os.chdir(folder)
    try:
        if code == 2 and ("Missing" in message or "No such" in message):
            done = plop_command(*words, folder=folder)
            assert done.returncode == code
            assert message in done.stderr
        else:
            with pytest.raises(PlopError) as error:
                CliRunner().invoke(app, words, catch_exceptions=False)
            assert error.value.exit_code == code
            assert message in str(error.value)
            assert "\n" not in str(error.value)
    finally:
        os.chdir(here)
    assert sorted(folder.iterdir()) == before


def test_the_process_turns_errors_into_exit_codes(folder: Path) -> None:
    done = plop_command("place", "scores.json", "--top", "9", folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: --top 9")
    assert done.stderr.count("\n") == 1
    done = plop_command("--debug", "place", "scores.json", "--top", "9", folder=folder)
    assert "Traceback" in done.stderr


def test_no_file_after_a_failed_score(tmp_path: Path) -> None:
    """A damaged model fails in the forward; the output must not exist."""
    import torch
    from transformers import AutoModelForCausalLM

    broken = tmp_path / "broken"
    shutil.copytree(MODEL, broken)
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] = float("inf")
    model.save_pretrained(broken)
    words = ("score", "broken", "--data", PROBLEMS, "--text", "question", "-o", "scores.json")
    done = plop_command(*words, folder=tmp_path)
    assert done.returncode == 1
    assert "model.layers.2.mlp.down_proj produced NaN or infinity" in done.stderr
    assert not (tmp_path / "scores.json").exists()


def test_version() -> None:
    assert plop_command("--version").stdout == f"plop-lora {plop.__version__}\n"


def test_every_verb_has_help_and_docs() -> None:
    reference = (Path(__file__).parents[1] / "docs" / "reference" / "cli.md").read_text()
    for verb in VERBS:
        done = CliRunner().invoke(app, [verb_name(verb), "--help"])
        assert done.exit_code == 0
        assert f"## plop {verb_name(verb)}" in reference


def test_export_help_names_every_trainer() -> None:
    from plop_lora.export import TARGETS

    text = " ".join(
        CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "200"}).stdout.split()
    )
    assert all(name in text for name in TARGETS)
