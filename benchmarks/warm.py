"""Wall seconds of the same eight tiny trials as fresh processes and as forks of one process.

    python benchmarks/warm.py [--trials 8] [--rounds 2] [--model DIR] [--save]

Every round runs the trials both ways, one after the other on one worker, in alternating order. The
seconds of a way are those from the first start to the last end, so that those of forks include the
start of the process that they are forked from. The losses of all rows must be the same to the bit.
By default the bundled model is trained for two steps, so that little but the start is left.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from score import processor
from trial import placement_of, read_rows

from plop_lora.demo import DATA, MODEL
from plop_lora.recipe import Runner
from plop_lora.records import TrainingSettings, TrialData, TrialResult, TrialSpec
from plop_lora.training.runners.run import run_trials
from plop_lora.training.weights import weights_key

STEPS, BATCH, EVALUATED = 2, 4, 8


def specs_of(model: str, count: int, folder: Path) -> list[TrialSpec]:
    """Write the rows of the trials and return their specs, which differ in seed and rate."""
    rows = read_rows(DATA / "problems.jsonl", model, STEPS * BATCH + EVALUATED)
    paths, digests = [folder / "train.jsonl", folder / "evaluation.jsonl"], []
    for path, part in zip(paths, (rows[EVALUATED:], rows[:EVALUATED]), strict=True):
        text = "".join(f"{json.dumps(row)}\n" for row in part)
        path.write_text(text, encoding="utf-8")
        digests.append(hashlib.sha256(text.encode()).hexdigest())
    placement = placement_of(model, rows)
    return [
        TrialSpec(
            arm="benchmark", seed=number, phase="confirm", task="sft", model=model,
            weights=weights_key(Path(model)), placement=placement,
            learning_rate=1e-4 * (1 + number),
            data=TrialData(str(paths[0]), digests[0], str(paths[1]), digests[1]),
            training=TrainingSettings(steps=STEPS, batch_size=BATCH, device="cpu"),
        )
        for number in range(count)
    ]  # fmt: skip


def seconds(
    specs: Sequence[TrialSpec], root: Path, *, warm: bool
) -> tuple[float, tuple[TrialResult, ...]]:
    """Run all trials one way, and return the seconds and the results."""
    started = time.perf_counter()
    results = run_trials(specs, root, Runner(workers=1, warm_workers=warm))
    taken = time.perf_counter() - started
    assert all(result.done for result in results), [result.cause for result in results]
    return taken, results


def report(model: str, count: int, rounds: int) -> str:
    """Measure and return the table as Markdown."""
    fresh, forked = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        specs = specs_of(model, count, folder)
        for number in range(rounds):
            found = {
                warm: seconds(specs, folder / f"{number}-{warm}", warm=warm)
                for warm in ((False, True) if number % 2 else (True, False))
            }
            fresh.append(found[False][0])
            forked.append(found[True][0])
            pairs = zip(found[False][1], found[True][1], strict=True)
            assert all(one.items == other.items for one, other in pairs), "the losses differ"
    lines = [
        f"# Trials as fresh processes and as forks, {datetime.date.today().isoformat()}",
        "",
        f"{count} trials of {Path(model).name}, {STEPS} steps of {BATCH} rows, {EVALUATED} rows "
        f"judged, one worker; {rounds} paired rounds in alternating order.",
        f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end; Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}.",
        "",
        "| round | fresh, s | forked, s | fresh, s a trial | forked, s a trial | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for number, (one, other) in enumerate(zip(fresh, forked, strict=True), start=1):
        lines.append(
            f"| {number} | {one:.1f} | {other:.1f} | {one / count:.1f} | {other / count:.1f} "
            f"| {one / other:.1f} |"
        )
    ratios = [one / other for one, other in zip(fresh, forked, strict=True)]
    lines += ["", f"Median of the paired ratios: {statistics.median(ratios):.1f}. The losses of "
              "all rows are the same to the bit."]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, and keep it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="under benchmarks/results")
    options = parser.parse_args()
    text = report(options.model, options.trials, options.rounds)
    print(text)
    if options.save:
        name = f"warm-{datetime.date.today().isoformat()}.md"
        (Path(__file__).parent / "results" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
