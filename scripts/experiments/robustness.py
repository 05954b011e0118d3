"""Does the choice of the scores hold? `plop robustness` on four networks and two tasks each.

    python scripts/experiments/robustness.py run [--models DIR] [--gsm8k DIR] [--only NAME]
    python scripts/experiments/robustness.py tables [--page docs/robustness.md]

`run` writes one record for each network and task into `results/robustness`, and keeps those that
are there. `tables` writes the tables of the page from the records, and needs no model. Imports
torch only where a network is run.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from networks import BUNDLED, described
from pages import put, table
from pairs import DATA, SEED, StudyError, text_of
from preparing import checked_network

from plop_lora.data.documents import Documents
from plop_lora.data.texts import Document
from plop_lora.records import Outcome, Robustness, VariantResult
from plop_lora.reports.robustness import tau
from plop_lora.variants.catalogue import VARIANTS

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


def all_tables(records: Mapping[Case, Robustness]) -> str:
    """Return everything that stands between the marks of the page."""
    parts = [
        _choices(records),
        "### Kendall's tau of the ranking",
        TAU_TEXT,
        _grid(records, tau),
        "### Share of resamples that make the same choice",
        SHARE_TEXT,
        _grid(records, _share),
        "### Where the choice changes",
        _changes(records),
        "### What could not be had",
        _left_out(records),
    ]
    return "\n\n".join(parts) + "\n"


TAU_TEXT = (
    "One row a variant, one column a network and task; the 95 % interval is over resampled texts."
)
SHARE_TEXT = (
    "In per cent of 1,000 resamples. A word says what becomes of the choice where it is not the "
    "same in at least 95 % of them: *tie*, another one within 0.03 NFN; *other*, another one "
    "beyond that; *open*, the same one, which too few resamples make."
)


def _head(records: Mapping[Case, Robustness]) -> tuple[str, ...]:
    return ("variant", *(f"{case.network}, {case.task}" for case in records))


def _choices(records: Mapping[Case, Robustness]) -> str:
    rows = [
        (
            record.model,
            case.task,
            f"{record.sequences} × {record.tokens / record.sequences:.0f}",
            ", ".join(f"`{name}`" for name in record.chosen),
            str(len(record.nfn)),
            record.verdict.value,
            str(record.forwards),
            f"{record.elapsed_seconds:.0f}",
        )
        for case, record in records.items()
    ]
    head = (
        "network", "task", "texts × tokens", "choice", "of types", "verdict", "forward passes",
        "seconds",
    )  # fmt: skip
    return table(head, rows)


def _grid(records: Mapping[Case, Robustness], cell: Callable[[VariantResult], str]) -> str:
    """Return a table of one row a variant; the settings that depend on the texts are one row."""
    found = {
        case: {_row(one): one for one in reversed(record.results)}
        for case, record in records.items()
    }
    names = [row.name for row in VARIANTS.values()]
    labels = sorted(
        {label for results in found.values() for label in results},
        key=lambda label: (names.index(label.partition(":")[0]), _number(label)),
    )
    rows = [
        (label, *(cell(found[case][label]) if label in found[case] else "" for case in records))
        for label in labels
    ]
    return table(_head(records), rows)


def _row(one: VariantResult) -> str:
    """Return the row of a result: a favoured group is one of several, of which the first counts."""
    if one.variant == "half-splits":
        return one.variant
    if one.variant == "imbalance" and one.setting != "balanced":
        return f"{one.variant}: 90 % the largest group"
    return one.name


def _number(label: str) -> int:
    digits = "".join(filter(str.isdigit, label.partition(":")[2]))
    return int(digits) if digits else 0


def _share(one: VariantResult) -> str:
    word = "" if one.outcome is Outcome.SAME else f" {one.outcome}"
    return f"{one.unchanged * 100:.1f}{word}"


def _changes(records: Mapping[Case, Robustness]) -> str:
    rows = [
        (
            f"{case.network}, {case.task}",
            one.name,
            one.outcome.value,
            ", ".join(f"`{name}`" for name in one.rival if name not in record.chosen),
            ", ".join(f"`{name}`" for name in record.chosen if name not in one.rival),
            "" if one.margin is None else f"{one.margin:.3f}",
        )
        for case, record in records.items()
        for one in record.results
        if one.outcome is not Outcome.SAME and one.variant != "fewer-texts"
    ]
    if not rows:
        return "Under no variant does the choice change."
    return table(("where", "variant", "choice", "type", "in place of", "NFN apart"), rows)


def _left_out(records: Mapping[Case, Robustness]) -> str:
    reasons: dict[str, list[str]] = {}
    for case, record in records.items():
        for one in record.left_out:
            reasons.setdefault(f"`{one.variant}`: {one.reason}", []).append(case.name)
    return "\n".join(f"- {reason} ({', '.join(cases)})" for reason, cases in reasons.items())


# ----------------------------------------------------------------------------- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the networks, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run", help="write the records that are not there")
    running.add_argument("--models", type=Path, default=MODELS, help="folder of the networks")
    running.add_argument("--gsm8k", type=Path, help="folder of the two files of GSM8K")
    running.add_argument("--only", choices=[case.name for case in CASES])
    writing = verbs.add_parser("tables", help="write the tables from the records")
    writing.add_argument("--page", type=Path, help="page to write them to, instead of stdout")
    options = parser.parse_args(arguments)
    if options.verb == "run":
        return run_all(options)
    return put(options.page, MARK, all_tables(read_all()), END)


if __name__ == "__main__":
    sys.exit(main())
