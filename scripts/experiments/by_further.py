"""What the further arms of the pairs say: about the constants, about triples, and about layers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from by_indicator import FILE as INDICATORS
from by_indicator import (
    TRIALS_NFN,
    Spread,
    gain_correlation,
    order_of,
    over_networks,
    preferences,
)
from comparing import Comparison, compared, told_of
from outcomes import PLOP, Outcome
from pages import table

TOP = 3
LAYER = "layer-"
"""Begins the name of an arm that adapts one block."""
FEWEST_TRIPLES = 5
"""Arms of three types that a rank correlation needs."""
QUESTIONS = {
    ("plop-random-words", PLOP): "Do the task's own texts choose better than random words?",
    ("rank-of-weights", PLOP): "Does a rule that sees no data choose better?",
    ("lowest-sites", PLOP): "Do the weights of lowest NFN gain more than the types?",
    ("lowest-sites", "shuffled-layers"): "Do their layers matter, with as many of each type?",
    ("nfn-ranks", PLOP): "Do ranks by NFN gain more than even ones?",
}
"""(arm, the arm that it is compared with) → the question."""


def by_further(used: Sequence[Outcome], results: Path) -> list[str]:
    """Return the paragraphs and the tables of the further arms, none where no pair has them."""
    having = [outcome for outcome in used if outcome.further]
    if not having:
        return []
    names = ", ".join(f"`{outcome.name}`" for outcome in having)
    text = (
        f"Further arms were trained on {len(having)} of {len(used)} pairs ({names}), at the same "
        "budget, rates and seeds."
    )
    return [text, *by_triple(having, results), *by_question(having), *by_layer(having, results)]


# --------------------------------------------------------------------------- triples


@dataclass(frozen=True)
class Triples:
    """The arms of three types of the pairs that have enough of them, and what indicators say.

    `arms` has them by pair; `means` has, by indicator and pair, the mean preference for their
    types.
    """

    shown: Sequence[Outcome]
    arms: Mapping[str, Sequence[str]]
    means: Mapping[str, Mapping[str, Mapping[str, float]]]

    def correlations(self, indicator: str) -> Spread:
        """Return Spearman's rho of an indicator's mean and the gain, over pairs and networks."""
        return over_networks(self.by_pair(indicator), self.shown, most=1.0)

    def by_pair(self, indicator: str) -> dict[str, float]:
        """Return rho by pair; one that has no value of the indicator is left out."""
        return {
            outcome.name: gain_correlation(outcome, wanted)
            for outcome, wanted in self._measured(indicator)
        }

    def regrets(self, indicator: str) -> Spread:
        """Return what the triple that an indicator puts first leaves of the best one's gain."""
        found = {
            outcome.name: triple_regret(outcome, order_of(wanted)[0], self.arms[outcome.name])
            for outcome, wanted in self._measured(indicator)
        }
        return over_networks(found, self.shown)

    def regret_at_random(self) -> Spread:
        """Return what a triple by lot leaves of it."""
        found = {}
        for outcome in self.shown:
            arms = self.arms[outcome.name]
            found[outcome.name] = fmean(triple_regret(outcome, arm, arms) for arm in arms)
        return over_networks(found, self.shown)

    def _measured(self, indicator: str) -> list[tuple[Outcome, Mapping[str, float]]]:
        means = self.means[indicator]
        return [(pair, means[pair.name]) for pair in self.shown if pair.name in means]


def triples_among(having: Sequence[Outcome], results: Path) -> Triples:
    """Return the triples of the pairs that have at least `FEWEST_TRIPLES` of them."""
    arms = {outcome.name: triples_of(outcome) for outcome in having}
    shown = [outcome for outcome in having if len(arms[outcome.name]) >= FEWEST_TRIPLES]
    known = {outcome.name: preferences(outcome, results) for outcome in shown}
    names = dict.fromkeys(name for found in known.values() for name in found)
    means = {
        name: {
            outcome.name: mean_preference(outcome, arms[outcome.name], of)
            for outcome in shown
            if (of := known[outcome.name].get(name)) is not None
        }
        for name in names
    }
    return Triples(shown, {outcome.name: arms[outcome.name] for outcome in shown}, means)


def by_triple(having: Sequence[Outcome], results: Path) -> list[str]:
    """Return how well each indicator orders the triples of types, by its mean over their types."""
    found = triples_among(having, results)
    if not found.shown:
        return [f"No pair has {FEWEST_TRIPLES} arms of three types."]
    rows = []
    for name in sorted(found.means, key=lambda name: -found.correlations(name).mean):
        rhos = found.by_pair(name).values()
        rows.append(
            (
                f"`{name}`" if name != TRIALS_NFN else name,
                found.correlations(name).text("+.2f"),
                f"{sum(rho > 0 for rho in rhos)} of {len(rhos)}",
                found.regrets(name).text(".1%"),
            )
        )
    rows.append(("a triple at random", "", "", found.regret_at_random().text(".1%")))
    counts = sorted(map(len, found.arms.values()))
    text = (
        f"Three types at a time, on the {len(counts)} pairs that have at least {FEWEST_TRIPLES} "
        f"arms of three types ({counts[0]} to {counts[-1]} of them): Spearman's rho between the "
        "mean of an indicator over the types of an arm and the gain of the arm, above 0 where the "
        "triples that it puts first gain more, and what the triple that it puts first leaves of "
        "the gain of the best triple."
    )
    head = ("mean over three types of", "mean rho", "pairs with rho above 0", "regret of the first")
    return [text, table(head, rows)]


def triples_of(outcome: Outcome) -> list[str]:
    """Return one arm for each triple of types that was trained."""
    first: dict[frozenset[str], str] = {}
    for arm, types in sorted(outcome.members.items()):
        if len(types) == TOP:
            first.setdefault(types, arm)
    return sorted(first.values())


def mean_preference(
    outcome: Outcome, triples: Sequence[str], of: Mapping[str, float]
) -> dict[str, float]:
    """Return the mean preference of an indicator for the types of each arm."""
    return {arm: fmean(of[name] for name in outcome.members[arm]) for arm in triples}


def triple_regret(outcome: Outcome, arm: str, triples: Sequence[str]) -> float:
    """Return what an arm leaves of the gain of the best triple, as a share of it."""
    return 1 - outcome.arms[arm].gain / max(outcome.arms[other].gain for other in triples)


# --------------------------------------------------------------------------- questions


def by_question(having: Sequence[Outcome]) -> list[str]:
    """Return the answer to each question over the pairs, and the difference in gain by pair."""
    found = {
        outcome.name: {
            (row.own, row.rule): row
            for row in compared(outcome, [key for key in QUESTIONS if key[0] in outcome.further])
        }
        for outcome in having
    }
    rows = [
        (question, f"`{own}` minus `{rule}`", *answer((own, rule), having, found))
        for (own, rule), question in QUESTIONS.items()
    ]
    differences = [
        (
            f"`{outcome.name}`",
            *(told_of(found[outcome.name].get(key)) for key in QUESTIONS),
        )
        for outcome in having
    ]
    text = (
        "What they answer. The mean difference is a share of the best type's gain, with a 95 % "
        "interval over networks; two arms with the same types differ by 0 in it. Below it the same "
        "by pair, in the unit of its gain."
    )
    head = ("question", "gain of", "better", "tie", "worse", "same types", "mean difference")
    heads = ("pair", *(f"`{own}` minus `{rule}`" for own, rule in QUESTIONS))
    return [text, table(head, rows), table(heads, differences)]


def answer(
    key: tuple[str, str],
    having: Sequence[Outcome],
    found: Mapping[str, Mapping[tuple[str, str], Comparison]],
) -> tuple[str, ...]:
    """Return how many pairs are better, tie and worse, how many have one arm, and the mean."""
    rows = [found[outcome.name].get(key) for outcome in having]
    verdicts = Counter("same types" if row is None else row.verdict for row in rows)
    shares = {
        outcome.name: 0.0 if row is None else row.difference / outcome.best_type()
        for outcome, row in zip(having, rows, strict=True)
    }
    return (
        *(str(verdicts[word]) for word in ("better", "tie", "worse", "same types")),
        over_networks(shares, having).text("+.1%"),
    )


# --------------------------------------------------------------------------- layers


def by_layer(having: Sequence[Outcome], results: Path) -> list[str]:
    """Return the table of blocks alone, none where no pair has such arms."""
    known = {outcome.name: layers_of(outcome, results) for outcome in having}
    shown = [outcome for outcome in having if known[outcome.name]]
    if not shown:
        return []
    names = list(dict.fromkeys(name for values in known.values() for name in values))
    rhos = {
        name: {o.name: layer_correlation(o, known[o.name][name]) for o in shown} for name in names
    }
    rows = [
        (
            f"`{outcome.name}`",
            *(f"{rhos[name][outcome.name]:+.2f}" for name in names),
            "; ".join(f"{outcome.arms[arm].gain:.3f}" for arm in layer_arms(outcome)),
        )
        for outcome in shown
    ]
    means = (over_networks(rhos[name], shown, most=1.0).text("+.2f") for name in names)
    text = (
        "Every block alone: Spearman's rho between what is measured of a block and the gain of "
        "adapting all of its weights, above 0 where blocks with a higher value gain more. "
        "`similarity` is the linear CKA of a block's inputs and outputs, `change` how far it moves "
        "them, as a share of their norm. Six blocks give rough correlations. The gain of the first "
        "block stands first."
    )
    head = ("pair", *(f"`{name}`" for name in names), "gains of the blocks")
    return [text, table(head, [*rows, ("mean", *means, "")])]


def layer_arms(outcome: Outcome) -> list[str]:
    """Return the arms of one block each, the first block first."""
    arms = [arm for arm in outcome.further if arm.startswith(LAYER)]
    return sorted(arms, key=lambda arm: int(arm.removeprefix(LAYER)))


def layers_of(outcome: Outcome, results: Path) -> dict[str, dict[str, float]]:
    """Return what is measured of the blocks, by name; nothing where no block was an arm."""
    path = results / outcome.name / INDICATORS
    arms = layer_arms(outcome)
    if not arms or not path.is_file():
        return {}
    held = json.loads(path.read_text(encoding="utf-8")).get("layers", {})
    depth = {arm.removeprefix(LAYER): float(number) for number, arm in enumerate(arms)}
    return {"depth": depth, **held}


def layer_correlation(outcome: Outcome, values: Mapping[str, float]) -> float:
    """Return Spearman's rho of a measure and the gain of each block alone."""
    measured = {arm: values[arm.removeprefix(LAYER)] for arm in layer_arms(outcome)}
    return gain_correlation(outcome, measured)
