"""What the further arms of the pairs say: about the constants, about triples, and about layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from by_indicator import FILE as INDICATORS
from by_indicator import over_networks
from comparing import compared, told_of
from outcomes import PLOP, Outcome
from pages import table
from scipy import stats

TOP = 3
LAYER = "layer-"
"""Begins the name of an arm that adapts one block."""
FEWEST = 5
"""Triples that a rank correlation needs."""
QUESTIONS = {
    ("plop-random-words", PLOP): "Do the task's own texts choose better than random words?",
    ("rank-of-weights", PLOP): "Does a rule that sees no data choose better?",
    ("lowest-sites", PLOP): "Do the weights of lowest NFN gain more than the types?",
    ("lowest-sites", "shuffled-layers"): "Do their layers matter, with as many of each type?",
    ("nfn-ranks", PLOP): "Do ranks by NFN gain more than even ones?",
}
"""(arm, the arm that it is compared with) → the question."""


def by_further(used: Sequence[Outcome], results: Path) -> list[str]:
    """Return the paragraphs and the table of the further arms, none where no pair has them."""
    having = [outcome for outcome in used if outcome.further]
    if not having:
        return []
    names = ", ".join(f"`{outcome.name}`" for outcome in having)
    text = (
        f"Further arms were trained on {len(having)} of {len(used)} pairs ({names}), at the same "
        "budget, rates and seeds."
    )
    parts = [text, triples_text(having), questions_table(having)]
    return [*parts, *by_layer(having, results)]


def triples_text(having: Sequence[Outcome]) -> str:
    """Say how well the mean NFN of three types predicts the gain of their arm."""
    rhos = {}
    for outcome in having:
        triples = triples_of(outcome)
        if len(triples) >= FEWEST:
            rhos[outcome.name] = triple_correlation(outcome, triples)
    if not rhos:
        return f"No pair has {FEWEST} arms of three types."
    spread = over_networks(rhos, having, most=1.0)
    each = "; ".join(f"`{name}` {rho:+.2f}" for name, rho in rhos.items())
    return (
        "Over the arms of three types, Spearman's rho between the mean NFN of the types and the "
        f"gain, below 0 where the score predicts the gain: {each}; mean {spread.text('+.2f')}."
    )


def triples_of(outcome: Outcome) -> list[str]:
    """Return one arm for each triple of types that was trained."""
    first: dict[frozenset[str], str] = {}
    for arm, types in sorted(outcome.members.items()):
        if len(types) == TOP:
            first.setdefault(types, arm)
    return sorted(first.values())


def triple_correlation(outcome: Outcome, triples: Sequence[str]) -> float:
    """Return Spearman's rho of the mean NFN of the types of an arm and its gain."""
    nfn = [fmean(outcome.nfn[name] for name in outcome.members[arm]) for arm in triples]
    return float(stats.spearmanr(nfn, [outcome.arms[arm].gain for arm in triples]).statistic)


def questions_table(having: Sequence[Outcome]) -> str:
    """Return the difference in gain that answers each question, by pair."""
    found = {
        outcome.name: {
            (row.own, row.rule): row
            for row in compared(outcome, [key for key in QUESTIONS if key[0] in outcome.further])
        }
        for outcome in having
    }
    rows = [
        (
            question,
            f"`{own}` minus `{rule}`",
            *(told_of(found[outcome.name].get((own, rule))) for outcome in having),
        )
        for (own, rule), question in QUESTIONS.items()
    ]
    return table(("question", "gain of", *(f"`{outcome.name}`" for outcome in having)), rows)


# --------------------------------------------------------------------------- layers


def by_layer(having: Sequence[Outcome], results: Path) -> list[str]:
    """Return the table of blocks alone, none where no pair has such arms."""
    known = {outcome.name: layers_of(outcome, results) for outcome in having}
    shown = [outcome for outcome in having if known[outcome.name]]
    if not shown:
        return []
    names = list(dict.fromkeys(name for values in known.values() for name in values))
    rows = [
        (
            name,
            *(f"{rhos[outcome.name]:+.2f}" for outcome in shown),
            over_networks(rhos, shown, most=1.0).text("+.2f"),
        )
        for name in names
        if (rhos := {o.name: layer_correlation(o, known[o.name][name]) for o in shown})
    ]
    gains = ("gain of the blocks in nats, the first block first", *(
        "; ".join(f"{outcome.arms[arm].gain:.3f}" for arm in layer_arms(outcome))
        for outcome in shown
    ), "")  # fmt: skip
    text = (
        "Every block alone: Spearman's rho between what is measured of a block and the gain of "
        "adapting all of its weights, above 0 where blocks with a higher value gain more. "
        "`similarity` is the linear CKA of a block's inputs and outputs, `change` how far it moves "
        "them, as a share of their norm. Six blocks give rough correlations."
    )
    head = ("measured of a block", *(f"`{outcome.name}`" for outcome in shown), "mean rho")
    return [text, table(head, [*rows, gains])]


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
    arms = layer_arms(outcome)
    measured = [values[arm.removeprefix(LAYER)] for arm in arms]
    return float(stats.spearmanr(measured, [outcome.arms[arm].gain for arm in arms]).statistic)
