"""README blocks and examples run as they stand."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from plop_lora.demo import DATA, MODEL

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_readme_starts_with_the_two_commands() -> None:
    first = re.search(r"```sh\n(.*?)```", README, re.DOTALL)[1]
    assert [line.split()[:2] for line in first.splitlines()] == [["make", "demo"], ["make", "test"]]


def test_readme_python_block(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README", "exec"), {})


def test_readme_shell_block(tmp_path) -> None:
    """The commands of the README, with the bundled model and data in place of the user's."""
    block = re.search(r"```sh\n(plop score.*?)```", README, re.DOTALL)[1]
    block = block.replace("MODEL", str(MODEL)).replace("DATA.jsonl", str(DATA / "snippets.jsonl"))
    for line in block.replace("\\\n", " ").splitlines():
        words = line.split(" #")[0].split()
        done = subprocess.run(
            [sys.executable, "-m", "plop_lora", *words[1:]],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples(path: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
