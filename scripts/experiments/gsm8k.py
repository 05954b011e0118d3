"""The rows of the verification on GSM8K, none of which the study has used.

    python scripts/experiments/gsm8k.py DIR --output build/gsm8k

DIR has GSM8K's `train.jsonl` and `test.jsonl`. The learning rates of `gsm8k.yaml` follow from
trials of the study on rows of these files, which are therefore left out here. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from pairs import PAIRS, SEED, Row, StudyError, gsm8k, problems

from plop_lora.files import atomic_file

STUDIED = PAIRS["smollm2-gsm8k"]
TRAINING_ROWS, EVALUATION_ROWS = 672, 480


def fresh_rows(folder: Path) -> tuple[list[Row], list[Row]]:
    """Return rows to train on and to judge by, drawn from those that the study did not draw.

    Raises:
        StudyError: the folder lacks the files, or they have too few rows.
    """
    studied = gsm8k(folder, STUDIED.training_rows, STUDIED.evaluation_rows)
    names, counts = ("train.jsonl", "test.jsonl"), (TRAINING_ROWS, EVALUATION_ROWS)
    drawn = []
    for name, count, used in zip(names, counts, studied, strict=True):
        left = [row for row in problems(folder, name) if row not in used]
        if len(left) < count:
            raise StudyError(f"{folder / name} has {len(left)} rows beside the study's {len(used)}")
        drawn.append(random.Random(f"{SEED} verification {name}").sample(left, count))
    return drawn[0], drawn[1]


def main() -> int:
    """Write the rows; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of GSM8K's two files")
    parser.add_argument("--output", type=Path, default=Path("build/gsm8k"))
    given = parser.parse_args()
    try:
        parts = fresh_rows(given.folder)
    except StudyError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    given.output.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train.jsonl", "eval.jsonl"), parts, strict=True):
        with atomic_file(given.output / name) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
