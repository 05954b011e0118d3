"""Rows of replays: every measure of every arm against the control. Rendering only."""

from __future__ import annotations

from plop_lora.records import Replay, ReplayArm, ReplayMeasure
from plop_lora.reports.costs import ABSENT
from plop_lora.reports.markdown import table_markdown
from plop_lora.reports.rows import DIFFERENCE, INTERVAL, VERDICT, Column, Table, plural

HEAD = "# plop ab replay: "
"""Beginning of a replay in Markdown."""
_HOW = (
    "Differs: the p of no difference, adjusted for the number of measures (Holm), is below 5 %. "
    "Shares are compared by McNemar's exact test where every unit has one prompt."
)


def replay_table(record: Replay) -> Table:
    """One row a measure of an arm, and below it what became of the prompts."""
    rows = tuple(_row(measure) for measure in record.measures)
    columns = (
        Column("arm"), Column("metric"), Column("control", right=True),
        Column("arm's", right=True), Column(DIFFERENCE.name, right=True, starts=True),
        INTERVAL, Column("p", right=True), VERDICT,
    )  # fmt: skip
    of = "" if record.experiment is None else f" of {record.experiment}"
    title = f"Replay{of}, {plural(record.prompts, 'prompt')} of {plural(record.units, 'unit')}"
    lines = [*(_answered(record, arm) for arm in record.arms), _HOW, _latency(record)]
    lines += [f"Note: {note.rstrip('.')}." for note in record.notes]
    return Table(title, columns, rows, tuple(lines))


def _row(measure: ReplayMeasure) -> tuple[str, ...]:
    interval = ABSENT
    if measure.low is not None and measure.high is not None:
        interval = f"{measure.low:+.3g} to {measure.high:+.3g}"
    p = ABSENT if measure.p is None else f"{measure.p:.2g}"
    return (
        measure.arm, measure.metric, f"{measure.control:.4g}", f"{measure.value:.4g}",
        f"{measure.difference:+.3g}", interval, p, _verdict(measure),
    )  # fmt: skip


def _verdict(measure: ReplayMeasure) -> str:
    found = "differs" if measure.differs else "no difference shown"
    if measure.verdict is None:
        return found
    return f"{found}; margin {measure.margin:g}: {measure.verdict}"


def _answered(record: Replay, arm: ReplayArm) -> str:
    role = ", the control" if arm.name == record.control else ""
    failed = ", ".join(f"{count} {reason}" for reason, count in arm.failures.items())
    text = f"{arm.name} (model {arm.model}{role}): {arm.answered} of {record.prompts} answered"
    text += f"; without an answer: {failed}." if failed else "."
    if arm.identical is None:
        return text
    same = arm.identical
    return (
        f"{text} {same.share:.1%} of {plural(same.prompts, 'answer')} are those of the control "
        f"word for word ({same.low:.1%} to {same.high:.1%})."
    )


def _latency(record: Replay) -> str:
    return (
        f"Latencies are in seconds, with up to {plural(record.concurrency, 'prompt')} at a time. "
        "Each arm is asked first equally often; what a cache keeps of a prompt helps the arm that "
        "is asked later, if the arms share it at all."
    )


def replay_markdown(record: Replay) -> str:
    """Return a replay in Markdown, as for a pull request."""
    return table_markdown(replay_table(record), HEAD)
