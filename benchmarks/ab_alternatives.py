"""What sequential tests in use say of a better, an equal and a worse arm, at 100 looks.

    python benchmarks/ab_alternatives.py [--runs 4000] [--save]

Normal values with a spread of 1, 5,000 units an arm, looked at 100 times as in ab_simulations.py.
Each rule stops at the first look at which it decides. The rules:

- the usual 95 % interval, looked at every time;
- Wald's sequential probability ratio test, with errors of 5 % and 20 %: one hypothesis is the
  improvement that is hoped for, the other that there is none, and a loss is on the side of the
  second;
- the rule of `plop_lora.ab`, with one guardrail beside the metric, so that harm has half its error.

Measures nothing.
"""

from __future__ import annotations

import argparse
import datetime
import math
from collections.abc import Callable

import numpy as np
from ab_simulations import (
    FEWEST_UNITS,
    PER_ARM,
    RESULTS,
    Floats,
    Looks,
    Population,
    Z,
    drawn,
    normal,
    scale,
)
from numpy.typing import NDArray

HOPED = 0.1
ARMS = {"better by 0.1": HOPED, "equal": 0.0, "worse by 0.1": -HOPED}
BETTER, NO_EFFECT, WORSE = "better", "no effect", "worse, or harm"
OUTCOMES = (BETTER, NO_EFFECT, WORSE, "not decided")
_ALPHA, _BETA = 0.05, 0.2

Decisions = dict[str, NDArray[np.bool_]]
"""Outcome → for each run and look, whether the rule decides so."""


def interval(looks: Looks) -> Decisions:
    """Decide as soon as the usual interval leaves out 0."""
    out = looks.crossed(Z)
    return {BETTER: out & (looks.difference > 0), WORSE: out & (looks.difference < 0)}


def wald(looks: Looks) -> Decisions:
    """Decide between the hoped-for difference and none.

    Source: Wald, Annals of Mathematical Statistics 16 (1945), with the estimated spread.
    """
    ratio = HOPED / looks.error**2 * (looks.difference - HOPED / 2)
    enough = looks.fewest >= FEWEST_UNITS
    return {
        BETTER: enough & (ratio >= math.log((1 - _BETA) / _ALPHA)),
        NO_EFFECT: enough & (ratio <= math.log(_BETA / (1 - _ALPHA))),
    }


def sequence(looks: Looks) -> Decisions:
    """Decide by the confidence sequence and the bound of harm."""
    reach = scale(2 * PER_ARM)
    effect = np.array([reach.effect(int(units), np.inf) for units in looks.units])
    harm = np.array([reach.harm(int(units)) for units in looks.units])
    return {BETTER: looks.above(effect, 0.0), WORSE: looks.below(harm)}


RULES: dict[str, Callable[[Looks], Decisions]] = {
    "95 % interval at every look": interval,
    "Wald's test of +0.1 against 0": wald,
    "confidence sequence and bound of harm": sequence,
}


def outcomes(rule: Callable[[Looks], Decisions], population: Population, runs: int) -> Floats:
    """Return the share of runs that end with each of `OUTCOMES`."""
    counts = np.zeros(len(OUTCOMES))
    for looks in drawn(population, runs):
        decided = rule(looks)
        none = np.zeros((looks.difference.shape[0], 1), bool)
        # The last column is reached by runs that no look decides.
        firsts = [
            np.hstack([decided[name], ~none]).argmax(1)
            if name in decided
            else np.full(none.size, looks.difference.shape[1])
            for name in OUTCOMES[:-1]
        ]
        first = np.stack([*firsts, np.full(none.size, looks.difference.shape[1] - 0.5)])
        counts += np.bincount(first.argmin(0), minlength=len(OUTCOMES))
    return counts / runs


def table(runs: int) -> list[str]:
    """Return the table in Markdown."""
    lines = [f"| arm | rule | {' | '.join(OUTCOMES)} |", "|---|---|---|---|---|---|"]
    for arm, effect in ARMS.items():
        for name, rule in RULES.items():
            shares = outcomes(rule, normal(effect), runs)
            lines.append(f"| {arm} | {name} | {' | '.join(f'{x:.1%}' for x in shares)} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Print the table, and with `--save` write it to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=4000, help="simulated experiments a line")
    parser.add_argument("--save", action="store_true", help="write the table to the results")
    given = parser.parse_args()
    lines = [f"# What sequential tests say, {given.runs:,} a line", "", *table(given.runs)]
    if given.save:
        path = RESULTS / f"ab-alternatives-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.md"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
