"""What the special tokens around a text do to its scores: counted, and left out.

    python benchmarks/special_tokens.py FOLDER [FOLDER ...] [--data FILE --text question] [--save]

Each model scores the same 200 texts twice. The order of the types, the gap at the boundary of the
choice and the number of texts until adaptive stopping show whether the special tokens matter.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from pathlib import Path

import torch
import transformers
from score import processor
from stopping import SAMPLES, TOP, adaptive, play, ranked, sums_of

import plop_lora as plop
from plop_lora.demo import DATA
from plop_lora.placement.stopping import StopSettings

TOLERANCE = 0.03


def row_of(model: str, scores: plop.Scores, orders: int) -> str:
    """Return the row of one model and one way to count."""
    sums = sums_of(scores)
    everything = sums.at(torch.arange(len(scores.measurements.sequence_ids)).numpy())
    names = ranked(everything)
    gap = everything[names[TOP]].value - everything[names[TOP - 1]].value
    stop = play(sums, StopSettings(TOP, TOLERANCE), adaptive, orders)
    values = ", ".join(f"{name} {everything[name].value:.3f}" for name in names)
    counted = "counted" if scores.provenance.special_tokens else "left out"
    return f"| {model} | {counted} | {scores.tokens} | {values} | {gap:.3f} | {stop.median:g} |"


def report(folders: list[Path], documents: plop.Documents, source: str, orders: int) -> str:
    """Measure everything and return the table as Markdown."""
    lines = [
        f"# Special tokens in the score, {datetime.date.today().isoformat()}",
        "",
        f"{SAMPLES} texts of {source}. Gap: NFN between the last of {TOP} types chosen and the "
        f"first left out. Stop: median number of texts until the choice is decided within "
        f"{TOLERANCE}, over {orders} random orders.",
        f"{processor()}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, plop-lora {plop.__version__}.",
        "",
        "| model | special tokens | tokens that count | NFN by type | gap | stop |",
        "|---|---|---|---|---|---|",
    ]
    for folder in folders:
        for special in (True, False):
            scores = plop.score(
                folder, texts=documents, stop="fixed", dtype="float32", special_tokens=special,
                reference=False, progress=False,
            )  # fmt: skip
            lines.append(row_of(folder.name, scores, orders))
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, print the table, and keep a dated copy if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="models with their tokenizers")
    parser.add_argument("--data", type=Path, default=DATA / "problems.jsonl")
    parser.add_argument("--text", default="question", help="field that holds the text")
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--save", action="store_true", help="keep a dated copy under results/")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    documents = plop.load_documents(options.data, text=options.text, samples=SAMPLES, seed=0)
    text = report(options.folders, documents, f"`{options.data.stem}`", options.orders)
    print(text)
    if options.save:
        name = f"special-tokens-{datetime.date.today().isoformat()}.md"
        (Path(__file__).parent / "results" / name).write_text(text)


if __name__ == "__main__":
    main()
