"""What the further arms of the pairs say: about the constants, about triples, and about layers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from by_indicator import Spread, over_networks
from comparing import compared, told_of
from outcomes import PLOP, Outcome
from pages import table
from scipy import stats

TOP = 3
FEWEST = 5
"""Triples that a rank correlation needs."""
QUESTIONS = {
    ("plop-random-words", PLOP): "Do the task's own texts choose better than random words?",
    ("rank-of-weights", PLOP): "Does a rule that sees no data choose better?",
    ("lowest-sites", PLOP): "Do the weights of lowest NFN gain more than the types?",
    ("lowest-sites", "shuffled-layers"): "Do their layers matter, with as many of each type?",
    ("nfn-ranks", PLOP): "Do ranks by NFN gain more than even ones?",
}  # fmt: skip
"""(arm, the arm that it is compared with) → the question."""


def by_further(used: Sequence[Outcome]) -> list[str]:
    """Return the paragraphs and the table of the further arms, none where no pair has them."""
    having = [outcome for outcome in used if outcome.further]
    if not having:
        return []
    names = ", ".join(f"`{outcome.name}`" for outcome in having)
    text = (
        f"Further arms were trained on {len(having)} of {len(used)} pairs ({names}), at the same "
        "budget, rates and seeds."
    )
    return [text, triples_text(having), questions_table(having)]


def triples_text(having: Sequence[Outcome]) -> str:
    """Say how well the mean NFN of three types predicts the gain of their arm."""
    rhos = {}
    for outcome in having:
        triples = triples_of(outcome)
        if len(triples) >= FEWEST:
            rhos[outcome.name] = triple_correlation(outcome, triples)
    if not rhos:
        return f"No pair has {FEWEST} arms of three types."
    spread: Spread = over_networks(rhos, having, most=1.0)
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
