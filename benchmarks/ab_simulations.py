"""How often an A/B test claims something, rightly and wrongly, in simulated populations.

    python benchmarks/ab_simulations.py [--runs 4000] [--save]

Every run has two arms that grow to their planned size and are looked at 100 times, from the first
look with 50 units in each arm. The intervals are those of `plop_lora.ab`. Populations, an arm and
the control alike where nothing else is said:

- binary: 10 % of units have a 1; `rare` has 1 %, `uneven` has nine units in the control to one in
  the arm, and `drift` goes from 5 % to 20 % while the units arrive;
- skewed: log-normal values with a sigma of 2;
- ratio: tokens per request of units with 1 to 5 requests, whose level differs from unit to unit;
  `by request` takes each request for a unit, which is wrong and is here to show what it costs;
- CUPED: normal values with a correlation of 0.7 with those from before;
- growing: values of all units go on to grow after their exposure, by the same normal steps between
  looks, which no sequence allows for.

Measures nothing.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from plop_lora.ab import Baseline, plan
from plop_lora.ab.comparisons import FEWEST_UNITS, Errors, Scale
from plop_lora.records import ExperimentPlan
from plop_lora.records.analysis import Design
from plop_lora.statistics import sequential_split_p, two_sided_quantile
from plop_lora.statistics.sample_ratio import CONCENTRATION

RESULTS = Path(__file__).parent / "results"
LOOKS, PER_ARM, ERROR, HARM = 100, 5_000, 0.05, 0.025
CHUNK = 500
NOISE = 30.0
"""Spread of the tokens of a request within its unit."""
Z = float(stats.norm.ppf(1 - ERROR / 2))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Looks:
    """What many runs show at each of their looks.

    Attributes:
        units: Number of units of both arms at each look.
        difference: Difference of the arms, a row a run and a column a look.
        error: Its standard error.
        fewest: Number of units of the smaller arm at each look.
    """

    units: Floats
    difference: Floats
    error: Floats
    fewest: Floats

    def crossed(self, quantile: Floats | float, truth: float = 0.0) -> NDArray[np.bool_]:
        """Say of each run and look whether the interval misses a difference."""
        outside = np.abs(self.difference - truth) > quantile * self.error
        return outside & (self.fewest >= FEWEST_UNITS)

    def below(self, quantile: Floats, threshold: float = 0.0) -> NDArray[np.bool_]:
        """Say of each run and look whether an upper bound lies below a difference."""
        upper = self.difference + quantile * self.error
        return (upper < threshold) & (self.fewest >= FEWEST_UNITS)

    def above(self, quantile: Floats, threshold: float) -> NDArray[np.bool_]:
        """Say of each run and look whether a lower bound lies above a difference."""
        lower = self.difference - quantile * self.error
        return (lower > threshold) & (self.fewest >= FEWEST_UNITS)


Population = Callable[[np.random.Generator, int], Looks]

# -------------------------------------------------------------------------------- populations


def binary(
    shares: tuple[float, float],
    per_arm: int = PER_ARM,
    *,
    looks: int = LOOKS,
    control_times: int = 1,
    drift: Floats | float = 1.0,
) -> Population:
    """Return runs of 0s and 1s; `drift` multiplies both shares in each step."""

    def make(draw: np.random.Generator, runs: int) -> Looks:
        ends = _ends(per_arm, looks)
        sizes = (control_times * ends, ends)
        means = [
            draw.binomial(np.diff(size, prepend=0), share * drift, (runs, looks)).cumsum(1) / size
            for size, share in zip(sizes, shares, strict=True)
        ]
        spread = [m * (1 - m) / (size - 1) for m, size in zip(means, sizes, strict=True)]
        return Looks(sum(sizes), means[1] - means[0], np.sqrt(sum(spread)), ends)

    return make


def values(
    sample: Callable[[np.random.Generator, tuple[int, int]], Floats], effect: float = 0.0
) -> Population:
    """Return runs of means of independent values; `effect` is added to those of the arm."""

    def make(draw: np.random.Generator, runs: int) -> Looks:
        ends = _ends(PER_ARM, LOOKS)
        arms = [_moments(sample(draw, (runs, PER_ARM)) + shift, ends) for shift in (0.0, effect)]
        return _of_arms(arms, ends)

    return make


def normal(effect: float) -> Population:
    """Return runs of means of normal values with a spread of 1."""
    return values(lambda draw, shape: draw.normal(size=shape), effect)


def ratio(by_request: bool) -> Population:
    """Return runs of tokens per request, by the delta method over units or over requests."""

    def arm(draw: np.random.Generator, runs: int, ends: Floats) -> tuple[Floats, Floats]:
        requests = draw.integers(1, 6, (runs, PER_ARM)).astype(np.float64)
        level = draw.gamma(4, 25, (runs, PER_ARM))
        tokens = requests * level + np.sqrt(requests) * draw.normal(0, NOISE, requests.shape)
        (y, x, yy, xx, xy) = (
            column.cumsum(1)[:, ends - 1] / ends
            for column in (tokens, requests, tokens**2, requests**2, tokens * requests)
        )
        mean = y / x
        if by_request:
            square = (tokens**2 / requests).cumsum(1)[:, ends - 1] / ends + NOISE**2 * (x - 1)
            return mean, (square / x - mean**2) / (ends * x)
        spread = yy - 2 * mean * xy + mean**2 * xx
        return mean, spread / (x**2 * (ends - 1))

    def make(draw: np.random.Generator, runs: int) -> Looks:
        ends = _ends(PER_ARM, LOOKS)
        return _of_arms([arm(draw, runs, ends) for _ in range(2)], ends)

    return make


def cuped(correlation: float, effect: float = 0.0) -> Population:
    """Return runs of means that are adjusted by a value from before, with one slope."""

    def make(draw: np.random.Generator, runs: int) -> Looks:
        ends = _ends(PER_ARM, LOOKS)
        arms = []
        for shift in (0.0, effect):
            x = draw.normal(size=(runs, PER_ARM))
            noise = draw.normal(size=x.shape)
            y = shift + correlation * x + np.sqrt(1 - correlation**2) * noise
            sums = [c.cumsum(1)[:, ends - 1] / ends for c in (x, y, x * x, x * y, y * y)]
            mx, my, xx, xy, yy = sums
            arms.append((mx, my, xx - mx * mx, xy - mx * my, yy - my * my))
        theta = sum(one[3] for one in arms) / sum(one[2] for one in arms)
        adjusted = [
            (my - theta * mx, (vy - 2 * theta * cov + theta**2 * vx) / (ends - 1))
            for mx, my, vx, cov, vy in arms
        ]
        return _of_arms(adjusted, ends)

    return make


def growing(draw: np.random.Generator, runs: int) -> Looks:
    """Return runs in which all units are there at the first look, and their values grow."""
    error = np.sqrt(2 * np.arange(1, LOOKS + 1) / PER_ARM)
    walk = draw.normal(0, np.sqrt(2 / PER_ARM), (runs, LOOKS)).cumsum(1)
    all_units = np.full(LOOKS, float(PER_ARM))
    return Looks(2 * all_units, walk, np.broadcast_to(error, walk.shape), all_units)


def _ends(per_arm: int, looks: int) -> NDArray[np.int64]:
    return np.linspace(max(per_arm / looks, FEWEST_UNITS), per_arm, looks).round().astype(np.int64)


def _moments(sample: Floats, ends: NDArray[np.int64]) -> tuple[Floats, Floats]:
    mean = sample.cumsum(1)[:, ends - 1] / ends
    square = (sample**2).cumsum(1)[:, ends - 1] / ends
    return mean, (square - mean**2) / (ends - 1)


def _of_arms(arms: list[tuple[Floats, Floats]], ends: NDArray[np.int64]) -> Looks:
    (first, spread), (second, other) = arms
    return Looks(2 * ends, second - first, np.sqrt(spread + other), ends)


POPULATIONS: dict[str, Population] = {
    "binary, 10 %": binary((0.10, 0.10)),
    "binary, rare: 1 %": binary((0.01, 0.01)),
    "binary, uneven: 9 to 1": binary((0.10, 0.10), control_times=9),
    "binary, drift: 5 % to 20 %": binary((0.10, 0.10), drift=np.linspace(0.5, 2, LOOKS)),
    "skewed: log-normal, sigma 2": values(lambda draw, shape: draw.lognormal(0, 2, shape)),
    "ratio, by unit": ratio(by_request=False),
    "ratio, by request (wrong)": ratio(by_request=True),
    "CUPED, correlation 0.7": cuped(0.7),
    "growing (not allowed for)": growing,
}

# ------------------------------------------------------------------------------------ tables


def drawn(population: Population, runs: int, seed: int = 0) -> Iterator[Looks]:
    """Yield runs of a population, a few at a time."""
    draw = np.random.default_rng(seed)
    for start in range(0, runs, CHUNK):
        yield population(draw, min(CHUNK, runs - start))


def false_alarms(population: Population, runs: int) -> tuple[float, float, float]:
    """Return how often runs claim what is not so: at any look, at the last one, by the sequence."""
    found = []
    for looks in drawn(population, runs):
        quantile = two_sided_quantile(looks.units, error=ERROR, planned=looks.units[-1])
        naive = looks.crossed(Z)
        found.append((naive.any(1), naive[:, -1], looks.crossed(quantile).any(1)))
    peeking, fixed, sequence = (
        float(np.concatenate(part).mean()) for part in zip(*found, strict=True)
    )
    return peeking, fixed, sequence


def coverage(population: Population, truth: float, runs: int) -> float:
    """Return how often the sequence holds the true difference at all looks."""
    missed = []
    for looks in drawn(population, runs):
        quantile = two_sided_quantile(looks.units, error=ERROR, planned=looks.units[-1])
        missed.append(looks.crossed(quantile, truth).any(1))
    return 1 - float(np.concatenate(missed).mean())


def scale(total: float, guardrails: int = 1, design: Design = Design.SEQUENTIAL) -> Scale:
    """Return the scale of an experiment of two arms."""
    return Scale(design, total, Errors(ERROR, ERROR, HARM / (1 + guardrails)))


def harm(shares: tuple[float, float], total: int, runs: int) -> tuple[float, float]:
    """Return how often an arm is called harmful, and at which part of the planned units."""
    reach = scale(total)
    stops: list[Floats] = []
    for looks in drawn(binary(shares, total // 2), runs):
        quantile = np.array([reach.harm(int(units)) for units in looks.units])
        stops.append(_first(looks.below(quantile)))
    first = np.concatenate(stops)
    found = np.isfinite(first)
    return float(found.mean()), float(np.median(first[found])) if found.any() else np.nan


def harm_of_an_equal_arm(runs: int) -> float:
    """Return how often an arm that equals the control is called harmful in one of two metrics."""
    called = []
    for seed in (0, 1):
        alarms = []
        for looks in drawn(binary((0.10, 0.10)), runs, seed):
            reach = scale(2 * PER_ARM)
            quantile = np.array([reach.harm(int(units)) for units in looks.units])
            alarms.append(looks.below(quantile).any(1))
        called.append(np.concatenate(alarms))
    return float((called[0] | called[1]).mean())


def passes_at_the_margin(runs: int) -> float:
    """Return how often a guardrail is passed by an arm that is worse by exactly its margin."""
    found = []
    for looks in drawn(binary((0.10, 0.08)), runs):
        reach = scale(2 * PER_ARM)
        quantile = np.array([reach.margin(int(units), np.inf) for units in looks.units])
        found.append(looks.above(quantile, -0.02).any(1))
    return float(np.concatenate(found).mean())


def power(shares: tuple[float, float], runs: int) -> tuple[int, float, int, float, float, float]:
    """Return sizes and powers of both designs: fixed; sequential at the last and at any look."""
    sizes = {one.design: one for one in _planned(shares).sizes}
    fixed, sequential = sizes[Design.FIXED].total, sizes[Design.SEQUENTIAL].total
    once = np.concatenate(
        [looks.crossed(Z)[:, -1] for looks in drawn(binary(shares, fixed // 2, looks=1), runs)]
    )
    stops, last = [], []
    for looks in drawn(binary(shares, sequential // 2), runs):
        quantile = two_sided_quantile(looks.units, error=ERROR, planned=sequential)
        crossed = looks.crossed(quantile) & (looks.difference > 0)
        stops.append(_first(crossed))
        last.append(crossed[:, -1])
    first = np.concatenate(stops)
    return (
        fixed, float(once.mean()), sequential, float(np.concatenate(last).mean()),
        float(np.isfinite(first).mean()), float(np.median(first)),
    )  # fmt: skip


def _planned(shares: tuple[float, float]) -> ExperimentPlan:
    return plan(Baseline.of_share(shares[0]), effect=shares[1] - shares[0])


def _first(crossed: NDArray[np.bool_]) -> Floats:
    """Return the part of the looks after which a run crosses first, infinity if it never does."""
    place = (crossed.argmax(1) + 1) / crossed.shape[1]
    return np.where(crossed.any(1), place, np.inf)


def planned_for_harm(shares: tuple[float, float], chance: float) -> int:
    """Return the number of units with which an experiment with one guardrail calls a loss harm."""
    wanted = plan(
        Baseline.of_share(shares[0]), effect=shares[1] - shares[0], power=chance, error=HARM
    )
    return next(one.total for one in wanted.sizes if one.design is Design.SEQUENTIAL)


def mismatches(share: float, total: int, runs: int) -> tuple[float, float, float]:
    """Return how often a split is called a mismatch: chi-square once, at any look; sequential."""
    draw = np.random.default_rng(0)
    ends = np.linspace(total / LOOKS, total, LOOKS).round().astype(np.int64)
    first = draw.binomial(np.diff(ends, prepend=0), share, (runs, LOOKS)).cumsum(1)
    chi = (first - ends / 2) ** 2 / (ends / 4)
    alarm = special.chdtrc(1, chi) < 0.001
    prior = CONCENTRATION / 2
    counts = np.stack([first, ends - first])
    factor = (
        special.gammaln(2 * prior) - special.gammaln(2 * prior + ends)
        + (special.gammaln(prior + counts) - special.gammaln(prior)).sum(0) + ends * np.log(2)
    )  # fmt: skip
    one = sequential_split_p(counts[:, 0, -1], [0.5, 0.5])
    assert np.isclose(one, np.exp(-max(factor[0, -1], 0.0)))
    sequential = (factor > np.log(1000)).any(1)
    return float(alarm[:, -1].mean()), float(alarm.any(1).mean()), float(sequential.mean())


def tables(runs: int) -> list[str]:
    """Return the tables in Markdown."""
    lines = [
        "| no difference | 95 % interval at every look | once, at the end | confidence sequence |",
        "|---|---|---|---|",
    ]
    for name, population in POPULATIONS.items():
        shares = " | ".join(f"{share:.1%}" for share in false_alarms(population, runs))
        lines.append(f"| {name} | {shares} |")
        print(lines[-1], flush=True)
    lines += ["", "| true difference | held by the sequence at all looks |", "|---|---|"]
    for name, population, truth in (
        ("binary, 10 % and 12 %", binary((0.10, 0.12)), 0.02),
        ("CUPED, a gain of 0.1", cuped(0.7, 0.1), 0.1),
    ):
        lines.append(f"| {name} | {coverage(population, truth, runs):.1%} |")
    lines += [
        "",
        "| planned for, with a power of 0.8 | units, fixed | power | units, sequential "
        "| at the last look | at any look | median stop |",
        "|---|---|---|---|---|---|---|",
    ]
    for shares in ((0.10, 0.12), (0.10, 0.11), (0.50, 0.52)):
        fixed, once, sequential, last, anytime, stop = power(shares, runs)
        lines.append(
            f"| {shares[0]:.0%} to {shares[1]:.0%} | {fixed:,} | {once:.1%} | "
            f"{sequential:,} | {last:.1%} | {anytime:.1%} | {stop:.0%} of the units |"
        )
    lines += ["", "| arm | planned units | called harmful | median stop |", "|---|---|---|---|"]
    for shares in ((0.10, 0.09), (0.10, 0.08), (0.10, 0.05)):
        total = planned_for_harm(shares, 0.95)
        called, stop = harm(shares, total, runs)
        lines.append(
            f"| {shares[0]:.0%} falls to {shares[1]:.0%} | {total:,} | {called:.1%} | "
            f"{stop:.0%} of the units |"
        )
    lines += [
        f"| equal in two metrics | {2 * PER_ARM:,} | {harm_of_an_equal_arm(runs):.1%} | |",
        "",
        f"A guardrail is passed by an arm at exactly its margin in {passes_at_the_margin(runs):.1%}"
        " of runs (5 % allowed).",
        "",
        "| units that come, planned 50 : 50 | units | chi-square, once | at every look | "
        "sequential |",
        "|---|---|---|---|---|",
    ]
    for share in (0.5, 0.51, 0.52):
        for total in (10_000, 100_000):
            once, peeking, sequential = (f"{x:.1%}" for x in mismatches(share, total, runs))
            lines.append(
                f"| {share:.0%} : {1 - share:.0%} | {total:,} | {once} | {peeking} | {sequential} |"
            )
    return lines


def main() -> None:
    """Print the tables, and with `--save` write them to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=4000, help="simulated experiments a line")
    parser.add_argument("--save", action="store_true", help="write the tables to the results")
    given = parser.parse_args()
    lines = [f"# Claims of simulated A/B tests, {given.runs:,} a line", "", *tables(given.runs)]
    print("\n".join(lines))
    if given.save:
        path = RESULTS / f"ab-simulations-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.md"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
