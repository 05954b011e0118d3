"""`plop robustness` as a user types it: the table, the files, and errors of one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plop_lora.data.general_text import texts_of
from plop_lora.records import Robustness
from plop_lora.reports.robustness import robustness_markdown, robustness_table
from plop_lora.reports.terminal import as_text
from plop_lora.variants import measuring

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Texts with a label of two values, one of them hostile."""
    path = tmp_path_factory.mktemp("data") / "task.jsonl"
    rows = [
        {"text": text, "kind": "a|b\x1b[2J" if n % 3 else "usual"}
        for n, text in enumerate(texts_of("english")[:20])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def words(decoder: str, data: str) -> list[str]:
    names = "bootstrap,imbalance,typos,4-bit,merged,random-words"
    return ["robustness", decoder, "--data", data, "--group", "kind", "--variants", names,
            "--text", "text"]  # fmt: skip


def test_the_table_the_record_and_markdown(run: Run, words, tmp_path: Path, monkeypatch) -> None:
    """At 80 columns every row is whole; the record and the Markdown say the same."""
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "robustness.json"
    code, output, errors = run(*words, "-o", str(path))
    assert (code, errors) == (0, f"Wrote {path}\n")
    lines = output.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in output
    record = Robustness.load(path)
    assert output.rstrip() == as_text(record, 80).rstrip()
    for one in record:
        assert any(line.startswith(one.variant) for line in lines)
    assert "Left out: merged, no --adapter was given." in output
    assert record.advice in " ".join(output.split())
    markdown = robustness_markdown(record)
    assert markdown.startswith("# plop robustness: Does the choice hold?")
    assert r"a\|b" in markdown
    assert "\x1b" not in markdown
    assert record.advice in markdown

    again = tmp_path / "robustness.md"
    again.write_text("# plop robustness: an older one")
    code, _, _ = run(*words[:6], "--variants", "bootstrap", "-o", str(again))
    assert code == 0
    assert again.read_text().startswith("# plop robustness: Does")


def test_json_on_stdout(run: Run, words) -> None:
    code, output, errors = run(*words, "--format", "json")
    assert (code, errors) == (0, "")
    document = json.loads(output)
    assert (document["kind"], document["schema_version"]) == ("robustness", 1)
    assert {one["variant"] for one in document["results"]} == {
        "bootstrap", "imbalance", "typos", "4-bit", "random-words"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--variants", "4bit"], 2, "Did you mean '4-bit'"),
        (["--variants", ""], 2, "There is no variant ''"),
        (["--variants", "against"], 2, "against needs --against MODEL, another checkpoint of the"),
        (["--variants", "merged,prompt"], 2, "prompt needs --prompt TEXT, with {text}"),
        (["--prompt", "Answer:"], 2, "has no {text}, where the text goes"),
        (["--adapter", "absent"], 1, "absent does not exist"),
        (["--against", "absent.json"], 1, "No such file: absent.json"),
        (["--against", "./absent"], 1, "./absent is not there"),
        (["--group", "label"], 1, "label"),
        (["--samples", "9"], 1, "9 different texts, and 16 are the least"),
        (["--top", "9"], 2, "--top 9 is not possible"),
        (["-o", "task.txt"], 2, "was not written by plop-lora"),
        (["--set", "score.max_lengt=4"], 2, "Did you mean 'max_length'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors(run: Run, words, tmp_path: Path, monkeypatch, more, code: int, message) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.txt").write_text("the user's own")
    found, output, errors = run(*words, *more)
    assert (found, output) == (code, "")
    assert message in errors
    assert errors.startswith("Error: ")
    assert len(errors.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["task.txt"]


def test_ctrl_c_ends_cleanly(run: Run, words, tmp_path: Path, monkeypatch) -> None:
    """In the middle of a variant: one line, the shell's exit code, and no file."""

    def wait(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(measuring.Subject, "measure", wait)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, output, errors = run(*words, "-o", str(tmp_path / "r.json"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, output) == (130, "")
    assert errors.strip() == "Stopped. No half-written file is left."
    assert not list(tmp_path.iterdir())


def test_one_process_only(run: Run, words, monkeypatch) -> None:
    from plop_lora import cli

    monkeypatch.setattr(cli, "_processes", lambda: __import__("contextlib").nullcontext(object()))
    code, _, errors = run(*words)
    assert code == 2
    assert "runs in one process" in errors


def test_names_of_variants_need_no_torch() -> None:
    """A shell that completes --variants, or a mistyped name, does not wait for torch."""
    code = (
        "import sys\n"
        "from plop_lora.cli.robustness import _variants\n"
        "assert 'half-splits' in _variants()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_long_names_fit(words, run: Run, tmp_path: Path) -> None:
    """The path of a checkpoint is shortened, and the table is not folded into pieces."""
    path = tmp_path / "r.json"
    run(*words[:6], "--variants", "bootstrap", "--against", words[1], "-o", str(path))
    record = Robustness.load(path)
    assert len(record.results) == 2
    table = robustness_table(record)
    assert max(len(row[0]) for row in table.rows) <= 30
    assert any(line.startswith("against: …") for line in as_text(record, 80).splitlines())
