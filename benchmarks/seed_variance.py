"""How often a verification names a better rival, rightly and wrongly, from simulated trials.

    python benchmarks/seed_variance.py [--repeats 400] [--seeds 2 3 5] [--alone] [--save]

Outcomes are drawn with the spreads of the classification in docs/experiments.md: seeds deviate by
0.024 (standard deviation), a row's difference of two arms by 0.28 over 507 rows. Where spreads
differ, they do so 4 : 1 about that value. Each set of outcomes goes through `decide`, at the
default margin of 0.01:

- beaten: a rival is named though all arms are equal, the worst of the spreads;
- beaten, margin 0: the same without the room that the margin leaves;
- confirmed: the shortlist is confirmed though one rival is better by exactly the margin and all
  others are far behind, so that this rival alone decides; the worst of the spreads;
- power: `beaten` names the rival that is better by 0.10, where all spreads are equal.

The three errors are of a metric without rows, so that seeds alone make them: what rows add is known
well, and lowers them. Power is of a metric with rows.

`--alone` takes the seeds of two arms at a time, as without moderation.

Measures nothing.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np

from plop_lora.records.verification import BEATEN, CONFIRMED
from plop_lora.study.compare import Outcome
from plop_lora.verification.decide import Decision, decide

SEEDS, ARMS = (2, 3, 5), (3, 5, 10)
SEED_SD, ROW_SD, ROWS = 0.024, 0.28, 507
MARGIN, GAIN, FAR = 0.01, 0.10, -1.0
RATIO = 4
DRAWS = 1_000
FEWER_ROWS = 40
"""Rows that stand for all of them: their spread is made as much smaller."""
RESULTS = Path(__file__).parent / "results"


def spreads(arms: int) -> dict[str, list[float]]:
    """Return the seeds' standard deviation by arm, the shortlist first, for each case."""
    low, high = SEED_SD / RATIO**0.5, SEED_SD * RATIO**0.5
    return {
        "equal": [SEED_SD] * arms,
        "noisy shortlist": [high] + [low] * (arms - 1),
        "noisy rival": [low, high] + [low] * (arms - 2),
        "every other": [high if arm % 2 == 0 else low for arm in range(arms)],
    }


def outcomes(
    rng: np.random.Generator,
    seeds: int,
    seed_sds: Sequence[float],
    gains: Sequence[float],
    with_rows: bool,
) -> dict[str, Outcome]:
    """Return what arms reach whose true means differ by `gains`, the shortlist first."""
    row_sd = ROW_SD / 2**0.5 * (FEWER_ROWS / ROWS) ** 0.5 if with_rows else 0.0
    shared_S = SEED_SD * rng.standard_normal((seeds, 1))
    found = {}
    for arm, (seed_sd, gain) in enumerate(zip(seed_sds, gains, strict=True)):
        rows_SI = (
            0.5
            + gain
            + shared_S
            + seed_sd * rng.standard_normal((seeds, 1))
            + row_sd * rng.standard_normal(FEWER_ROWS)
        )
        values = tuple(rows_SI.mean(axis=1).tolist())
        items = tuple(map(tuple, rows_SI.tolist())) if with_rows else None
        found[f"arm-{arm}"] = Outcome(values, items)
    return found


def decisions(
    repeats: int,
    seeds: int,
    seed_sds: Sequence[float],
    gains: Sequence[float],
    margin: float = MARGIN,
    *,
    with_rows: bool = False,
) -> Iterator[Decision]:
    """Yield the decisions about as many sets of outcomes."""
    rng = np.random.default_rng(seeds)
    for repeat in range(repeats):
        yield decide(
            outcomes(rng, seeds, seed_sds, gains, with_rows),
            shortlist="arm-0",
            margin=margin,
            higher=True,
            draws=DRAWS,
            seed=repeat,
        )


def beaten(repeats: int, seeds: int, seed_sds: Sequence[float], margin: float = MARGIN) -> float:
    """Return how often a rival is called better where none is."""
    gains = [0.0] * len(seed_sds)
    found = decisions(repeats, seeds, seed_sds, gains, margin)
    return sum(decision.verdict == BEATEN for decision in found) / repeats


def confirmed(repeats: int, seeds: int, seed_sds: Sequence[float]) -> float:
    """Return how often the shortlist is confirmed though it is the margin behind one rival."""
    gains = [0.0, MARGIN] + [FAR] * (len(seed_sds) - 2)
    found = decisions(repeats, seeds, seed_sds, gains)
    return sum(decision.verdict == CONFIRMED for decision in found) / repeats


def power(repeats: int, seeds: int, arms: int) -> float:
    """Return how often a rival that is better by `GAIN` is named."""
    gains = [0.0, GAIN] + [0.0] * (arms - 2)
    found = decisions(repeats, seeds, spreads(arms)["equal"], gains, with_rows=True)
    return sum(decision.better == "arm-1" for decision in found) / repeats


def table(repeats: int, seeds_tried: Sequence[int]) -> list[str]:
    """Return the rows of a Markdown table, the worst of the spreads by name."""
    lines = [
        "| seeds | arms | beaten | beaten, margin 0 | confirmed | power |",
        "|---|---|---|---|---|---|",
    ]
    for seeds in seeds_tried:
        for arms in ARMS:
            cases = spreads(arms)
            errors = [
                max((beaten(repeats, seeds, sds), name) for name, sds in cases.items()),
                max((beaten(repeats, seeds, sds, 0.0), name) for name, sds in cases.items()),
                max((confirmed(repeats, seeds, sds), name) for name, sds in cases.items()),
            ]
            cells = [f"{error:.1%} ({name})" for error, name in errors]
            cells.append(f"{power(repeats, seeds, arms):.0%}")
            lines.append(f"| {seeds} | {arms} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Print the table, and with `--save` write it to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    name = "seed-variance-alone" if options.alone else "seed-variance"
    if options.alone:
        with patch("plop_lora.study.compare.moderated_variances", return_value=None):
            lines = table(options.repeats, options.seeds)
    else:
        lines = table(options.repeats, options.seeds)
    if options.save:
        today = datetime.date.today().isoformat()
        text = "\n".join([f"# {name}, {options.repeats} repeats, {today}", "", *lines, ""])
        (RESULTS / f"{name}-{today}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
