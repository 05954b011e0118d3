"""What the general text beside the user's costs, in tokens and in processor time.

    python benchmarks/reference.py [FOLDER] [--data FILE --text question] [--save]

A loaded model is scored with the general text and without it, in turns. Processor time is that of
this process, so that others on the machine disturb it less than they would a clock.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from score import processor

import plop_lora as plop
from plop_lora.demo import DATA, MODEL
from plop_lora.models.loading import load_model, load_tokenizer

REPEATS = 7


def timed(model: Any, tokenizer: Any, documents: plop.Documents, **keys: Any) -> tuple[Any, float]:
    """Return the scores and the seconds of processor time that they took."""
    start = time.process_time()
    scores = plop.score(model, tokenizer, documents, progress=False, **keys)
    return scores, time.process_time() - start


def rows_of(folder: Path, documents: plop.Documents) -> list[str]:
    """Return a row for each way to stop, with the medians of the repeats."""
    model, tokenizer = load_model(str(folder), progress=False), load_tokenizer(str(folder))
    rows = []
    for stop in ("adaptive", "fixed"):
        seconds: dict[bool, list[float]] = {True: [], False: []}
        timed(model, tokenizer, documents, stop=stop)
        for _ in range(REPEATS):
            for reference in (False, True):
                scores, taken = timed(model, tokenizer, documents, stop=stop, reference=reference)
                seconds[reference].append(taken)
        (held,) = scores.references
        without, within = (statistics.median(seconds[key]) for key in (False, True))
        rows.append(
            f"| {folder.name} | {stop} | {scores.sequences} | {scores.tokens} | {held.sequences} | "
            f"{held.tokens} | {without:.2f} | {within:.2f} | {within - without:.2f} |"
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Parse the command line, print the table, and keep a dated copy if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=MODEL, help="model to score")
    parser.add_argument("--data", type=Path, default=DATA / "problems.jsonl")
    parser.add_argument("--text", default="question", help="field that holds the text")
    parser.add_argument("--save", action="store_true", help="keep a dated copy under results/")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    documents = plop.load_documents(options.data, text=options.text, samples=200, seed=0)
    today = datetime.date.today().isoformat()
    text = "\n".join(
        [
            f"# The general text beside the user's, {today}",
            "",
            f"200 texts of `{options.data.stem}`; a loaded model, one thread, medians of {REPEATS} "
            "runs each, in turns. Seconds are processor time of the process.",
            f"{processor()}; Python {platform.python_version()}, torch {torch.__version__}, "
            f"transformers {transformers.__version__}, plop-lora {plop.__version__}.",
            "",
            "| model | stop | texts | tokens | general texts | their tokens | s without | s with | "
            "difference |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows_of(options.folder, documents),
        ]
    )
    print(text)
    if options.save:
        (Path(__file__).parent / "results" / f"reference-{today}.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
