"""Interpreters of this machine, and environments that are made for one purpose.

Every environment is made by uv, from the package index that the machine has configured. Imports the
standard library and `packaging` only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""The versions of Python that are looked for."""


class ReleaseError(Exception):
    """A step of the release that failed; its message says which and why."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, by its folder."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python"

    def install(self, *words: str) -> None:
        """Install with `uv pip install`.

        Raises:
            ReleaseError: uv cannot resolve or install it.
        """
        run([uv(), "pip", "install", "--quiet", "--python", self.python, *words])

    def versions(self) -> Mapping[str, str]:
        """Return the version of every installed package."""
        code = (
            "import importlib.metadata as m\n"
            "for one in m.distributions(): print(one.name.lower().replace('_', '-'), one.version)"
        )
        lines = run([self.python, "-c", code]).splitlines()
        return dict(sorted(tuple(line.split()) for line in lines))


def make(folder: Path, python: str | Path) -> Environment:
    """Return a new, empty environment; what stood in its folder is removed."""
    folder = folder.resolve()
    run([uv(), "venv", "--quiet", "--clear", "--python", python, folder])
    return Environment(folder)


def uv() -> str:
    """Return uv beside this interpreter, or the one on the PATH.

    Raises:
        ReleaseError: There is none.
    """
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise ReleaseError("uv is not installed: pip install -r scripts/release/tools.txt")
    return found


def run(
    words: Sequence[str | Path], *, cwd: Path | None = None, environment: Mapping[str, str] = {}
) -> str:
    """Run a command and return its standard output.

    Raises:
        ReleaseError: It ends with another code than 0; the message ends in what it printed last.
    """
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=outside() | dict(environment),
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise ReleaseError(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{last}")
    return done.stdout


def outside() -> dict[str, str]:
    """Return the environment variables without those that would mix in this interpreter.

    Nor is compiled code left out, which a user's Python keeps and which halves the time of a start.
    """
    others = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if name not in others}


def interpreters() -> dict[str, Path | None]:
    """Return an interpreter for each of `PYTHONS`, or None where none is found.

    pyenv puts a command on the PATH for every version that it has, of which only some run: each
    candidate is started, and the folder of pyenv is searched as well.
    """
    return {version: next(_working(version), None) for version in PYTHONS}


def _working(version: str) -> Iterator[Path]:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    managed = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python"))
    candidates = [
        *(Path(found) for found in [shutil.which(f"python{version}")] if found),
        *sorted((pyenv / "versions").glob(f"{version}.*/bin/python{version}")),
        *sorted(managed.glob(f"cpython-{version}.*/bin/python{version}")),
    ]
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    for candidate in candidates:
        try:
            done = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.strip() == version:
            yield candidate


def project() -> Mapping[str, object]:
    """Return the table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def bounds(*extras: str) -> dict[str, Requirement]:
    """Return what the package requires by itself, and with these extras."""
    table = project()
    texts = list(table["dependencies"])
    for extra in extras:
        texts += table["optional-dependencies"][extra]
    found = [Requirement(text) for text in texts]
    return {one.name.lower().replace("_", "-"): one for one in found if one.name != "plop-lora"}
