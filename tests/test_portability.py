"""Modules that only POSIX systems have are needed by no import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "plop_lora"
POSIX = ("fcntl", "resource", "pwd", "grp", "termios")
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({POSIX!r}))"
"""Python raises ImportError for a module that stands there as None."""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_nothing_is_imported_at_the_top_that_windows_lacks() -> None:
    """Five modules failed at their import, and `plop place` with them."""
    found = [
        f"{path.name}: {alias.name}"
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in POSIX
    ]
    assert found == []


@pytest.mark.slow
def test_help_and_placing_work_without(tmp_path: Path) -> None:
    """What needs no lock and no measure of memory needs no POSIX either."""
    golden = Path(__file__).parent / "golden" / "llama-scores.json"
    code = f"""{BLOCKED}
sys.argv = ["plop", "place", {str(golden)!r}, "-o", {str(tmp_path / "placement.json")!r}]
from plop_lora.cli import main
main()
"""
    ended = python(code)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "placement.json").exists()


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        ("from plop_lora.models.memory import peak_memory; print(peak_memory())", "0"),
        (
            "from plop_lora.files import try_lock\nwith open(sys.argv[1], 'w') as file:\n"
            "    print(try_lock(file))",
            "True",
        ),
    ],
    ids=["peak memory", "lock"],
)
def test_what_is_missing_is_told_or_left_out(call: str, wanted: str, tmp_path: Path) -> None:
    code = f"{BLOCKED}; sys.argv = ['', {str(tmp_path / 'lock')!r}]\n{call}"
    ended = python(code)
    assert ended.stdout.strip() == wanted, ended.stderr
