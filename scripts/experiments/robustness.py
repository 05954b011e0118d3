"""Does the choice of the scores hold? `plop robustness` on four networks and two tasks each.

    python scripts/experiments/robustness.py run [--models DIR] [--gsm8k DIR] [--only NAME]
    python scripts/experiments/robustness.py tables [--page docs/robustness.md]

`run` writes one record for each network and task into `results/robustness`, and keeps those that are
there. `tables` writes the tables of the page from the records, and needs no model. Imports torch
only where a network is run.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from networks import described
from pages import put, table
from pairs import DATA, SEED, StudyError, text_of
from preparing import checked_network

from plop_lora.data.documents import Documents
from plop_lora.data.texts import Document
from plop_lora.records import Family, Outcome, Robustness, VariantResult

RESULTS = Path(__file__).parent / "results" / "robustness"
MODELS = Path("build/models")
TEXTS, MAX_LENGTH = 64, 128
"""Texts of every task, and the tokens to which they are cut."""
MARK, END = "<!-- tables -->", "<!-- end of the tables -->"
PROMPT = "Read this carefully, and answer.\n\n{text}\n\nAnswer:"


class Case(NamedTuple):
    """A network and a task of the study."""

    network: str
    task: str

    @property
    def name(self) -> str:
        """Name of its record."""
        return f"{self.network}-{self.task}"


CASES = (
    Case("bundled", "arithmetic"),
    Case("bundled", "summaries"),
    Case("minilm", "docstrings"),
    Case("minilm", "exceptions"),
    Case("smollm2", "gsm8k"),
    Case("smollm2", "signatures"),
    Case("gemma3", "gsm8k"),
    Case("gemma3", "summaries"),
)


# ----------------------------------------------------------------------------- records


class _Place(NamedTuple):
    """What `checked_network` reads of a pair."""

    network: str


def run(case: Case, models: Path, gsm8k: Path | None) -> Robustness:
    """Ask whether the choice holds, and return the record under the names of the study."""
    import plop_lora as plop

    folder = checked_network(_Place(case.network), models)  # type: ignore[arg-type]
    rows, _ = DATA[case.task](gsm8k, TEXTS, 1)
    items = tuple(Document(text_of(row), group=row.get("label")) for row in rows[:TEXTS])
    record = plop.robustness(
        str(folder), texts=Documents(case.task, items, len(items), 0), prompt=PROMPT,
        max_length=MAX_LENGTH, dtype="float32", seed=SEED, progress=False,
    )  # fmt: skip
    return dataclasses.replace(record, model=described(case.network)[0])


def run_all(options: argparse.Namespace) -> int:
    """Write the records that are not there."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        path = RESULTS / f"{case.name}.json"
        if path.exists() or options.only not in (None, case.name):
            continue
        print(case.name, file=sys.stderr, flush=True)
        try:
            run(case, options.models, options.gsm8k).save(path)
        except StudyError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
    return 0


# ----------------------------------------------------------------------------- tables


def read_all(folder: Path = RESULTS) -> dict[Case, Robustness]:
    """Return the records that are there, in the order of the cases."""
    paths = {case: folder / f"{case.name}.json" for case in CASES}
    return {case: Robustness.load(path) for case, path in paths.items() if path.exists()}
