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
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from networks import BUNDLED, described
from pairs import DATA, SEED, StudyError, text_of
from preparing import checked_network

from plop_lora.data.documents import Documents
from plop_lora.data.texts import Document
from plop_lora.records import Robustness

RESULTS = Path(__file__).parent / "results" / "robustness"
MODELS = Path("build/models")
SMALL, LARGE = (64, 128), (32, 64)
"""Texts of every task, and tokens to which they are cut, by the size of the network."""
MARK, END = "<!-- tables -->", "<!-- end of the tables -->"
PROMPT = "Read this carefully, and answer.\n\n{text}\n\nAnswer:"


class Case(NamedTuple):
    """A network and a task of the study."""

    network: str
    task: str
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """Name of its record."""
        return f"{self.network}-{self.task}"


CASES = (
    Case("bundled", "arithmetic", SMALL),
    Case("bundled", "summaries", SMALL),
    Case("minilm", "docstrings", SMALL),
    Case("minilm", "exceptions", SMALL),
    Case("smollm2", "gsm8k", LARGE),
    Case("smollm2", "signatures", LARGE),
    Case("gemma3", "gsm8k", LARGE),
    Case("gemma3", "summaries", LARGE),
)


# ----------------------------------------------------------------------------- records


def trained_adapter(network: Path, texts: Sequence[str], folder: Path) -> Path:
    """Train a LoRA adapter on the texts of a task and return its folder.

    The adapter stands on every linear layer of the blocks, with rank 8, 60 steps of 8 texts and a
    learning rate of 0.002.
    """
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(SEED)
    tokenizer = transformers.AutoTokenizer.from_pretrained(network)
    model = transformers.AutoModelForCausalLM.from_pretrained(network, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    for step in range(60):
        loss = 0.0
        for text in (texts[(8 * step + place) % len(texts)] for place in range(8)):
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=SMALL[1])
            loss = loss + model(**ids, labels=ids["input_ids"]).loss / 8
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def run(case: Case, models: Path, gsm8k: Path | None) -> Robustness:
    """Ask whether the choice holds, and return the record under the names of the study."""
    import plop_lora as plop

    folder = checked_network(case.network, models)
    count, length = case.size
    rows, _ = DATA[case.task](gsm8k, count, 1)
    items = tuple(Document(text_of(row), group=row.get("label")) for row in rows)
    with tempfile.TemporaryDirectory() as made:
        own = case.network == BUNDLED
        against = [trained_adapter(folder, [i.text for i in items], Path(made))] if own else []
        record = plop.robustness(
            str(folder), texts=Documents(case.task, items, len(items), 0), prompt=PROMPT,
            against=against, max_length=length, seed=SEED, progress=False,
        )  # fmt: skip
    results = tuple(
        dataclasses.replace(one, setting="of 60 steps") if one.variant == "merged" else one
        for one in record.results
    )
    advice = record.advice.replace(f"merged: {made}", "merged: of 60 steps")
    title = described(case.network)[0]
    return dataclasses.replace(record, model=title, results=results, advice=advice)


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("do")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--only")
    sys.exit(run_all(parser.parse_args()))
