"""How often the checks of groups and of their gap err at their limits.

    python benchmarks/gate_fairness.py [--draws 1000] [--save]

Every decision here is wrong. For *passes*, one group loses exactly the margin and the others gain.
For *harmed*, all groups lose exactly the margin, and any of them may be called harmed; beside it
stands the share without Holm's correction. For the *gap*, the adapter widens it by exactly its
limit, in one of three ways, and the larger one of the shares that pass and that fail is shown.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plop_lora.gating.fairness import GroupLimits, LabelledValues, decide_groups
from plop_lora.gating.gap import GroupedValues, widening_bounds
from plop_lora.records.gate import FAIL, PASS

Floats = NDArray[np.float64]

RESULTS = Path(__file__).parent / "results"
MARGIN, SPREAD, NOISE = 0.1, 0.2, 0.3
LIMITS = GroupLimits(margin=MARGIN)
GROUPS, ITEMS = (2, 5, 12), (30, 100)
KINDS = ("normal", "right or wrong", "log-normal losses, σ 0.5", "log-normal gains, σ 0.5")
WAYS = ("one of equals falls", "the last falls further", "another falls behind")
HEAD = "| values | the groups pass | a group is called harmed | without a correction | the gap |"


def gains(random: np.random.Generator, kind: str, means_G: Sequence[float], items: int) -> Floats:
    """Return gains of every group around its mean."""
    means_G1: Floats = np.asarray(means_G, dtype=float)[:, None]
    size = (len(means_G1), items)
    if kind == "normal":
        return means_G1 + random.normal(0, SPREAD, size)
    if kind == "right or wrong":
        chance = random.random(size)
        gained, lost = 0.1 + np.maximum(means_G1, 0), 0.1 - np.minimum(means_G1, 0)
        return (chance < gained) * 1.0 - ((chance >= gained) & (chance < gained + lost))
    return means_G1 + _tail(random, size) * (1 if "gains" in kind else -1)


def _tail(random: np.random.Generator, size: tuple[int, int]) -> Floats:
    return SPREAD * (random.lognormal(0, 0.5, size) - np.exp(0.125))


def group_errors(kind: str, groups: int, items: int, draws: int) -> tuple[float, float, float]:
    """Return how often groups pass, are called harmed, and would be without a correction."""
    random = np.random.default_rng([groups, items, KINDS.index(kind)])
    labels = [f"group {place // items}" for place in range(groups * items)]
    clusters = [str(place) for place in range(groups * items)]
    one = [-MARGIN, *[2 * MARGIN] * (groups - 1)]
    passed = harmed = uncorrected = 0
    for _ in range(draws):
        for means in (one, [-MARGIN] * groups):
            gains_I = gains(random, kind, means, items).ravel()
            values = LabelledValues(
                np.zeros(len(gains_I)), gains_I, labels, clusters, binary=kind == "right or wrong"
            )
            found = decide_groups([values], LIMITS)
            if means is one:
                passed += all(group.verdict is PASS for group in found)
            else:
                harmed += any(group.verdict is FAIL for group in found)
                uncorrected += any((group.bound_high or 0) < -MARGIN for group in found)
    return passed / draws, harmed / draws, uncorrected / draws


def sides(
    random: np.random.Generator, kind: str, base_G: Floats, adapter_G: Floats, items: int
) -> tuple[Floats, Floats]:
    """Return values of both sides; of the adapter they have noise of its own, or a long tail."""
    size = (len(base_G), items)
    if kind == "right or wrong":
        chance = random.random(size)
        return (chance < 0.8 + base_G[:, None]) * 1.0, (chance < 0.8 + adapter_G[:, None]) * 1.0
    common = random.normal(0, NOISE, size)
    if kind == "normal":
        own = random.normal(0, NOISE, size)
    else:
        own = common + _tail(random, size) * (1 if "gains" in kind else -1)
    return base_G[:, None] + common, adapter_G[:, None] + own


def at_the_limit(way: str, groups: int) -> tuple[Floats, Floats]:
    """Return the true means of both sides for a gap that widens by exactly the limit."""
    base_G = np.zeros(groups)
    if way == "one of equals falls":
        return base_G, np.array([*[0.0] * (groups - 1), -MARGIN])
    if way == "the last falls further":
        base_G = np.linspace(0, -0.3, groups)
        return base_G, base_G - MARGIN * (np.arange(groups) == groups - 1)
    base_G[0] = -0.2
    return base_G, np.array([0.0, -0.2 - MARGIN, *[0.0] * (groups - 2)])


def gap_error(kind: str, groups: int, items: int, draws: int) -> float:
    """Return the largest share of wrong decisions on a gap, over the ways and both directions."""
    random = np.random.default_rng([groups, items, KINDS.index(kind), 1])
    places = np.arange(groups * items)
    worst = 0.0
    for way in WAYS:
        passed = failed = 0
        for _ in range(draws):
            base, adapter = sides(random, kind, *at_the_limit(way, groups), items)
            values = GroupedValues(base.ravel(), adapter.ravel(), places // items, places)
            low, high = widening_bounds(values, binary=kind == "right or wrong")
            passed, failed = passed + (high < MARGIN), failed + (low > MARGIN)
        worst = max(worst, passed / draws, failed / draws)
    return worst


def table(draws: int) -> list[str]:
    """Return the lines of the table, of which every cell spans all numbers of groups and items."""
    lines = [HEAD, "|---|---|---|---|---|"]
    for kind in KINDS:
        errors = [group_errors(kind, groups, items, draws) for groups in GROUPS for items in ITEMS]
        gap = max(gap_error(kind, groups, items, draws) for groups in GROUPS for items in ITEMS)
        spans = [f"{min(share):.1%} to {max(share):.1%}" for share in zip(*errors, strict=True)]
        lines.append(f"| {kind} | {' | '.join(spans)} | at most {gap:.1%} |")
    return lines


def main() -> None:
    """Print the table, and save it if asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="simulated checks of each cell")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results")
    options = parser.parse_args()
    text = "\n".join([f"{options.draws:,} checks a cell", "", *table(options.draws)]) + "\n"
    print(text, end="")
    if options.save:
        day = datetime.datetime.now(tz=datetime.UTC).date()
        (RESULTS / f"gate-fairness-{day}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
