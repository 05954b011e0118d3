"""Two tasks for the bundled model: terse solutions by SFT, right results by GRPO.

    python scripts/experiments/arithmetic.py --output build/arithmetic [--seed 0]

Both come from the grammars that the model was pretrained on, with other seeds; no question is in
the shipped data, and none is in two files.

- `sft`: the whole solution as bare equations and its result. The model knows the questions and
  writes sentences; the form is new to it, and it slips in the arithmetic.
- `grpo`: the solution is written up to its last equation. What is missing is the equation, a few
  words and `#### n`. The model knows the form and slips in the numbers, so a reward for the right
  result has where to rise.

Writes `sft-train.jsonl`, `sft-eval.jsonl`, `grpo-train.jsonl`, `grpo-eval.jsonl`. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "demo_model"))

from problems import STRUCTURES, Solution  # noqa: E402

SHIPPED = ROOT / "src" / "plop_lora" / "demo" / "data" / "problems.jsonl"
SIZES = {"sft": (2400, 400), "grpo": (1200, 300)}
"""Rows to train on and rows to judge by."""

_EQUATION = re.compile(r"\d+ [-+*/] \d+ = \d+")

Row = dict[str, str]


def terse(solution: Solution) -> Row:
    """Return the SFT row: `question`, and `answer` in equations without words."""
    equations = [equation for step in solution.steps for equation in _EQUATION.findall(step)]
    answer = "\n".join([*equations, f"#### {solution.result}"])
    return {"question": solution.question, "answer": answer}


def unfinished(solution: Solution) -> Row:
    """Return the GRPO row: `question`, `start` up to the last equation, `answer` from there on."""
    *before, last = solution.steps
    begin = [match.start() for match in _EQUATION.finditer(last)][-1]
    start = "\n".join([*before, last[:begin].rstrip()])
    answer = f"{last[begin:]}\n#### {solution.result}"
    return {"question": solution.question, "start": start, "answer": answer}


MAKERS: dict[str, Callable[[Solution], Row]] = {"sft": terse, "grpo": unfinished}


def solutions(seed: str, taken: set[str]) -> Iterator[Solution]:
    """Yield solutions without end, no question twice and none of those taken, which grow."""
    rng = random.Random(seed)
    while True:
        solution = rng.choice(STRUCTURES)(rng)
        if solution.question not in taken:
            taken.add(solution.question)
            yield solution


def build(seed: int) -> dict[str, list[Row]]:
    """Return the rows of every file, by its name."""
    taken = {json.loads(line)["question"] for line in SHIPPED.read_text("utf-8").splitlines()}
    files = {}
    for task, (train, evaluation) in SIZES.items():
        for part, count in (("eval", evaluation), ("train", train)):
            source = solutions(f"{task} {part} {seed}", taken)
            files[f"{task}-{part}.jsonl"] = [MAKERS[task](next(source)) for _ in range(count)]
    return files


def main() -> None:
    """Write the files and say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/arithmetic"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name, rows in build(options.seed).items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (options.output / name).write_text(lines, encoding="utf-8")
        print(f"{options.output / name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
