"""The examples for other engines, run with stand-ins for `plop` and for the engine.

Each example is executed, and the words it gives to `plop` go through the real parser of the command
line. The engines themselves are not needed: `ray job submit` is a script that runs what follows
`--`, and Metaflow is a module that calls the steps in their order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from plop_lora.cli import command_of

FOLDER = Path(__file__).parents[1] / "examples" / "engines"
PLOP = """#!{python}
import json, sys
with open({seen!r}, "w") as file:
    json.dump(sys.argv[1:], file)
sys.exit({code})
"""
RAY = """#!/bin/bash
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
METAFLOW = """
def step(function):
    return function


class Parameter:
    def __init__(self, name, default):
        self.default = default

    def __get__(self, flow, kind):
        return self.default


class FlowSpec:
    def __init__(self):
        following = self.start
        while following is not None:
            self.following = None
            following()
            following = self.following

    def next(self, step):
        self.following = step
"""
DVC = yaml.safe_load((FOLDER / "dvc.yaml").read_text())["stages"]["plop"]
COMMANDS = {
    "dvc.yaml": ["sh", "-c", DVC["cmd"]],
    "slurm.sh": ["bash", str(FOLDER / "slurm.sh")],
    "ray_job.sh": ["bash", str(FOLDER / "ray_job.sh")],
    "metaflow_run.py": [sys.executable, str(FOLDER / "metaflow_run.py"), "run"],
}  # fmt: skip


def ran(name: str, folder: Path, code: int = 0) -> tuple[int, str, list[str]]:
    """Return the exit code and the output of an example, and the words that `plop` was given."""
    seen = folder / "words.json"
    scripts = {"plop": PLOP.format(python=sys.executable, seen=str(seen), code=code), "ray": RAY}
    for script, text in scripts.items():
        path = folder / script
        path.write_text(text)
        path.chmod(0o755)
    (folder / "metaflow.py").write_text(METAFLOW)
    found = subprocess.run(
        COMMANDS[name],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "SHARED": str(folder),
            "SLURM_SUBMIT_DIR": str(folder),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return found.returncode, found.stdout + found.stderr, json.loads(seen.read_text())


def test_every_example_is_run_here() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_calls_the_command_as_it_is(name: str, tmp_path: Path) -> None:
    """An example whose options are gone teaches errors."""
    code, output, words = ran(name, tmp_path)
    assert code == 0, output
    assert words[0] == "run"
    (tmp_path / "recipe.yaml").write_text("model: m\n")
    with command_of("run").make_context("plop run", words[1:]) as context:
        assert Path(context.params["recipe"]) == Path("recipe.yaml")
        assert Path(context.params["folder"]).name == "plop-run"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_engine_sees_that_a_gate_fails(name: str, tmp_path: Path) -> None:
    """An engine that takes every end for a success would go on to ship the adapter."""
    code, output, _ = ran(name, tmp_path, code=3)
    if name == "metaflow_run.py":
        assert (code, output.strip()) == (0, "gate failed")
    else:
        assert code == 3


def test_a_flow_ends_with_an_error_of_the_command(tmp_path: Path) -> None:
    code, output, _ = ran("metaflow_run.py", tmp_path, code=2)
    assert code != 0
    assert "plop run ended with 2" in output
