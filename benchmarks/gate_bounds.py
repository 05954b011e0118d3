"""How often the bounds of `plop gate` err at the limit, how wide they are, and what they decide.

    python benchmarks/gate_bounds.py [--draws 20000] [--save]

Gains are simulated whose mean is exactly the limit, so that every decision is wrong. Of each shape
one tail is longer: where it is the tail of losses, a check that passes has not seen it, and where
it is the tail of gains, a check that fails. The first number of a cell is the share of these
decisions, the second that of the opposite ones, each with the long tail on the other side.

Answers of 0 and 1 are simulated with the same number of items that only change to the better or
only to the worse as the limit says, and with a tenth more that change either way.

Width is the mean width of a one-sided bound, in widths of Student's t.

Decided is the share of samples that are decided rightly at the number of items that `--plan` and
*not enough data* print, which promise 80 %. All rows of a question are alike there.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from plop_lora.gating.bounds import LEVEL, PSEUDO_ITEMS, reach
from plop_lora.gating.power import Assumed, decision_power, groups_needed

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]

RESULTS = Path(__file__).parent / "results"
ITEMS = (10, 15, 20, 30, 60, 100, 300)
BLOCK = 2000
"""Number of samples that are drawn at a time."""
ONE_TO_FIVE = (1, 2, 3, 4, 5)


def _rare(share: float, spreads: float) -> Draw:
    """Return normal gains, of which a share is shifted by some spreads."""

    def draw(random: np.random.Generator, shape: tuple[int, int]) -> Floats:
        shifted = spreads * ((random.random(shape) < share) - share)
        return random.standard_normal(shape) + shifted

    return draw


SHAPES: dict[str, Draw] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "uniform": lambda random, shape: random.uniform(-1, 1, shape),
    "Student's t, 3": lambda random, shape: random.standard_t(3, shape),
    "log-normal, σ 0.5": lambda random, shape: random.lognormal(0, 0.5, shape) - np.exp(0.125),
    "exponential": lambda random, shape: random.exponential(1, shape) - 1,
    "gamma, 0.5": lambda random, shape: random.gamma(0.5, 1, shape) - 0.5,
    "log-normal, σ 1": lambda random, shape: random.lognormal(0, 1, shape) - np.exp(0.5),
    "20 % shifted by 3 spreads": _rare(0.2, 3),
    "10 % shifted by 5 spreads": _rare(0.1, 5),
    "5 % shifted by 10 spreads": _rare(0.05, 10),
    "2 % shifted by 10 spreads": _rare(0.02, 10),
}
"""Shape → gains of mean 0; the longer tail is above."""
CLUSTERED = ("normal", "log-normal, σ 0.5", "log-normal, σ 1")
ANSWERS = (0.01, 0.05, 0.1)
"""Limits of metrics of 0 and 1."""


class Case(NamedTuple):
    """Gains of which a plan says how many items decide them."""

    name: str
    limit: float
    assumed: Assumed
    shape: str = "normal"
    tail: int = 1


def _loss(gain: float, spread: float, size: int = 1) -> Assumed:
    return Assumed(gain=gain, spread=spread, size=size)


def _answers(gain: float, spread: float, size: int = 1) -> Assumed:
    return Assumed(gain=gain, spread=spread, binary=True, size=size)


def _skewed(tail: int) -> Assumed:
    return Assumed(gain=0.0, spread=0.1, skew=tail * 1.75)  # of the log-normal, σ 0.5


CASES = (
    Case("loss, non-inferior", -0.02, _loss(0.0, 0.1)),
    Case("loss, non-inferior", -0.02, _loss(0.0, 0.05)),
    Case("loss, non-inferior", -0.1, _loss(0.0, 0.3)),
    Case("loss, non-inferior", -0.05, _loss(0.0, 0.05)),
    Case("loss, improve", 0.0, _loss(0.05, 0.2)),
    Case("loss, too much worse", -0.02, _loss(-0.06, 0.1)),
    Case("loss, 3 rows a question", -0.02, _loss(0.0, 0.1, 3)),
    Case("loss, log-normal, tail of losses", -0.02, _skewed(-1), "log-normal, σ 0.5", -1),
    Case("loss, log-normal, tail of gains", -0.02, _skewed(1), "log-normal, σ 0.5", 1),
    Case("answers, non-inferior", -0.01, _answers(0.0, 0.3)),
    Case("answers, non-inferior", -0.02, _answers(0.0, 0.2)),
    Case("answers, non-inferior", -0.05, _answers(0.0, 0.2)),
    Case("answers, non-inferior", -0.1, _answers(0.0, 0.4)),
    Case("answers, improve", 0.0, _answers(0.05, 0.3)),
    Case("answers, improve by 0.02", 0.02, _answers(0.07, 0.3)),
    Case("answers, too much worse", -0.05, _answers(-0.12, 0.4)),
    Case("answers, 3 rows a question", -0.05, _answers(0.0, 0.3, 3)),
)


class Sampled(NamedTuple):
    """What samples show, one row each: their bounds and their means, errors and freedom."""

    low_D: Floats
    high_D: Floats
    mean_D: Floats
    error_D: Floats
    freedom: float


def sampled(rows_DI: Floats, starts_G: Sequence[int], *, binary: bool = False) -> Sampled:
    """Return the bounds of `gain_of` for many samples.

    Args:
        rows_DI: Gains of the rows, one sample a line.
        starts_G: Index of the first row of every question.
        binary: Whether the metric of a row is 0 or 1.
    """
    if binary:
        added = np.tile([1.0, -1.0] * PSEUDO_ITEMS, (len(rows_DI), 1))
        starts_G = [*starts_G, *range(rows_DI.shape[1], rows_DI.shape[1] + added.shape[1])]
        rows_DI = np.concatenate([rows_DI, added], axis=1)
    mean_D = rows_DI.mean(1)
    sums_DG = np.add.reduceat(rows_DI - mean_D[:, None], starts_G, axis=1)
    count = len(starts_G)
    moment_D = (sums_DG**2).mean(1)
    skew_D = (sums_DG**3).mean(1) / moment_D**1.5
    error_D = count * np.sqrt(moment_D / (count - 1)) / rows_DI.shape[1]
    freedom = count - 1.0
    return Sampled(
        mean_D - error_D * reach(-skew_D, count, freedom),
        mean_D + error_D * reach(skew_D, count, freedom),
        mean_D, error_D, freedom,
    )  # fmt: skip


def questions(items: int, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the number of rows of every question, and the index of its first row."""
    rows = [sizes[place % len(sizes)] for place in range(items)]
    return rows, [0, *np.cumsum(rows[:-1]).tolist()]


def samples(
    draw: Draw, items: int, draws: int, *, sizes: Sequence[int] = (1,), seed: int = 0
) -> Iterator[Sampled]:
    """Yield what blocks of samples show.

    Args:
        draw: Shape of the gains.
        items: Number of independent items.
        draws: Number of samples.
        sizes: Numbers of rows of a question; half of the variance of a row is its question's.
        seed: Seed of the draws.
    """
    random = np.random.default_rng([seed, items])
    rows, starts = questions(items, sizes)
    for start in range(0, draws, BLOCK):
        block = min(BLOCK, draws - start)
        values = draw(random, (block, items))
        if len(rows) < sum(rows):
            values = np.repeat(values, rows, axis=1) + draw(random, (block, sum(rows)))
        yield sampled(values, starts)


def errors(
    draw: Draw, items: int, draws: int, *, sizes: Sequence[int] = (1,), seed: int = 0
) -> tuple[float, float]:
    """Return the shares of decisions that miss the longer tail, and of the opposite ones."""
    found = list(samples(draw, items, draws, sizes=sizes, seed=seed))
    missed = sum(int((block.high_D < 0).sum()) for block in found) / draws
    opposite = sum(int((block.low_D > 0).sum()) for block in found) / draws
    return missed, opposite


def answer_errors(
    limit: float, items: int, draws: int, *, either: float, seed: int = 0
) -> tuple[float, float]:
    """Return the shares of wrong passes and wrong fails where answers are lost up to the limit.

    Args:
        limit: Share of the items that is lost, which is the margin.
        items: Number of items.
        draws: Number of samples.
        either: Share of the items that is gained, and lost beside the limit.
        seed: Seed of the draws.
    """
    random = np.random.default_rng([seed, items])
    passed = failed = 0
    for start in range(0, draws, BLOCK):
        chance = random.random((min(BLOCK, draws - start), items))
        lost = (chance >= either) & (chance < 2 * either + limit)
        found = sampled((chance < either) * 1.0 - lost, range(items), binary=True)
        passed += int((found.low_D > -limit).sum())
        failed += int((found.high_D < -limit).sum())
    return passed / draws, failed / draws


def width(draw: Draw, items: int, draws: int) -> float:
    """Return the mean width of both one-sided bounds, in widths of Student's t."""
    widths = [
        (block.high_D - block.low_D) / block.error_D / (2 * special.stdtrit(block.freedom, LEVEL))
        for block in samples(draw, items, draws)
    ]
    return float(np.concatenate(widths).mean())


def decided(case: Case, items: int, draws: int, *, seed: int = 0) -> float:
    """Return the share of samples that are decided on the side of the limit where the gain lies."""
    random = np.random.default_rng([seed, items])
    assumed, size = case.assumed, round(case.assumed.size)
    starts, right = range(0, items * size, size), 0
    for start in range(0, draws, BLOCK):
        shape = (min(BLOCK, draws - start), items)
        values = np.repeat(_gains(case, random, shape), size, axis=1)
        found = sampled(values, starts, binary=assumed.binary)
        passes = assumed.gain > case.limit
        right += int((found.low_D > case.limit if passes else found.high_D < case.limit).sum())
    return right / draws


def _gains(case: Case, random: np.random.Generator, shape: tuple[int, int]) -> Floats:
    gain, spread = case.assumed.gain, case.assumed.spread
    if case.assumed.binary:
        changed = spread**2 + gain**2
        chance = random.random(shape)
        return (chance < (changed + gain) / 2) - 1.0 * (chance >= 1 - (changed - gain) / 2)
    draw = SHAPES[case.shape]
    known = draw(np.random.default_rng(0), (1000, 1000)).std() if case.shape != "normal" else 1.0
    return gain + case.tail * spread * draw(random, shape) / known


def _pair(found: tuple[float, float]) -> str:
    return " / ".join(f"{100 * share:.1f}" for share in found)


def tables(draws: int) -> Iterator[str]:
    """Yield the lines of the tables."""
    head = ["| gains | " + " | ".join(map(str, ITEMS)) + " |", "|---" * (len(ITEMS) + 1) + "|"]
    yield from head
    for name, draw in SHAPES.items():
        yield _line(name, [_pair(errors(draw, items, draws)) for items in ITEMS])
    for name in CLUSTERED:
        cells = [_pair(errors(SHAPES[name], n, draws, sizes=ONE_TO_FIVE)) for n in ITEMS]
        yield _line(f"{name}, 1 to 5 rows a question", cells)
    for limit in ANSWERS:
        for either in (0.0, 0.1):
            more = ", 10 % more either way" if either else ""
            cells = [_pair(answer_errors(limit, n, draws, either=either)) for n in ITEMS]
            yield _line(f"answers, {limit:.0%} lost{more}", cells)
    yield ""
    yield from [head[0].replace("gains", "width"), head[1]]
    for name in ("normal", "log-normal, σ 0.5", "exponential", "log-normal, σ 1"):
        yield _line(name, [f"{width(SHAPES[name], items, draws // 4):.2f}" for items in ITEMS])
    yield ""
    yield "| check | limit | true gain | spread | items needed | promised | decided |"
    yield "|---|---|---|---|---|---|---|"
    for case in CASES:
        assumed, items = case.assumed, groups_needed(case.assumed, case.limit) or 0
        promised = decision_power(assumed, items, case.limit)
        share = decided(case, items, draws // 2)
        numbers = [f"{number:g}" for number in (case.limit, assumed.gain, assumed.spread)]
        yield _line(case.name, [*numbers, f"{items:,}", f"{promised:.0%}", f"{share:.1%}"])


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables, and with `--save` write them to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=20_000, help="simulated samples a cell")
    parser.add_argument("--save", action="store_true", help="write the tables to the results")
    given = parser.parse_args()
    lines = [f"# Decisions of simulated gates at the limit, in %, {given.draws:,} a cell", ""]
    for line in tables(given.draws):
        print(line, flush=True)
        lines.append(line)
    if given.save:
        path = RESULTS / f"gate-bounds-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.md"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
