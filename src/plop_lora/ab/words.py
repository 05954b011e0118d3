"""The sentences of an analysis: what each line found, why, and what would change it.

Computes nothing but what a sentence shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from plop_lora.records import MetricComparison
from plop_lora.records.analysis import FIXED, Design, MetricVerdict, Role


def ratio_reason(
    units: Mapping[str, int], expected: Mapping[str, float], p: float, sequential: float,
    *, design: Design, limit: float,
) -> str:  # fmt: skip
    """Say whether the numbers of units follow the split."""
    digits = 0 if sum(units.values()) >= 100 else 1
    seen = ", ".join(
        f"{arm} {count:,} of {expected[arm]:,.{digits}f}" for arm, count in units.items()
    )
    values = f"p = {p:.2g} for one look, {sequential:.2g} for any number of looks"
    head = f"Sample ratio: units seen, of those expected: {seen} ({values})."
    if (p if design is FIXED else sequential) < limit:
        return (
            f"{head} The numbers do not follow the split (p < {limit:g}), so the arms are not "
            "comparable and the result is void. Look for units that are lost, redirected or "
            "filtered in one arm, or logged twice."
        )
    if p < limit:
        return (
            f"{head} At a single look this would be a mismatch (p < {limit:g}). It happens by "
            "chance in about 1 of 100 experiments that are looked at often; nothing ships while "
            "it lasts."
        )
    return f"{head} The numbers follow the split."


def dropped_reason(crossed: int, units: int, burn_in: int, observations: int, hours: float) -> str:
    """Say what was left out."""
    share = crossed / units if units else 0.0
    crossing = f"{crossed:,} of {units:,} units ({share:.2%}) that were seen in two arms"
    burning = f"{burn_in:,} of {observations:,} observations from the burn-in of {hours:g} hours"
    warning = (
        " More than 1 % is a fault of the assignment or of the ids, and the units that are left "
        "may be a selection." if share > 0.01 else ""
    )  # fmt: skip
    return f"Left out: {crossing}, and {burning}.{warning}"


def explained(row: MetricComparison, *, fewest: int) -> MetricComparison:
    """Return a comparison with its reason in words.

    Args:
        row: Comparison with its verdict and numbers.
        fewest: Number of units of an arm below which nothing is said.
    """
    missing = f" {row.missing:,} units have no value." if row.missing else ""
    head = f"{row.arm}, {row.role} metric {row.metric}: {row.verdict}."
    return replace(row, reason=f"{head} {_numbers(row)}{_why(row, fewest)}.{missing}")


def _numbers(row: MetricComparison) -> str:
    if row.difference is None:
        return ""
    better = "higher" if row.higher_is_better else "lower"
    return (
        f"The difference from the control is {row.difference:+.4g} ({row.low:+.4g} to "
        f"{row.high:+.4g}, {better} is better; {row.units:,} units). "
    )


def _why(row: MetricComparison, fewest: int) -> str:
    if row.verdict is MetricVerdict.NOT_ENOUGH_DATA:
        return (
            f"Nothing is said before both arms have {fewest} units with values that differ from "
            "unit to unit"
        )
    return _WHY[row.verdict](row)


def void_ratio(row: MetricComparison) -> MetricComparison:
    """Return a comparison that the numbers of units have made void."""
    head = f"{row.arm}, {row.role} metric {row.metric}: {MetricVerdict.VOID}."
    reason = f"{head} {_numbers(row)}The sample ratio is void, so the numbers cannot be trusted."
    return replace(row, verdict=MetricVerdict.VOID, reason=reason)


def _void(row: MetricComparison) -> str:
    return (
        "More units of one arm have no value than chance allows, so the units that have one are "
        "a selection. Log a value for every unit, 0 where that is what it is"
    )


def _harm(row: MetricComparison) -> str:
    return f"The arm is worse by at least {-(row.best or 0.0):.3g}, by the bound of harm"


def _non_inferior(row: MetricComparison) -> str:
    return f"{_loss(row)}, which is less than the margin of {row.margin:.3g}"


def _undecided(row: MetricComparison) -> str:
    needed = "" if row.units_needed is None else (
        f"; about {row.units_needed:,} units in both arms would decide, if the difference is what "
        "it appears to be"
    )  # fmt: skip
    if row.role is Role.GUARDRAIL:
        return f"{_loss(row)}, and the margin is {row.margin:.3g}{needed}"
    return f"The interval holds 0; {_lower_first(_loss(row))}{needed}"


def _loss(row: MetricComparison) -> str:
    worst = row.worst or 0.0
    if worst >= 0:
        return f"A gain of {worst:.3g} at least is shown"
    return f"A loss of up to {-worst:.3g} is possible"


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:]


_WHY: dict[MetricVerdict, Callable[[MetricComparison], str]] = {
    MetricVerdict.BETTER: lambda row: "The interval lies on the better side of 0",
    MetricVerdict.WORSE: lambda row: "The interval lies on the worse side of 0",
    MetricVerdict.HARM: _harm,
    MetricVerdict.NON_INFERIOR: _non_inferior,
    MetricVerdict.UNDECIDED: _undecided,
    MetricVerdict.VOID: _void,
}
