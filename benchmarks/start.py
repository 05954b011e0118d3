"""How long a command takes until it says something: help, an error, the first score.

    python benchmarks/start.py [--repeats 3] [--save]

Every line is a process of its own, as a user starts it, and its time is the least of the repeats:
what else the machine does can only add to it. The processor time says what it would be on a
machine that does nothing else. Beside the command stands what importing torch and
transformers alone takes here, below which no command that needs them can be.
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

from plop_lora.demo import DATA, MODEL

PROBLEMS = str(DATA / "problems.jsonl")
IMPORTS = "import torch, transformers; from transformers import PreTrainedModel"


@dataclass(frozen=True)
class Case:
    """A command, its expected exit code, and the time in seconds that is wanted, if any."""

    what: str
    words: tuple[str, ...]
    code: int = 0
    wanted: float | None = None


def cases(folder: Path) -> list[Case]:
    """Return the commands; the files with faults go into `folder`."""
    empty, broken = folder / "empty.jsonl", folder / "broken.jsonl"
    empty.write_text("")
    broken.write_text('{"text": "a"}\n{"text": \n')
    plop = (sys.executable, "-m", "plop_lora")
    score = (*plop, "score", str(MODEL))
    first = ("--data", PROBLEMS, "--text", "question", "--samples", "16", "--format", "quiet")
    return [
        Case("plop --help", (*plop, "--help")),
        Case("an argument that cannot be", (*score, "--data", PROBLEMS, "--top", "0"), 2, 1.0),
        Case("an unknown engine", (*score, "--data", PROBLEMS, "--engine", "gpu"), 2, 1.0),
        Case("a file without rows", (*score, "--data", str(empty)), 1, 1.0),
        Case("a line that is not JSON", (*score, "--data", str(broken)), 1, 1.0),
        Case("the first score, 16 texts", (*score, *first), 0, 4.5),
        Case("torch and transformers alone", (sys.executable, "-c", IMPORTS)),
    ]


def seconds(case: Case, repeats: int) -> tuple[float, float]:
    """Return the least wall time of a command over the repeats, and the least processor time."""
    wall, processor = [], []
    for _ in range(repeats):
        before, started = os.times(), time.perf_counter()
        done = subprocess.run(case.words, capture_output=True, text=True)
        wall.append(time.perf_counter() - started)
        after = os.times()
        processor.append(
            after.children_user + after.children_system
            - before.children_user - before.children_system
        )  # fmt: skip
        assert done.returncode == case.code, done.stderr
    return min(wall), min(processor)


def table(rows: Sequence[tuple[Case, tuple[float, float]]]) -> str:
    """Return the table in Markdown."""
    lines = ["| until | seconds | of a processor | wanted at most |", "|---|---|---|---|"]
    for case, (wall, processor) in rows:
        wanted = "" if case.wanted is None else f"{case.wanted:g}"
        lines.append(f"| {case.what} | {wall:.2f} | {processor:.2f} | {wanted} |")
    return "\n".join(lines)


def head(repeats: int) -> str:
    """Say on what this was measured."""
    import torch
    import transformers

    load = os.getloadavg()[0]
    return (
        f"# Time until a command says something, {datetime.date.today()}\n\n"
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}; {os.cpu_count()} cores, load {load:.1f} at the end; the "
        f"least of {repeats} runs each.\n"
    )


def main() -> None:
    """Measure and print; with `--save` into benchmarks/results as well."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [(case, seconds(case, options.repeats)) for case in cases(Path(folder))]
    text = f"{head(options.repeats)}\n{table(rows)}\n"
    print(text)
    if options.save:
        results = Path(__file__).parent / "results"
        (results / f"start-{datetime.date.today()}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
