"""The command line, as a user types it: real processes for start-up, streams and exit codes."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import GOLDEN
from typer.testing import CliRunner

import plop_lora as plop
from plop_lora.cli import COMMANDS, VERBS, app, verb_name
from plop_lora.demo import DATA, MODEL

Run = Callable[..., tuple[int, str, str]]
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
    words += ("--stop", "fixed")
    done = plop_command(*words, "-o", "scores.json", "--format", "json", folder=here)
    assert done.returncode == 0, done.stderr
    (here / "stdout.json").write_text(done.stdout)
    (here / "two.jsonl").write_text('{"left": "one text", "right": "another"}\n' * 9)
    return here


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scores that were made before, and rows."""
    here = tmp_path_factory.mktemp("light")
    shutil.copyfile(GOLDEN / "llama-scores.json", here / "scores.json")
    (here / "two.jsonl").write_text('{"left": "one text", "right": "another"}\n' * 9)
    return here


@pytest.mark.slow
def test_score_prints_what_it_writes(folder: Path) -> None:
    """`--format json` is one document, the same as the file's, and nothing else."""
    printed = json.loads((folder / "stdout.json").read_text())
    assert printed == json.loads((folder / "scores.json").read_text())
    assert printed["sequences"] == 64


@pytest.mark.slow
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


@pytest.mark.slow
def test_demo_from_any_folder(tmp_path: Path) -> None:
    done = plop_command("demo", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "PEFT loads it: 18 adapted modules" in done.stdout
    names = {path.name for path in (tmp_path / "plop-demo").iterdir()}
    assert names == {"problems.json", "snippets.json", "placement.json", "adapter"}


@pytest.mark.slow
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
        (
            ["score", "nobody/nothing-here", "--data", PROBLEMS, "--text", "question"],
            1,
            "hub did not give one",
        ),
        (["score", str(MODEL), "--data", "no.jsonl"], 1, "No data at no.jsonl"),
        (["score", str(MODEL), "--data", "two.jsonl"], 1, "it has: left, right"),
        (["score", str(MODEL), "--data", PROBLEMS, "-o", "."], 1, "it is a folder"),
        (["score", str(MODEL), "--data", PROBLEMS, "-o", os.devnull], 1, "not a plain file"),
        (["score", str(MODEL), "--data", PROBLEMS, "--batch-size", "x"], 2, "give auto or"),
        (["score", str(MODEL), "--data", PROBLEMS, "--template", "{a"], 2, "Write fields as"),
        (
            ["score", str(MODEL), "--data", PROBLEMS, "--samples", "few"],
            2,
            "--samples cannot be 'few': give a whole number",
        ),
        (["score", str(MODEL)], 2, "Missing option '--data'. Type plop score --help"),
        (["place", "scores.json", "--top", "9"], 2, "these scores have 7 module types"),
        (["place", "scores.json", "--budget", "9"], 2, "The smallest that works is"),
        (["place", "scores.json", "--strategy", "plopp"], 2, "Did you mean 'plop'"),
        (["place", "scores.json", "--format", "yaml"], 2, "'table', 'json', 'quiet'"),
        (["place", "scores.json", "--tpo", "3"], 2, "No such option: --tpo"),
        (["place"], 2, "Missing argument 'SCORES'. Type plop place --help"),
        (["place", "absent.json"], 1, "No such file: absent.json"),
        (["place", "text.json"], 1, "not complete JSON"),
        (["compare", "scores.json"], 2, "Missing argument 'SECOND'"),
        (["compare", "scores.json", "text.json"], 1, "not complete JSON"),
        (["export", "scores.json", "-o", "x"], 1, "a 'placement' record is needed here"),
        (["demo", "-o", "text.json"], 1, "Cannot write text.json/problems.json"),
        (["scor"], 2, "No such command 'scor'"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_errors_are_one_line(
    light: Path, run: Run, monkeypatch, words: list[str], code: int, message: str
) -> None:
    """What, where, what next; no traceback, no box, nothing on stdout, no file left."""
    (light / "text.json").write_text("not json")
    before = sorted(light.iterdir())
    monkeypatch.chdir(light)
    returned, output, errors = run(*words)
    assert (returned, output) == (code, "")
    assert errors.startswith("Error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert sorted(light.iterdir()) == before


def test_a_model_folder_with_a_typing_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    code, _, errors = run("score", str(tmp_path / "my-modle"), "--data", PROBLEMS)
    assert code == 1
    assert "is not there. Did you mean 'my-model'?" in errors


@pytest.mark.slow
def test_debug_shows_the_traceback(folder: Path) -> None:
    words = ("place", "scores.json", "--top", "9")
    done = plop_command(*words, folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: --top 9")
    done = plop_command("--debug", *words, folder=folder)
    assert "Traceback" in done.stderr


def test_a_fault_of_ours_is_one_line_too(light: Path, run: Run, monkeypatch) -> None:
    """A user cannot mend a bug, but must learn how to report it."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a fault\nof two lines")

    monkeypatch.setattr("plop_lora.comparison.compare", broken)
    scores = str(light / "scores.json")
    code, _, errors = run("compare", scores, scores)
    assert code == 1
    assert errors.startswith("Error: unexpected KeyError")
    assert "plop --debug" in errors
    assert errors.count("\n") == 1


def _score_words(*more: str) -> tuple[str, ...]:
    return ("score", str(MODEL), "--data", PROBLEMS, "--text", "question", "--samples", "3", *more)


def test_output_is_checked_before_the_forward(run: Run, tmp_path: Path, monkeypatch) -> None:
    """An hour of scoring must not end at a folder without permission."""

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    def forward(*_: object, **__: object) -> None:
        raise AssertionError("the forward ran")

    monkeypatch.setattr(
        importlib.import_module("plop_lora.scoring.engines.in_memory"), "measure", forward
    )
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    code, output, errors = run(*_score_words("-o", str(tmp_path / "new" / "scores.json")))
    assert (code, output) == (1, "")
    assert "you have no right to write there. Choose a path that you may write with -o" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("times", [1, 2])
def test_full_disk_after_the_forward_loses_nothing(
    run: Run, tmp_path: Path, monkeypatch, times: int
) -> None:
    """The record goes to the folder for temporary files, or to stdout if that is full too."""
    left = [errno.ENOSPC] * times
    real = os.fsync

    def full(handle: int) -> None:
        if left:
            raise OSError(left.pop(), "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    target = tmp_path / "deep" / "scores.json"
    code, output, errors = run(*_score_words("-o", str(target)))
    assert code == 1
    assert f"Cannot write {target}: the disk is full" in errors
    assert not target.exists()
    if times == 1:
        (rescued,) = tmp_path.glob("plop-scores-*.json")
        assert str(rescued) in errors
        assert plop.Scores.load(rescued).sequences == 3
    else:
        assert plop.Scores.from_dict(json.loads(output)).sequences == 3


def test_ctrl_c_in_the_forward(run: Run, tmp_path: Path, monkeypatch, capfd) -> None:
    """One line, the shell's exit code for a stop, and no file, whole or half."""

    def wait(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(
        importlib.import_module("plop_lora.scoring.engines.in_memory"), "measure", wait
    )
    capfd.readouterr()  # what libraries say when they are imported
    # A shell starts what runs in its background with SIGINT ignored, these tests among it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, output, errors = run(*_score_words("-o", str(tmp_path / "scores.json")))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, output) == (130, "")
    assert errors.strip() == "Stopped. No half-written file is left."
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_stdout_that_goes_away(folder: Path) -> None:
    """`plop place scores.json | head -1` ends without a complaint; a full disk is one line."""
    command = f"{sys.executable} -m plop_lora place scores.json --format json"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 1"], capture_output=True, text=True, cwd=folder
    )
    assert (done.stdout, done.stderr) == ("{", "")
    if Path("/dev/full").exists():
        done = subprocess.run(
            ["bash", "-c", f"{command} > /dev/full"], capture_output=True, text=True, cwd=folder
        )
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_terminals_without_unicode(folder: Path, encoding: str) -> None:
    """Bars, dashes and ticks must not end a run; JSON is UTF-8 everywhere."""
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "plop_lora", "place", "scores.json", "--format"]
    table, document = (
        subprocess.run([*command, form], capture_output=True, cwd=folder, env=environment)
        for form in ("table", "json")
    )
    assert table.returncode == 0, table.stderr
    text = table.stdout.decode(encoding)
    assert "?" not in text
    assert ("───" in text) == (encoding == "utf-8")
    assert json.loads(document.stdout.decode())["kind"] == "placement"


@pytest.mark.slow
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


@pytest.mark.slow
def test_version_help_and_completion(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--version") == (0, f"plop-lora {plop.__version__}\n", "")
    code, output, _ = run()
    assert code == 0
    assert all(verb_name(verb) in output for verb in VERBS)
    # The shell is looked for among the processes above, which may be none.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = plop_command("--show-completion", "bash")
    assert "complete -o default -F _plop_completion plop" in done.stdout


@pytest.mark.slow
def test_every_verb_has_help_and_docs() -> None:
    reference = (Path(__file__).parents[1] / "docs" / "reference" / "cli.md").read_text()
    for verb in COMMANDS:
        done = CliRunner().invoke(app, [*verb.split(), "--help"])
        assert done.exit_code == 0
        assert f"## plop {verb}\n" in reference


def test_export_help_names_every_trainer() -> None:
    from plop_lora.exports import TARGETS

    text = " ".join(
        CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "200"}).stdout.split()
    )
    assert all(name in text for name in TARGETS)


@pytest.mark.slow
def test_retries_of_the_hub_are_not_told() -> None:
    """huggingface_hub warns at each of ten; the error that follows says what happened."""
    code = (
        "import logging, sys; from plop_lora import cli; sys.argv = ['plop', 'score', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: import huggingface_hub.utils.logging\n"
        "print(logging.getLogger('huggingface_hub').getEffectiveLevel() >= logging.ERROR)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True", done.stderr
