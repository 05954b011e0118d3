"""The gain of one arm minus that of another on the same report rows and seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from outcomes import Outcome

from plop_lora.statistics import holm, paired_interval

TIE = 0.02
"""Share of the better gain below which two arms tie whatever the interval says."""
SURE = 0.05


@dataclass(frozen=True)
class Comparison:
    """Gain of the arm `own` minus that of `rule`, with its 95 % interval; p is after Holm."""

    own: str
    rule: str
    difference: float
    low: float
    high: float
    p: float
    verdict: str


def compared(outcome: Outcome, arms: Iterable[tuple[str, str]]) -> list[Comparison]:
    """Compare pairs of arms by name, with Holm's correction over them.

    Two that are one arm are left out.
    """
    chosen = [(own, rule) for own, rule in arms if outcome.arms[own] is not outcome.arms[rule]]
    found = []
    for names in chosen:
        own, rule = (outcome.arms[name].gains_SI for name in names)
        seeds = min(len(own), len(rule))
        found.append(paired_interval(own[:seeds] - rule[:seeds]))
    adjusted = holm([each.p for each in found])
    rows = []
    for (own, rule), each, p in zip(chosen, found, adjusted, strict=True):
        small = abs(each.value) < TIE * max(outcome.arms[own].gain, outcome.arms[rule].gain)
        tie = small or p >= SURE
        verdict = "tie" if tie else "better" if each.value > 0 else "worse"
        rows.append(Comparison(own, rule, each.value, each.low, each.high, p, verdict))
    return rows


def told_of(row: Comparison | None) -> str:
    """Return the cell of a table; there is no comparison of an arm with itself."""
    if row is None:
        return "same types"
    return f"{row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f}), {row.verdict}"
