"""Rows of a learned model: its cross-validated regret beside that of other rules."""

from __future__ import annotations

from plop_lora.placement.learned.advice import worth
from plop_lora.records import LearnedModel
from plop_lora.reports.rows import INTERVAL, Column, Table, plural

ABSTAINS = (
    "It abstains: on every model it leaves the default placement as it is, because its gain is not "
    "surely above 0."
)
SPEAKS = "It does not abstain: its gain over the default placement is surely above 0."


def learned_table(model: LearnedModel) -> Table:
    """One row a rule, the lowest regret first, and what the model is made of."""
    rows = tuple(
        (
            rule.rule,
            f"{rule.mean:.1%}",
            "" if rule.low is None or rule.high is None else f"{rule.low:.1%} to {rule.high:.1%}",
            str(rule.pairs),
        )
        for rule in model.rules
    )
    weights = ", ".join(
        f"{name} {value:+.3f}"
        for name, value in zip(model.features, model.coefficients, strict=True)
    )
    chosen = "; ".join(f"{row.pair}: {row.chosen}" for row in model.left_out)
    lines = [
        ABSTAINS if model.abstains else SPEAKS,
        f"Worth: {worth(model)}.",
        f"Regret: what a rule leaves of the gain of the best module type, as a share of it, with a "
        f"95 % interval over {plural(model.networks, 'network')}. That of learned is "
        "cross-validated: it was fitted without the network.",
        *([f"Chosen there: {chosen}."] if chosen else []),
        f"Coefficients: {weights}; penalty {model.penalty:g}.",
        f"History: {', '.join(pair.name for pair in model.history)}.",
        *(f"Note: {note}." for note in model.notes),
    ]
    columns = (
        Column("rule"), Column("regret", right=True), INTERVAL, Column("pairs", right=True)
    )  # fmt: skip
    title = f"Learned placement from {plural(len(model.history), 'pair')}"
    return Table(title, columns, rows, tuple(lines))
