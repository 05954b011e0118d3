"""Rows of a run of the pipeline: its stages, what each says, and what to do next."""

from __future__ import annotations

import shlex

from plop_lora.records import PipelineRun
from plop_lora.records.run import (
    BEATEN,
    CONFIRMED,
    GATE_FAILED,
    UNDECIDED,
    StageEstimate,
    StageRun,
    StageState,
)
from plop_lora.reports.costs import ABSENT, duration, money
from plop_lora.reports.rows import VERDICT, Column, Table, plural, short_name

HEAD = "# plop run"
"""Beginning of a run in Markdown."""
_MEANS = {
    CONFIRMED: "The finetunes confirm the shortlist, and the gate passes.",
    BEATEN: "A rival was better than the shortlist, and was taken in its place.",
    UNDECIDED: "Something could not be decided with these rows, seeds or items.",
    GATE_FAILED: "The adapter must not ship as it is: a check fails.",
}


def run_table(record: PipelineRun) -> Table:
    """Stages in their order: state, time, and what each of them says or waits for."""
    rows = tuple(
        (stage.stage, str(stage.state), _time(stage), _verdict(stage), _says(stage))
        for stage in record.stages
    )
    columns = (
        Column("stage"), Column("state"), Column("time", right=True), VERDICT, Column("says"),
    )  # fmt: skip
    title = f"Run of {short_name(record.model)} in {record.folder}: {_title(record)}"
    return Table(title, columns, rows, tuple(_lines(record)))


def stage_line(stage: StageRun) -> str:
    """Return one line on a stage, as it is printed when the stage begins or is done."""
    if stage.outcome is None:
        return f"{stage.stage}: begins, because {stage.reason}"
    how = "taken from before" if stage.state is StageState.REUSED else f"done in {_time(stage)}"
    return f"{stage.stage}: {how}. {stage.outcome.words}"


def _title(record: PipelineRun) -> str:
    if record.waiting:
        return "it waits for you"
    return str(record.verdict) if record.complete else f"{record.verdict}, not complete"


def _time(stage: StageRun) -> str:
    return ABSENT if stage.seconds is None else duration(stage.seconds)


def _verdict(stage: StageRun) -> str:
    outcome = stage.outcome
    return "" if outcome is None or str(outcome.verdict) == "open" else str(outcome.verdict)


def _says(stage: StageRun) -> str:
    if stage.outcome is not None:
        return stage.outcome.words
    return f"to be run: {stage.reason}{_takes(stage.estimate)}"


def _takes(estimate: StageEstimate | None) -> str:
    if estimate is None:
        return ""
    return f" ({_about(estimate.seconds, estimate.money, estimate.currency)}, {estimate.source})"


def _about(seconds: float, cost: float | None, currency: str) -> str:
    return f"about {duration(seconds)}" + ("" if cost is None else f", {money(cost)} {currency}")


def _lines(record: PipelineRun) -> list[str]:
    lines = [_MEANS[record.verdict]] if record.verdict in _MEANS else []
    lines += [*_cost(record), *_to_come(record)]
    if record.waiting:
        lines.append(f"Next: {record.waiting}.")
    results = [one for one in record.stages if one.outcome is not None]
    if results:
        folder = shlex.quote(record.folder)
        lines.append(f"Results: {', '.join(one.result for one in results)} in {folder}.")
    lines += [f"Note: {note}." for note in record.notes]
    return lines


def _to_come(record: PipelineRun) -> list[str]:
    """Return what a plan says that the open stages take, together."""
    known = [one.estimate for one in record.stages if one.estimate is not None]
    if not known:
        return []
    priced = [one for one in known if one.money is not None]
    cost = sum(one.money or 0.0 for one in priced) if priced else None
    currency = priced[0].currency if priced else ""
    text = f"To come: {_about(sum(one.seconds for one in known), cost, currency)}"
    unknown = [one.stage for one in record.stages if one.outcome is None and one.estimate is None]
    if unknown:
        text += f"; the time of {', '.join(unknown)} is not known yet"
    return [f"{text}."]


def _cost(record: PipelineRun) -> list[str]:
    """Return what the stages took, together."""
    done = [stage for stage in record.stages if stage.seconds is not None]
    if not done:
        return []
    wall = sum(stage.seconds or 0.0 for stage in done)
    spent = [one.outcome for one in done if one.outcome and one.outcome.device_seconds is not None]
    text = f"{plural(len(done), 'stage')} took {duration(wall)}"
    if spent:
        text += f", trials {duration(sum(one.device_seconds or 0.0 for one in spent))} of devices"
    priced = [one for one in spent if one.money is not None]
    if priced:
        text += f", {money(sum(one.money or 0.0 for one in priced))} {priced[0].currency}"
    return [f"{text}."]
