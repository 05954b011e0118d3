"""How often a verification claims something, rightly and wrongly, and how many trials it takes.

    python benchmarks/verdicts.py [--draws 1000] [--save]

Verifications of twelve rivals are simulated, in the fixed design of five seeds and in the
sequential one of six at most, with the rules and the looks of real ones. Errors are of an outcome
without rows, so that seeds alone make them, with spreads over seeds that are equal or differ 4 : 1:

- beaten: a rival is named though all arms are equal, with a margin of 0;
- confirmed: the shortlist is confirmed though one rival is better by exactly the margin and all
  others are far behind, so that this rival alone decides.

Power and trials are of the spreads of the study's pairs (scripts/experiments/spreads.py), 160 rows,
a margin of 0.02 nats: all arms equal, arms that are up to five margins behind, and one rival that
is better by two or by four margins. Trials are the median of the deciding trials of the sequential
design over those of the fixed one; the ladder of learning rates is the same in both.

Measures nothing.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from plop_lora.records.verification import BEATEN, CONFIRMED
from plop_lora.statistics import Components
from plop_lora.verification.looks import planned_looks
from plop_lora.verification.power import Setting, Simulated, simulate
from plop_lora.verification.spreads import OF_ANSWERS, OF_LOSS

RIVALS, ROWS, MARGIN, FAR = 12, 160, 0.02, -9.0
SEED_SD = 0.01
RESULTS = Path(__file__).parent / "results"
DESIGNS = {"fixed": (5, False), "sequential": (6, True)}
SPREADS = {
    "equal": [SEED_SD] * (RIVALS + 1),
    "noisy shortlist": [2 * SEED_SD] + [SEED_SD / 2] * RIVALS,
    "noisy rival": [SEED_SD / 2, 2 * SEED_SD] + [SEED_SD / 2] * (RIVALS - 1),
    "every other": [2 * SEED_SD if arm % 2 else SEED_SD / 2 for arm in range(RIVALS + 1)],
}
PAIRS = {
    "SmolLM2, GSM8K: loss": (Components(0.0045, 0.026, 0.027), MARGIN),
    "SmolLM2, summaries: loss": (Components(0.0070, 0.112, 0.108), MARGIN),
    "Gemma 3, GSM8K: loss": (Components(0.0128, 0.060, 0.056), MARGIN),
    "Gemma 3, summaries: loss": (Components(0.0116, 0.093, 0.090), MARGIN),
    "MiniLM: loss": (OF_LOSS["classify"], MARGIN),
    "MiniLM: accuracy": (OF_ANSWERS["classify"], 0.01),
}
BEHIND = (0, 0.3, 0.5, 1, 1, 1.5, 2, 2, 3, 3, 4, 5)
TRUTHS = {
    "equal": lambda margin: [],
    "some behind": lambda margin: [-margin * times for times in BEHIND],
    "one better by 2 margins": lambda margin: [2 * margin],
    "one better by 4 margins": lambda margin: [4 * margin],
}


def run(
    design: str,
    spread: Components,
    margin: float,
    gains: Sequence[float],
    draws: int,
    seed_sds: Sequence[float] | None = None,
) -> Simulated:
    """Simulate a design."""
    seeds, sequential = DESIGNS[design]
    looks = planned_looks(seeds, RIVALS, sequential=sequential)
    rows = ROWS if spread.item_sd else None
    return simulate(
        Setting(looks, spread, rows, RIVALS, margin), gains, seed_sds_A=seed_sds, draws=draws
    )


def errors(draws: int) -> list[str]:
    """Return the table of false claims."""
    lines = ["| spreads over seeds | design | beaten | confirmed |", "|---|---|---|---|"]
    for name, sds in SPREADS.items():
        scaled = [sd / 2**0.5 for sd in sds]
        alone = Components(SEED_SD, 0.0, 0.0)
        for design in DESIGNS:
            equal = run(design, alone, 0.0, [], draws, scaled).share(BEATEN)
            truth = [MARGIN, *[FAR] * (RIVALS - 1)]
            at_margin = run(design, alone, MARGIN, truth, draws, scaled).share(CONFIRMED)
            lines.append(f"| {name} | {design} | {equal:.1%} | {at_margin:.1%} |")
            print(lines[-1], flush=True)
    return lines


def powers(draws: int) -> list[str]:
    """Return the table of right claims and of trials."""
    lines = [
        "| spreads of | truth | right claims, fixed | sequential | trials, sequential / fixed |",
        "|---|---|---|---|---|",
    ]
    shares = []
    for name, (spread, margin) in PAIRS.items():
        for truth, gains in TRUTHS.items():
            claim = BEATEN if "better" in truth else CONFIRMED
            fixed, sequential = (
                run(design, spread, margin, gains(margin), draws) for design in DESIGNS
            )
            share = median(sequential.trials) / median(fixed.trials)
            shares.append(share)
            lines.append(
                f"| {name} | {truth} | {fixed.share(claim):.0%} | {sequential.share(claim):.0%} | "
                f"{share:.2f} |"
            )
            print(lines[-1], flush=True)
    return [*lines, "", f"Median over this table: {median(shares):.2f} of the trials."]


def main() -> None:
    """Print the tables, and with `--save` write them to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="simulated verifications a line")
    parser.add_argument("--save", action="store_true", help="write the tables to the results")
    given = parser.parse_args()
    lines = [
        f"# Claims of simulated verifications, {given.draws:,} a line",
        "",
        *errors(given.draws),
        "",
        *powers(given.draws),
    ]
    print(lines[-1])
    if given.save:
        path = RESULTS / f"verdicts-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.md"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
