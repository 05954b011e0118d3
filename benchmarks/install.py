"""What it takes to install plop-lora and to see a first result, as a new user does both.

    python benchmarks/install.py [--python python3.13] [--all] [--repeats 3] [--save]

The wheel of this working tree is installed by uv into an empty environment, once with an empty
cache of packages, so that everything is downloaded, and once with the cache that this has left. The
sizes are those of the environment's files. Then `plop --help`, `import plop_lora` and `plop demo`
are run there as processes of their own; their time is the least of the repeats, beside the
processor time, which is what they would take on a machine that does nothing else. `--all` installs
every extra as well, into another environment. uv is taken from beside this Python or from the PATH.

On Linux the package index has torch with CUDA, which is most of the size and of the download.
`UV_TORCH_BACKEND=cpu` takes the smaller one where torch's own index can be reached.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from score import processor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "release"))
import environments  # noqa: E402
from environments import Environment  # noqa: E402

GIB = 1 << 30
SETTINGS = {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Taken:
    """Seconds on the clock and of a processor."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Installed:
    """An installation: how long it took, what it holds, and the environment."""

    made: Environment
    downloaded: float
    cached: float
    size: int
    packages: int


def taken(words: Sequence[str | Path], folder: Path, repeats: int) -> Taken:
    """Return the least times of a command over the repeats."""
    wall, used = [], []
    for _ in range(repeats):
        before, started = os.times(), time.perf_counter()
        environments.run(words, cwd=folder, environment=SETTINGS)
        wall.append(time.perf_counter() - started)
        after = os.times()
        used.append(
            after.children_user + after.children_system
            - before.children_user - before.children_system
        )  # fmt: skip
    return Taken(min(wall), min(used))


def installed(wheel: str, folder: Path, python: str) -> Installed:
    """Install twice into empty environments, the second time from the cache of the first."""
    os.environ["UV_CACHE_DIR"] = str(folder / "cache")
    seconds = []
    for _ in range(2):
        made = environments.make(folder / "environment", python)
        started = time.perf_counter()
        made.install(wheel)
        seconds.append(time.perf_counter() - started)
    return Installed(made, seconds[0], seconds[1], size_of(made.folder), len(made.versions()))


def size_of(folder: Path) -> int:
    """Return the bytes of the files of a folder, links not followed."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def install_rows(what: str, one: Installed) -> list[tuple[str, ...]]:
    """Return the rows of an installation."""
    return [
        (f"install {what}, everything downloaded", f"{one.downloaded:.0f} s"),
        (f"install {what}, from the cache", f"{one.cached:.0f} s"),
        (f"size of {what}", f"{one.size / GIB:.1f} GiB, {one.packages} packages"),
        (f"size of {what} without torch and CUDA", f"{_without_torch(one) / GIB:.2f} GiB"),
    ]


def _without_torch(one: Installed) -> int:
    (packages,) = one.made.folder.glob("lib/python*/site-packages")
    heavy = [path for name in ("torch", "nvidia", "triton") for path in packages.glob(name)]
    return one.size - sum(size_of(path) for path in heavy)


def start_rows(made: Environment, folder: Path, repeats: int) -> list[tuple[str, ...]]:
    """Return the rows of the first commands in an environment."""
    plop = made.folder / "bin" / "plop"
    commands: list[tuple[str, Sequence[str | Path], int]] = [
        ("`plop --help`", [plop, "--help"], repeats),
        ("`import plop_lora`", [made.python, "-c", "import plop_lora"], repeats),
        ("`plop demo`, the first time", [plop, "demo"], 1),
        ("`plop demo`, again", [plop, "demo"], 1),
    ]
    rows = []
    for name, words, count in commands:
        one = taken(words, folder, count)
        rows.append((name, f"{one.wall:.2f} s ({one.processor:.2f} s of a processor)"))
    return rows


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return the table in Markdown."""
    return "\n".join(["| what | measured |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def head(made: Environment) -> str:
    """Say on what this was measured."""
    versions = made.versions()
    python = subprocess.run([made.python, "--version"], capture_output=True, text=True).stdout
    return (
        f"# Installation and first result, {datetime.date.today()}\n\n"
        f"{python.strip()}, torch {versions['torch']}, transformers {versions['transformers']}; "
        f"{platform.system()}, {processor()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} at the end. No GPU.\n"
    )


def main() -> None:
    """Measure and print; with `--save` into benchmarks/results as well."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--all", action="store_true", help="Install every extra as well.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environments.run([environments.uv(), "build", "--wheel", "--out-dir", folder, ROOT])
        (wheel,) = folder.glob("*.whl")
        core = installed(str(wheel), folder / "core", options.python)
        rows = install_rows("plop-lora", core)
        rows += start_rows(core.made, folder, options.repeats)
        first = head(core.made)
        if options.all:
            every = installed(f"{wheel}[all]", folder / "all", options.python)
            rows += install_rows("plop-lora[all]", every)
    text = f"{first}\n{table(rows)}\n"
    print(text)
    if options.save:
        results = Path(__file__).parent / "results"
        (results / f"install-{datetime.date.today()}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
