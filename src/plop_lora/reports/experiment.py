"""Rows of A/B tests: the design, the coverage over time, the analysis, and the plan.

Rendering only. The salt of an experiment is never shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from plop_lora.records import (
    Analysis,
    EventImport,
    Experiment,
    ExperimentArm,
    ExperimentPlan,
    ExperimentStatus,
    MetricComparison,
    Ramp,
)
from plop_lora.reports.costs import ABSENT
from plop_lora.reports.rows import DIFFERENCE, VERDICT, Column, Table, plural

_SHARE = Column("share", right=True)
_ARM = Column("arm")


def experiment_table(record: Experiment) -> Table:
    """One row an arm: its share, its adapter and its gate."""
    rows = tuple(
        (arm.name, f"{arm.weight:.1%}", arm.adapter or "base model", _gate(arm, record.control))
        for arm in record.arms
    )
    columns = (_ARM, _SHARE, Column("adapter"), Column("gate"))
    margins = {one.metric: one.margin for one in record.guardrails}
    lines = [_metric_line(record, name, margins) for name in (m.name for m in record.metrics)]
    lines.append(
        f"Randomised by {record.unit}, at the start {record.coverage:.1%} of them; "
        f"{record.planned_units:,} planned; burn-in {record.burn_in_hours:g} hours."
    )
    lines += [f"Note: {note.rstrip('.')}." for note in record.notes]
    return Table(f"Experiment {record.name}", columns, rows, tuple(lines))


def _gate(arm: ExperimentArm, control: str) -> str:
    if arm.name == control:
        return "control"
    verdict = "none" if arm.gate is None else str(arm.gate.verdict)
    return f"{verdict}; accepted: {arm.accepted}" if arm.accepted else verdict


def _metric_line(record: Experiment, name: str, margins: dict[str, float]) -> str:
    metric = record.metric(name)
    better = "higher" if metric.higher_is_better else "lower"
    role = "decides" if name == record.primary else "decides nothing"
    if name in margins:
        role = f"must not become worse by {margins[name]:g}"
    return f"{name} ({metric.kind}, {better} is better): {role}."


def ramp_table(record: Ramp) -> Table:
    """One row a change of the coverage."""
    rows = tuple(
        (step.at.isoformat(timespec="minutes"), f"{step.coverage:.1%}", step.reason)
        for step in record.steps
    )
    columns = (Column("from"), Column("coverage", right=True), Column("reason"))
    title = f"Coverage of the experiment {record.experiment_digest[:16]}: {record.coverage:.1%} now"
    return Table(title, columns, rows, ())


def status_table(record: ExperimentStatus) -> Table:
    """One row an arm, and below how much is stored and what to do next."""
    rows = tuple(
        (
            arm.arm, f"{arm.weight:.1%}", f"{arm.units:,}",
            "on" if arm.off is None else f"off: {arm.off}",
        )
        for arm in record.arms
    )  # fmt: skip
    columns = (_ARM, _SHARE, Column("units", right=True), Column("serves"))
    title = (
        f"{record.experiment}, by {record.unit}, started at "
        f"{record.started.isoformat(timespec='minutes')}: {record.coverage:.1%} of all units now"
    )
    lines = [
        f"Ended: {record.ended}." if record.ended else _left(record),
        *_stored(record),
        f"Next: {record.next}",
    ]
    return Table(title, columns, rows, tuple(lines))


def _left(record: ExperimentStatus) -> str:
    planned = f"{record.units:,} of {record.planned_units:,} planned units"
    if record.days_left is None:
        return f"{planned}."
    return f"{planned}; about {record.days_left:,.1f} days to go at the rate so far."


def _stored(record: ExperimentStatus) -> list[str]:
    """Return what is stored, what waits, and what an analysis leaves out."""
    lines = [f"Values: {_counts(record.values)}."]
    if record.before:
        lines.append(f"Values from before: {_counts(record.before)}.")
    if record.last_event is not None:
        lines.append(f"The last event is of {record.last_event.isoformat(timespec='seconds')}.")
    if record.left_out:
        reasons = {what.replace("_", " "): count for what, count in record.left_out.items()}
        lines.append(f"Values that an analysis leaves out: {_counts(reasons)}.")
    if record.waiting:
        lines.append(f"{plural(record.waiting, 'event')} wait in files for the database.")
    return lines


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in numbers.items()) or "none"


def import_table(record: EventImport) -> Table:
    """One row a kind of count, and below what was not stored."""
    rows = (
        ("new", f"{record.new:,}"),
        ("known before", f"{record.known:,}"),
        ("units that have met no arm", f"{record.unknown_units:,}"),
    )
    lines = []
    if record.unknown_units:
        lines.append(
            "An analysis leaves the values of units out that have met no arm. Import their "
            "exposures as well, or check that the ids are those that were assigned."
        )
    if record.unknown_names:
        names = ", ".join(f"{name} ({count:,})" for name, count in record.unknown_names.items())
        lines.append(f"Not stored, because the experiment has no such value: {names}.")
    title = f"{record.file}, {plural(record.events, 'event')} of {record.experiment}"
    return Table(title, (Column("events"), Column("number", right=True)), rows, tuple(lines))


def analysis_table(record: Analysis) -> Table:
    """One row a metric of an arm, and every reason below."""
    rows = tuple(_comparison(row) for row in record.comparisons)
    columns = (
        _ARM, Column("metric"), Column("role"), Column("control", right=True),
        Column("arm's", right=True), Column(DIFFERENCE.name, right=True, starts=True),
        Column("interval"), VERDICT,
    )  # fmt: skip
    actions = ", ".join(f"{one.arm}: {one.action} ({one.cause})" for one in record.decisions)
    title = f"{record.experiment}, {plural(record.units, 'unit')}, {record.design}: {actions}"
    notes = [f"Note: {note.rstrip('.')}." for note in record.notes]
    return Table(title, columns, rows, (*record.lines, *notes))


def _comparison(row: MetricComparison) -> tuple[str, ...]:
    interval = ABSENT if row.low is None else f"{row.low:+.4g} to {row.high:+.4g}"
    return (
        row.arm, row.metric, str(row.role), _number(row.control_value), _number(row.arm_value),
        _number(row.difference, "+.4g"), interval, str(row.verdict),
    )  # fmt: skip


def experiment_plan_table(record: ExperimentPlan) -> Table:
    """One row a design: its units, its days, and what it shows."""
    rows = tuple(
        (
            str(size.design), f"{size.total:,}", " + ".join(f"{unit:,}" for unit in size.units),
            ABSENT if size.days is None else f"{size.days:,}", f"{size.detectable:.4g}",
        )
        for size in record.sizes
    )  # fmt: skip
    columns = (
        Column("design"), Column("units", right=True), Column("by arm", right=True),
        Column("days", right=True), Column("shows", right=True),
    )  # fmt: skip
    what = "passes a margin of" if record.margin is not None else "shows a difference of"
    lines = [
        f"Each {what} that size with a power of {record.power:.0%}, from a mean of "
        f"{record.mean:.4g} with a standard deviation of {record.sd:.4g} ({record.source}).",
        "The sequential design may be looked at and stopped at any time, and often stops early; "
        "the fixed one is looked at once.",
    ]
    lines += [f"Note: {note.rstrip('.')}." for note in record.notes]
    return Table("Plan of an experiment; nothing was run", columns, rows, tuple(lines))


def _number(value: float | None, form: str = ".4g") -> str:
    return ABSENT if value is None else format(value, form)
