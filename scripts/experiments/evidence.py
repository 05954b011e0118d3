"""From the records of the study to its tables: gains, correlations with the score, regrets.

    python scripts/experiments/evidence.py [--results DIR] [--page FILE] [--data FILE]

With a page, everything below its mark is replaced by the tables; with a data file, what reports
show of the study is written there (`plop_lora.study.findings`). What is computed, and why, stands
in docs/study-protocol.md. Only pairs whose trials are complete take part; the others are named.
Reads records alone, so that anyone can repeat it in seconds.

Shape letters: S seeds, I items (report rows).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
from networks import NETWORKS
from numpy.typing import NDArray
from scipy import stats

from plop_lora.files import atomic_file
from plop_lora.records import TrialResult
from plop_lora.statistics import holm, paired_interval
from plop_lora.study.findings import Findings, PairFinding, PooledFinding, StudiedNetwork

Floats = NDArray[np.float64]

MARK = "<!-- evidence -->"
"""Below this line a page has what this script writes."""
RESULTS = Path(__file__).resolve().parent / "results"
UNTRAINED, TYPE, PLOP = "untrained", "type-", "plop"
SEEDS, MOST_SEEDS = 3, 8
"""Seeds that every arm has at least, and at most."""
APART = 1 / 3
"""Of the difference between the best and the median type: its interval shall be shorter."""
LEAST_GAIN = 0.05
"""Nats; a pair in which no arm gains more is left out."""
TIE = 0.02
"""Share of the better gain below which two arms tie whatever the interval says."""
DRAWS = 10_000
RULES = (
    PLOP, "plop-inverse", "attention", "mlp", "all-linear", "v-up-down", "v-o-down",
    "parameter-share",
)  # fmt: skip
RANDOM = ("random-1", "random-2", "random-3")
LOWEST = "lowest type alone"


@dataclass(frozen=True, eq=False)
class Arm:
    """What an arm reached at its own rate.

    `gains_SI` is the fall of the loss of every report row, for every seed; `general` the mean rise
    of the loss on general text, None for a classifier.
    """

    rate: float
    at_edge: bool
    gains_SI: Floats
    general: float | None

    @property
    def gain(self) -> float:
        """Mean over seeds and rows."""
        return float(self.gains_SI.mean())


@dataclass(frozen=True, eq=False)
class Outcome:
    """A pair whose trials are complete."""

    name: str
    network: str
    nfn: Mapping[str, float]
    arms: Mapping[str, Arm]
    excluded: str | None

    @property
    def seeds(self) -> int:
        """Seeds of every arm."""
        return len(next(iter(self.arms.values())).gains_SI)

    def types(self) -> list[str]:
        """Return the arms of one type, the lowest NFN first."""
        return sorted((arm for arm in self.arms if arm in self.nfn), key=self.nfn.__getitem__)

    def best_type(self) -> float:
        """Return the gain of the best type alone."""
        return max(self.arms[arm].gain for arm in self.types())

    def gain(self, rule: str) -> float:
        """Return the gain of a rule's arm, for `random` the mean of its draws."""
        if rule == "random":
            return fmean(self.arms[arm].gain for arm in RANDOM)
        return self.arms[self.types()[0] if rule == LOWEST else rule].gain

    def regret(self, rule: str) -> float:
        """Return what a rule leaves of the best type's gain, as a share of it."""
        return 1 - self.gain(rule) / self.best_type()


# --------------------------------------------------------------------------- reading


def read(folder: Path) -> Outcome | str:
    """Return a pair, or why it is not complete."""
    described = json.loads((folder / "pair.json").read_text(encoding="utf-8"))
    records = [TrialResult.load(path) for path in sorted(folder.glob("*.r*.s*.json"))]
    before = [record for record in records if record.arm == UNTRAINED]
    if not before:
        return "the untrained network was not judged"
    made = {arm: arm_of(arm, records, before[0]) for arm in described["arms"]}
    missing = [arm for arm, found in made.items() if found is None]
    if missing:
        return f"trials are missing of {len(missing)} of {len(made)} arms"
    seeds = min(len(found.gains_SI) for found in made.values() if found is not None)
    arms = {
        arm: replace(found, gains_SI=found.gains_SI[:seeds])
        for arm, found in made.items()
        if found is not None
    }
    arms |= {alias: arms[other] for alias, other in described["aliases"].items()}
    nfn = {TYPE + name.replace(".", "-"): value for name, value in described["nfn"].items()}
    outcome = Outcome(described["name"], described["network"], nfn, arms, None)
    return replace(outcome, excluded=exclusion(outcome))


def arm_of(arm: str, records: Sequence[TrialResult], before: TrialResult) -> Arm | None:
    """Return an arm at its own rate, None where it has not all of its seeds there."""
    own = [record for record in records if record.arm == arm]
    ladder = {record.learning_rate: selected(record) for record in own if record.seed == 0}
    if not ladder:
        return None
    rate = min(ladder, key=ladder.__getitem__)
    trials = [record for record in own if record.learning_rate == rate]
    if len(trials) < SEEDS:
        return None
    rows = [
        report(before) - (report(record) if record.done else math.inf)
        for record in sorted(trials, key=lambda record: record.seed)
    ]
    return Arm(rate, rate in (min(ladder), max(ladder)), np.stack(rows), rise(trials, before))


def selected(record: TrialResult) -> float:
    """Return the mean loss on the selection rows, infinite for a trial that diverged."""
    items = record.items.get("loss", ())
    return fmean(items[: len(items) // 2]) if record.done and items else math.inf


def report(record: TrialResult) -> Floats:
    """Return the loss of each report row."""
    items = record.items["loss"]
    return np.array(items[len(items) // 2 :])


def rise(trials: Sequence[TrialResult], before: TrialResult) -> float | None:
    """Return the mean rise of the loss on general text."""
    start = before.metrics.get("general-loss")
    if start is None:
        return None
    return fmean(record.metrics["general-loss"] for record in trials if record.done) - start


def exclusion(outcome: Outcome) -> str | None:
    """Say why a pair can tell nothing, None where it can."""
    if max(arm.gain for arm in outcome.arms.values()) <= LEAST_GAIN:
        return f"no arm gains more than {LEAST_GAIN} nats"
    ordered = sorted(outcome.types(), key=lambda arm: outcome.arms[arm].gain)
    difference_SI = outcome.arms[ordered[-1]].gains_SI - outcome.arms[ordered[0]].gains_SI
    error_of_seeds = float(difference_SI.mean(axis=1).std(ddof=1)) / math.sqrt(outcome.seeds)
    error_of_rows = float(stats.sem(difference_SI.mean(axis=0)))
    if difference_SI.mean() < math.hypot(error_of_seeds, error_of_rows):
        return "the best and the worst type cannot be told apart"
    return None


def seeds_wanted(folder: Path) -> int:
    """Return how many seeds every arm of a pair should have by the records that are there.

    One more at a time, until the 95 % interval of the difference between the best and the median
    type is shorter than a third of that difference, or there are `MOST_SEEDS`.
    """
    outcome = read(folder)
    if isinstance(outcome, str):
        return SEEDS
    types = sorted(outcome.types(), key=lambda arm: -outcome.arms[arm].gain)
    best, median = types[0], types[len(types) // 2]
    found = paired_interval(outcome.arms[best].gains_SI - outcome.arms[median].gains_SI)
    apart = found.high - found.low < APART * found.value
    return outcome.seeds if apart else min(outcome.seeds + 1, MOST_SEEDS)


# --------------------------------------------------------------------------- question 1


@dataclass(frozen=True)
class Pooled:
    """Mean correlation over pairs; its interval has networks as clusters.

    `p` permutes the types within pairs, `p_networks` in the same way for all pairs of a network.
    """

    rho: float
    low: float | None
    high: float | None
    p: float
    p_networks: float


def correlation(outcome: Outcome) -> float:
    """Return Spearman's rho of NFN and gain over the types of a pair, 0 where one is constant."""
    types = outcome.types()
    nfn, gains = [outcome.nfn[arm] for arm in types], [outcome.arms[arm].gain for arm in types]
    if len(types) < 3 or len(set(nfn)) < 2 or len(set(gains)) < 2:
        return 0.0
    return float(stats.spearmanr(nfn, gains).statistic)


def pooled(outcomes: Sequence[Outcome]) -> Pooled:
    """Pool the correlations of several pairs."""
    found = fmean(map(correlation, outcomes))
    low, high = network_interval(outcomes)
    return Pooled(
        found, low, high,
        permuted(outcomes, found, key=lambda outcome: outcome.name),
        permuted(outcomes, found, key=lambda outcome: outcome.network),
    )  # fmt: skip


def network_interval(outcomes: Sequence[Outcome]) -> tuple[float | None, float | None]:
    """Return the interval of the mean correlation, with networks as clusters."""
    networks = sorted({outcome.network for outcome in outcomes})
    means = [
        fmean(correlation(outcome) for outcome in outcomes if outcome.network == network)
        for network in networks
    ]
    return interval(means)


def interval(means: Sequence[float]) -> tuple[float | None, float | None]:
    """Return Student's 95 % interval of the mean of the networks' means, cut to −1 and 1."""
    if len(means) < 2:
        return None, None
    half = float(stats.t.ppf(0.975, len(means) - 1) * stats.sem(means))
    return max(-1.0, fmean(means) - half), min(1.0, fmean(means) + half)


def permuted(outcomes: Sequence[Outcome], found: float, key: Callable[[Outcome], str]) -> float:
    """Return the two-sided p of a mean correlation when the types' labels mean nothing.

    Args:
        outcomes: the pairs.
        found: their mean correlation.
        key: pairs with the same key get the same permutation.
    """
    rng = np.random.default_rng(0)
    ranks = [
        (
            stats.rankdata([outcome.nfn[arm] for arm in sorted(outcome.types())]),
            stats.rankdata([outcome.arms[arm].gain for arm in sorted(outcome.types())]),
        )
        for outcome in outcomes
    ]
    reached = 0
    for _ in range(DRAWS):
        orders: dict[str, NDArray[np.int64]] = {}
        rhos = []
        for outcome, (score, gain) in zip(outcomes, ranks, strict=True):
            order = orders.setdefault(key(outcome), rng.permutation(len(score)))
            rhos.append(float(np.corrcoef(score[order], gain)[0, 1]))
        reached += abs(fmean(rhos)) >= abs(found) - 1e-12
    return (1 + reached) / (1 + DRAWS)


# --------------------------------------------------------------------------- question 2


@dataclass(frozen=True)
class Comparison:
    """Gain of `plop` minus that of a rule, with its 95 % interval; p is after Holm."""

    rule: str
    difference: float
    low: float
    high: float
    p: float
    verdict: str


def comparisons(outcome: Outcome) -> list[Comparison]:
    """Compare `plop` with every other rule of a pair; one with the same types is left out."""
    own = outcome.arms[PLOP]
    rivals = [rule for rule in (*RULES[1:], *RANDOM) if outcome.arms[rule] is not own]
    found = [paired_interval(own.gains_SI - outcome.arms[rule].gains_SI) for rule in rivals]
    adjusted = holm([each.p for each in found])
    rows = []
    for rule, each, p in zip(rivals, found, adjusted, strict=True):
        small = abs(each.value) < TIE * max(own.gain, outcome.arms[rule].gain)
        tie = small or p >= 0.05
        verdict = "tie" if tie else "better" if each.value > 0 else "worse"
        rows.append(Comparison(rule, each.value, each.low, each.high, p, verdict))
    return rows


# --------------------------------------------------------------------------- tables


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def tables(outcomes: Sequence[Outcome], incomplete: Mapping[str, str]) -> str:
    """Return all tables in Markdown."""
    used = [outcome for outcome in outcomes if outcome.excluded is None]
    left_out = {outcome.name: outcome.excluded for outcome in outcomes if outcome.excluded}
    parts = [
        gains_table(used),
        *(f"`{name}` is left out: {why}." for name, why in left_out.items()),
    ]
    parts += [f"`{name}` is not complete: {why}." for name, why in incomplete.items()]
    if used:
        parts += [pooled_text(used), regret_table(used), comparison_table(used)]
    if any(arm.general is not None for outcome in used for arm in outcome.arms.values()):
        parts.append(general_table(used))
    return "\n\n".join(parts) + "\n"


def gains_table(used: Sequence[Outcome]) -> str:
    """Return the gain of each type alone, the lowest NFN first."""
    rows = []
    for outcome in used:
        types = [
            f"{arm.removeprefix(TYPE)} {outcome.nfn[arm]:.2f}: {outcome.arms[arm].gain:.3f}"
            for arm in outcome.types()
        ]
        edges = sum(outcome.arms[arm].at_edge for arm in outcome.arms)
        rows.append(
            (f"`{outcome.name}`", "; ".join(types), f"{correlation(outcome):+.2f}", str(edges))
        )
    head = ("pair", "type, NFN: gain in nats", "rho", "best rates at an edge")
    return table(head, rows)


def pooled_text(used: Sequence[Outcome]) -> str:
    """Say what the pooled correlation is, and how little so few pairs can tell."""
    found = pooled(used)
    networks = len({outcome.network for outcome in used})
    bounds = "" if found.low is None else f" (95 % interval {found.low:+.2f} to {found.high:+.2f})"
    text = (
        f"Mean rho over {len(used)} pairs of {networks} networks: {found.rho:+.2f}{bounds}; "
        f"p = {found.p:.3f} when types are permuted within pairs, {found.p_networks:.3f} when all "
        "pairs of a network are permuted alike. Below 0 the score predicts the gain."
    )
    if len(used) < 10:
        text += " With fewer than ten pairs a true rho of −0.5 is missed by one study in five."
    return text


def regret_table(used: Sequence[Outcome]) -> str:
    """Return what each rule leaves of the best type's gain, the mean over pairs last."""
    rules = (*RULES, "random", LOWEST)
    means = {rule: fmean(outcome.regret(rule) for outcome in used) for rule in rules}
    rows = [
        (
            f"`{rule}`" if rule != LOWEST else rule,
            *(f"{outcome.regret(rule):.1%}" for outcome in used),
            f"{means[rule]:.1%}",
        )
        for rule in sorted(rules, key=means.__getitem__)
    ]
    return table(("regret of", *(f"`{outcome.name}`" for outcome in used), "mean"), rows)


def comparison_table(used: Sequence[Outcome]) -> str:
    """Return how `plop` compares with every rule in every pair."""
    found = {outcome.name: {row.rule: row for row in comparisons(outcome)} for outcome in used}
    rows = []
    for rule in (*RULES[1:], *RANDOM):
        cells = []
        for outcome in used:
            row = found[outcome.name].get(rule)
            cells.append(
                "same types"
                if row is None
                else f"{row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f}), {row.verdict}"
            )
        rows.append((f"`{rule}`", *cells))
    head = ("`plop` minus", *(f"`{outcome.name}`" for outcome in used))
    return table(head, rows)


def general_table(used: Sequence[Outcome]) -> str:
    """Return the rise of the loss on general text, of the decoders."""
    decoders = [outcome for outcome in used if outcome.arms[PLOP].general is not None]
    rows = [
        (f"`{rule}`", *(f"{outcome.arms[rule].general:+.3f}" for outcome in decoders))
        for rule in RULES
    ]
    return table(("general text", *(f"`{outcome.name}`" for outcome in decoders)), rows)


def found_by(used: Sequence[Outcome]) -> Findings:
    """Return what a report shows of the study."""
    together = pooled(used)
    names = sorted({outcome.network for outcome in used})
    networks = tuple(
        StudiedNetwork(name, NETWORKS[name].title, NETWORKS[name].model, NETWORKS[name].parameters)
        for name in names
    )
    pairs = tuple(
        PairFinding(
            name=outcome.name,
            network=outcome.network,
            seeds=outcome.seeds,
            correlation=round(correlation(outcome), _DIGITS),
            regrets={rule: round(outcome.regret(rule), _DIGITS) for rule in (*RULES, "random")},
        )
        for outcome in used
    )
    low, high = (
        None if end is None else round(end, _DIGITS) for end in (together.low, together.high)
    )
    both = PooledFinding(round(together.rho, _DIGITS), low, high, round(together.p_networks, 4))
    return Findings(networks, pairs, both)


_DIGITS = 6
"""More than a report shows, and fewer than those in which platforms differ."""


def data_text(used: Sequence[Outcome]) -> str:
    """Return the file of the package as text."""
    return json.dumps(asdict(found_by(used)), indent=1) + "\n"


def collect(results: Path) -> tuple[list[Outcome], dict[str, str]]:
    """Return the complete pairs of a folder, and why the others are not."""
    outcomes, incomplete = [], {}
    for path in sorted(results.glob("*/pair.json")):
        found = read(path.parent)
        if isinstance(found, str):
            incomplete[path.parent.name] = found
        else:
            outcomes.append(found)
    return outcomes, incomplete


def main() -> int:
    """Print the tables, or write them; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    outcomes, incomplete = collect(given.results)
    if not outcomes:
        print(f"Error: {given.results} has no complete pair. Run: make evidence-run PAIR=NAME",
              file=sys.stderr)  # fmt: skip
        return 1
    if given.data is not None:
        used = [outcome for outcome in outcomes if outcome.excluded is None]
        if not used:
            print(f"Error: no pair of {given.results} can tell anything.", file=sys.stderr)
            return 1
        with atomic_file(given.data) as file:
            file.write(data_text(used))
    text = tables(outcomes, incomplete)
    if given.page is None:
        print(text, end="")
        return 0
    page = given.page.read_text(encoding="utf-8") if given.page.is_file() else ""
    before, mark, _ = page.partition(MARK)
    if not mark:
        print(f"Error: {given.page} is no page with the line {MARK}.", file=sys.stderr)
        return 1
    with atomic_file(given.page) as file:
        file.write(f"{before}{MARK}\n\n{text}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
