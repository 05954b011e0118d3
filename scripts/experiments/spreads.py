"""How far the differences of two arms spread over seeds and rows, from the records of the study.

    python scripts/experiments/spreads.py

Prints the standard deviations that `plop verify --plan` simulates with: the root mean square over
all arms of all complete pairs of a task, each arm at the rate and with the seeds that it was
reported at, against plop. `src/plop_lora/verification/spreads.py` holds what this prints.

The small networks that this project has pretrained itself are left out: a plan is made for a model
of a usual size. On `bundled-arithmetic` gains are three times as large as on the pairs of the other
decoders, and with it the spread over seeds would be 0.023 where it is 0.009.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from networks import OWN

from plop_lora.statistics import Components, components

RESULTS = Path(__file__).parent / "results"
REFERENCE, REPORTED = "plop", "confirm"
OUTCOMES = ("loss", "accuracy")


def main() -> None:
    """Print the table."""
    for (task, outcome), found in sorted(measured(RESULTS).items()):
        print(
            f"{task:9} {outcome:9} seeds {found.seed_sd:.4f}  rows {found.item_sd:.3f}  "
            f"noise {found.noise_sd:.3f}"
        )


def measured(results: Path) -> dict[tuple[str, str], Components]:
    """Return the spreads by task and outcome."""
    parts: dict[tuple[str, str], list[Components]] = defaultdict(list)
    for pair in sorted(results.glob("*/pair.json")):
        folder = pair.parent
        if json.loads(pair.read_text("utf-8"))["network"] in OWN:
            continue
        for task, outcome, found in _of_pair(folder):
            parts[task, outcome].append(found)
    return {key: _together(found) for key, found in parts.items()}


def _of_pair(folder: Path) -> Iterator[tuple[str, str, Components]]:
    """Yield the spreads of every arm of a pair that has two seeds."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.r*.s*.json"))]
    reported = [record for record in records if record["status"] == "done"]
    for outcome in OUTCOMES:
        arms: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
        for record in reported:
            if record["phase"] == REPORTED and record["items"].get(outcome):
                arms[record["arm"]][record["seed"]] = np.array(record["items"][outcome])
        for arm, by_seed in sorted(arms.items()):
            shared = sorted({*by_seed} & {*arms.get(REFERENCE, {})})
            if arm != REFERENCE and len(shared) > 1:
                table = np.stack([arms[REFERENCE][seed] - by_seed[seed] for seed in shared])
                yield _task(reported), outcome, components(table)


def _task(records: list[Mapping[str, Any]]) -> str:
    return "classify" if "accuracy" in records[0]["metrics"] else "sft"


def _together(found: list[Components]) -> Components:
    table = np.array([[part.seed_sd, part.item_sd, part.noise_sd] for part in found])
    return Components(*(float(value) for value in np.sqrt((table**2).mean(axis=0))))


if __name__ == "__main__":
    main()
