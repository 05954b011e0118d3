"""Rows of a gate: its checks with their intervals, in a terminal and for a pull request.

Rendering only.
"""

from __future__ import annotations

from plop_lora.records import (
    CheckPlan,
    CheckResult,
    GatePlan,
    GateVerdict,
    GateWalk,
    Measured,
)
from plop_lora.records.gate import FAIL, NOT_ENOUGH_DATA, PASS, CheckPart
from plop_lora.reports.costs import ABSENT
from plop_lora.reports.markdown import table_markdown
from plop_lora.reports.rows import DIFFERENCE, INTERVAL, VERDICT, Column, Table, plural, short_name
from plop_lora.statistics import at_most

HEAD = "# plop gate"
"""The beginning of a verdict in Markdown."""
MOST_ITEMS = 3
"""The most items of a check that are named."""
_TITLES = {
    PASS: "may ship: every check passes",
    FAIL: "must not ship: a check fails",
    NOT_ENOUGH_DATA: "cannot be judged yet: not enough data",
}
_INTERVAL = Column("95 % interval")


def gate_table(record: GateVerdict) -> Table:
    """One row a check: base, adapter, their difference with its interval, limit and verdict."""
    rows = tuple(
        (
            check.check,
            check.metric,
            *_value_and_ends(check.base),
            *_value_and_ends(check.adapter),
            _signed(check.difference.value),
            _ends(check.difference, signed=True),
            _plain(check.limit),
            str(check.verdict),
        )
        for check in record.checks
    )
    columns = (
        Column("check"), Column("metric"), Column(_other(record), right=True), _INTERVAL,
        Column("adapter", right=True), _INTERVAL,
        Column(DIFFERENCE.name, right=True, starts=True), INTERVAL, Column("limit", right=True),
        VERDICT,
    )  # fmt: skip
    return Table(gate_title(record), columns, rows, tuple(gate_lines(record)))


def _other(record: GateVerdict) -> str:
    """Return what the adapter is compared with, in one word."""
    return "reference" if record.reference else "base"


def gate_title(record: GateVerdict) -> str:
    """Return in one line whether the adapter may ship."""
    against = f" against {short_name(record.reference)}" if record.reference else ""
    return (
        f"{short_name(record.adapter)} on {short_name(record.base)}{against} "
        f"{_TITLES[record.verdict]} ({record.task})"
    )


def gate_lines(record: GateVerdict) -> list[str]:
    """Return the sentences below the table: a few for every check."""
    lines = [line for check in record.checks for line in _lines(check, _other(record))]
    lines += [f"Note: {note.rstrip('.')}." for note in record.notes]
    return lines + ([f"Evidence: {record.evidence}"] if record.evidence else [])


def _lines(check: CheckResult, other: str) -> list[str]:
    better = "higher" if check.higher_is_better else "lower"
    independent = "" if check.groups == check.items else f", {check.groups:,} independent"
    floor = "" if check.noise_floor is None else f"; noise floor {check.noise_floor:.2g}"
    part = f" ({check.part})" if check.part else ""
    lines = [
        f"{check.check}{part}: adapter minus {other} on {plural(check.items, 'item')}{independent} "
        f"of {check.source}, {better} is better{floor}. {_reason(check)}"
    ]
    lines += _none_seen(check, other)
    lines += _parts(check)
    lines += [f"{check.check}: {note}." for note in check.notes]
    lines += _worst(check)
    if check.undecided:
        lines.append(
            f"{check.check}: {plural(check.undecided, 'item')} could not be judged and counted "
            "against a pass and against a fail."
        )
    if check.warning:
        lines.append(f"{check.check}: warning: {check.warning}.")
    if check.advice:
        lines.append(f"{check.check}: to do first, in this order: {'; '.join(check.advice)}.")
    return lines


def _none_seen(check: CheckResult, other: str) -> list[str]:
    """Say what a share of 0 still allows."""
    sides = [name for name, side in ((other, check.base), ("adapter", check.adapter))
             if side.value == 0]  # fmt: skip
    if not check.binary or not sides:
        return []
    most = at_most(check.items)
    return [
        f"{check.check}: {check.metric}: 0 of {check.items:,} ({' and '.join(sides)}), so that the "
        f"share may still be {most:.1%} (upper bound at 95 %)."
    ]


def _worst(check: CheckResult) -> list[str]:
    """Return a sentence on the few items that went worst."""
    found = [
        f"{item.name} ({_value(item.base)} → {_value(item.adapter)})"
        for item in check.worst_items[:MOST_ITEMS]
    ]
    return [f"{check.check}: the items that went worst: {', '.join(found)}."] if found else []


def _value(value: float | None) -> str:
    return "undecided" if value is None else f"{value:.4f}"


def _parts(check: CheckResult) -> list[str]:
    """Return a sentence for each part, and one for what chance alone brings about."""
    found = [_part(check, part) for part in check.parts]
    if check.chance is not None:
        found.append(
            f"{check.check}: if groups did not differ, chance would widen the gap by more than "
            f"{check.chance.exceeded:.4f} in 5 % of samples like this, and by as much as here with "
            f"p = {check.chance.p:.3f}."
        )
    return found


def _part(check: CheckResult, part: CheckPart) -> str:
    sides = f"{part.base.value:.4f} → {part.adapter.value:.4f}"
    ends = _ends(part.difference, signed=True)
    interval = "" if ends == ABSENT else f" ({ends})"
    p = "" if part.p is None else f", p of harm {part.p:.3f}"
    verdict = "" if part.verdict is None else f": {part.verdict}"
    needed = "" if part.items_needed is None else f", about {part.items_needed:,} items needed"
    items = "" if part.items == 1 else f", {plural(part.items, 'item')}"
    return (
        f"{check.check}: {part.name}{items}: {sides}, {_signed(part.difference.value)}{interval}{p}"
        f"{verdict}{needed}."
    )


def _reason(check: CheckResult) -> str:
    """Return in a sentence why the verdict is what it is."""
    if check.reason:
        return f"Not enough data: {check.reason}."
    if check.bound_low is None or check.bound_high is None:
        return "Not enough data: one independent item has no interval."
    side = "above" if check.higher_is_better else "below"
    other = "below" if check.higher_is_better else "above"
    low, high = check.bound_low, check.bound_high
    near, far = (low, high) if check.higher_is_better else (high, low)
    if check.verdict is PASS:
        return f"Pass: with {check.level:.0%} confidence it lies {side} {_signed(near)}."
    if check.verdict is FAIL:
        return f"Fail: with {check.level:.0%} confidence it lies {other} {_signed(far)}."
    needed = check.items_needed
    if needed is None:
        return (
            "Not enough data: no number of items would decide, because the difference does not "
            f"stand out from the limit {_plain(check.limit)} by more than the noise."
        )
    return f"Not enough data: about {needed:,} items would decide at this difference."


def _signed(value: float) -> str:
    """Return a difference with four digits; what rounds to nothing has no sign.

    >>> _signed(0.5), _signed(-1e-9)
    ('+0.5000', '0.0000')
    """
    text = f"{value:+.4f}"
    return text if float(text) else "0.0000"


def _plain(value: float) -> str:
    return f"{value:+g}" if value else "0"


def _ends(measured: Measured, *, signed: bool = False) -> str:
    if measured.low is None or measured.high is None:
        return ABSENT
    if signed:
        return f"{_signed(measured.low)} to {_signed(measured.high)}"
    return f"{measured.low:.4f} to {measured.high:.4f}"


def _value_and_ends(measured: Measured) -> tuple[str, str]:
    return f"{measured.value:.4f}", _ends(measured)


def gate_walk_table(walk: GateWalk) -> Table:
    """One row a checkpoint that was gated: its verdict, and the checks that did not pass."""
    rows = tuple(
        (f"{one.step:,}", str(one.verdict.verdict), _not_passed(one.verdict)) for one in walk.gated
    )
    columns = (Column("step", right=True), VERDICT, Column("not passed"))
    left = walk.checkpoints - len(walk.gated)
    lines = [f"{plural(left, 'earlier checkpoint')} not gated."] if left else []
    if walk.passing is not None:
        lines += [f"Ship: {walk.passing.verdict.adapter}"]
        lines += gate_lines(walk.passing.verdict)
    else:
        lines += gate_lines(walk.gated[0].verdict)
    found = "no checkpoint may ship"
    if walk.passing is not None:
        found = f"the checkpoint of step {walk.passing.step:,} may ship"
    return Table(f"{short_name(walk.folder)}: {found}", columns, rows, tuple(lines))


def _not_passed(verdict: GateVerdict) -> str:
    return ", ".join(
        f"{check.check} ({check.verdict})" for check in verdict.checks if check.verdict is not PASS
    )


# --------------------------------------------------------------------------- the plan


def gate_plan_table(plan: GatePlan) -> Table:
    """One row a check: its items, the spread that is assumed, and what they could decide."""
    rows = tuple(
        (
            check.check, check.metric, _plain(check.limit), f"{check.items:,}",
            f"{check.groups:,}", f"{check.spread:g}", f"{check.detectable:.2g}",
            f"{check.items_needed:,}", _decides(check),
        )
        for check in plan.checks
    )  # fmt: skip
    columns = (
        Column("check"), Column("metric"), Column("limit", right=True),
        Column("items", right=True), Column("independent", right=True),
        Column("assumed spread", right=True, starts=True),
        Column("decides beyond", right=True), Column("items needed", right=True),
        Column("enough"),
    )  # fmt: skip
    lines = [
        "Assumed spread: the standard deviation of the difference over items. With these items a "
        f"check is decided {plan.power:.0%} of the time where the difference lies that far beyond "
        "the limit.",
    ]
    against = f" against {short_name(plan.reference)}" if plan.reference else ""
    lines += [_needed(check) for check in plan.checks]
    lines += [f"Note: {note.rstrip('.')}." for note in plan.notes]
    title = (
        f"Plan of a gate for {short_name(plan.adapter)} on {short_name(plan.base)}{against}, "
        f"{plan.task}; nothing was run"
    )
    return Table(title, columns, rows, tuple(lines))


def _decides(check: CheckPlan) -> str:
    if not check.can_pass:
        return "cannot pass"
    return "yes" if check.items >= check.items_needed else "no"


def _needed(check: CheckPlan) -> str:
    at = f"a true difference of {_plain(check.assumed)} needs about {check.items_needed:,} items"
    if check.can_pass:
        return f"{check.check}: {at}."
    return (
        f"{check.check}: no outcome on {plural(check.items, 'item')} passes the limit "
        f"{_plain(check.limit)}; {at}."
    )


# --------------------------------------------------------------------------- Markdown


def gate_markdown(record: GateVerdict | GateWalk) -> str:
    """Return a verdict, or those on checkpoints, in Markdown, as for a pull request."""
    table = gate_walk_table(record) if isinstance(record, GateWalk) else gate_table(record)
    return table_markdown(table, f"{HEAD}: ")
