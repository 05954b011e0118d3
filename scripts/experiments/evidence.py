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
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from by_further import by_further
from by_indicator import by_indicator, rank_correlation
from comparing import Comparison, compared, told_of
from learned import learned_parts
from networks import described
from numpy.typing import NDArray
from outcomes import LOWEST, PLOP, RANDOM, RESULTS, TYPE, Outcome, collect, interval
from pages import put, table, turned
from power import errors_of, power_parts
from scipy import stats

from plop_lora.files import atomic_file
from plop_lora.study.findings import Findings, PairFinding, PooledFinding, StudiedNetwork

MARK = "<!-- evidence -->"
"""Below this line a page has what this script writes."""
DRAWS = 10_000
RULES = (
    PLOP, "plop-inverse", "attention", "mlp", "all-linear", "v-up-down", "v-o-down",
    "parameter-share",
)  # fmt: skip


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
    return rank_correlation(outcome, outcome.nfn)


def pooled(outcomes: Sequence[Outcome]) -> Pooled:
    """Pool the correlations of several pairs."""
    found = fmean(map(correlation, outcomes))
    low, high = network_interval(outcomes)
    return Pooled(
        found,
        None if low is None else max(-1.0, low),
        None if high is None else min(1.0, high),
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


def comparisons(outcome: Outcome) -> list[Comparison]:
    """Compare `plop` with every other rule of a pair; one with the same types is left out."""
    return compared(outcome, [(PLOP, rule) for rule in (*RULES[1:], *RANDOM)])


# --------------------------------------------------------------------------- tables


def tables(
    outcomes: Sequence[Outcome], incomplete: Mapping[str, str], results: Path = RESULTS
) -> str:
    """Return all tables in Markdown; the further indicators lie beside the results."""
    used = [outcome for outcome in outcomes if outcome.excluded is None]
    left_out = {outcome.name: outcome.excluded for outcome in outcomes if outcome.excluded}
    parts = [
        gains_table(used),
        *(f"`{name}` is left out: {why}." for name, why in left_out.items()),
    ]
    parts += [f"`{name}` is not complete: {why}." for name, why in incomplete.items()]
    if used:
        rules = [regret_table(used), *learned_parts(used, results), comparison_table(used)]
        parts.append(pooled_text(used))
        parts += headed("What a study of this size can find",
                        power_parts(used, [*map(correlation, used)]))  # fmt: skip
        parts += headed("Indicators", by_indicator(used, results))
        parts += headed("Rules", rules)
        parts += headed("Further arms", by_further(used, results))
        parts += headed("Costs", [cost_table(used)])
    if any(arm.general is not None for outcome in used for arm in outcome.arms.values()):
        parts += headed("General text", [general_table(used)])
    return "\n\n".join(parts) + "\n"


def headed(title: str, parts: Sequence[str]) -> list[str]:
    """Return the parts of a page under a heading, none where there are none."""
    return [f"### {title}", *parts] if parts else []


def gains_table(used: Sequence[Outcome]) -> str:
    """Return the gain of each type alone, the lowest NFN first."""
    rows = []
    for outcome in used:
        types = [
            f"{arm.removeprefix(TYPE)} {outcome.nfn[arm]:.2f}: {outcome.arms[arm].gain:.3f}"
            for arm in outcome.types()
        ]
        edges = sum(outcome.arms[arm].at_edge for arm in outcome.arms)
        error = errors_of(outcome).total(outcome.seeds)
        rows.append(
            (
                f"`{outcome.name}`",
                "; ".join(types),
                outcome.unit,
                f"{correlation(outcome):+.2f}",
                f"{error:.0%}" if error <= 1 else "above 100%",
                str(edges),
            )
        )
    head = (
        "pair", "type, NFN: gain", "unit of the gain", "rho",
        "error of a gain, of the variance between types", "best rates at an edge",
    )  # fmt: skip
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
    head = ("regret in the pair", *(f"`{outcome.name}`" for outcome in used), "mean")
    return turned(head, rows)


def comparison_table(used: Sequence[Outcome]) -> str:
    """Return how `plop` compares with every rule in every pair."""
    found = {outcome.name: {row.rule: row for row in comparisons(outcome)} for outcome in used}
    rows = [
        (f"`{rule}`", *(told_of(found[outcome.name].get(rule)) for outcome in used))
        for rule in (*RULES[1:], *RANDOM)
    ]
    head = ("`plop` minus", *(f"`{outcome.name}`" for outcome in used))
    return (
        "The gain of `plop` minus that of each other rule, in the unit of the pair's gain, with "
        f"95 % intervals:\n\n{turned(head, rows)}"
    )


def cost_table(used: Sequence[Outcome]) -> str:
    """Return what it costs to try every arm, and to train one."""
    rows = [
        (
            f"`{outcome.name}`",
            str(outcome.spent.trials),
            f"{outcome.spent.hours:.1f}",
            f"{outcome.spent.one:.2f}",
            f"{1 - outcome.spent.one / outcome.spent.hours:.0%}",
            ", ".join(outcome.spent.devices),
        )
        for outcome in used
    ]
    head = ("pair", "trials", "hours in all", "hours of `plop` alone", "saved", "device")
    return (
        "What a search costs that a score alone does not: all trials of a pair, and those of the "
        "arm `plop` at its rates and seeds. Several trials shared a device, so that hours are "
        f"comparable within a pair alone.\n\n{table(head, rows)}"
    )


def general_table(used: Sequence[Outcome]) -> str:
    """Return the rise of the loss on general text, of the decoders."""
    decoders = [outcome for outcome in used if outcome.arms[PLOP].general is not None]
    rows = [
        (f"`{rule}`", *(f"{outcome.arms[rule].general:+.3f}" for outcome in decoders))
        for rule in RULES
    ]
    head = ("rise of the loss on general text", *(f"`{outcome.name}`" for outcome in decoders))
    return turned(head, rows)


def found_by(used: Sequence[Outcome]) -> Findings:
    """Return what a report shows of the study."""
    together = pooled(used)
    names = sorted({outcome.network for outcome in used})
    networks = tuple(StudiedNetwork(name, *described(name)) for name in names)
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
    return put(given.page, MARK, tables(outcomes, incomplete, given.results))


if __name__ == "__main__":
    raise SystemExit(main())
