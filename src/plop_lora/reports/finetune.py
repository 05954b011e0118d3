"""Rows of a final finetune: the held-out outcomes of base and adapter, and its plan."""

from __future__ import annotations

from plop_lora.records import Finetune, FinetunePlan, HeldOut
from plop_lora.records.finetune import IMPROVED, WORSE
from plop_lora.reports.costs import duration, ledger_table, memory, money
from plop_lora.reports.rows import DIFFERENCE, INTERVAL, Column, Table, count, plural, short_name
from plop_lora.reports.values import difference

_SENTENCES = {
    IMPROVED: "The adapter is better than the base by {criterion} on rows that it has not seen. "
    "Whether it may ship is for plop gate to decide.",
    WORSE: "THE ADAPTER IS WORSE THAN THE BASE by {criterion} on rows that it has not seen. Do not "
    "ship it: take a smaller learning rate, fewer epochs or other rows.",
}
_OPEN = (
    "THE ADAPTER IS NOT SHOWN TO BE BETTER THAN THE BASE by {criterion}: these rows cannot tell "
    "them apart. Give more eval rows, or train longer."
)


def finetune_table(record: Finetune) -> Table:
    """One row an outcome, the one that decides first, and how the adapter was trained."""
    columns = (
        Column("held-out"), Column("base", right=True), Column("adapter", right=True),
        DIFFERENCE, INTERVAL,
    )  # fmt: skip
    sentence = _SENTENCES.get(record.verdict, _OPEN)
    lines = [sentence.format(criterion=record.criterion)]
    lines += [f"Nothing was learned: {sign}." for sign in record.nothing_learned]
    lines += [
        f"Trained: {record.choice.arm}, {record.choice.why}; "
        f"{count(record.placement.trainable_parameters)} parameters.",
        f"Learning rate {record.choice.learning_rate:g}, from {record.choice.rate_from}; seed "
        f"{record.seed}; {plural(record.train_rows, 'row')}.",
        _ending(record),
        f"Difference: above 0 the adapter is better, on {plural(record.report_rows, 'row')}; the "
        "interval is over rows, of this one training.",
        *(f"Note: {note}." for note in record.notes),
    ]
    title = f"Final finetune of {short_name(record.model.name)}, {record.task}: {record.verdict}"
    rows = tuple(map(_row, record.outcomes))
    return Table(
        title, columns, rows, tuple(lines), more=(ledger_table(record.cost, compared=False),)
    )


def _row(outcome: HeldOut) -> tuple[str, ...]:
    shown = difference(outcome.difference, outcome.low, outcome.high)
    if outcome.low is None:
        shown = (shown[0], "none: it is no mean over rows")
    return (
        outcome.metric, f"{outcome.base:.4f}", f"{outcome.adapter:.4f}",
        *shown,
    )  # fmt: skip


def _ending(record: Finetune) -> str:
    taken = f"{record.steps:,} of {plural(record.planned_steps, 'step')}"
    if record.best_step is None:
        return f"{taken}; the adapter is that of the last one."
    early = "" if record.steps == record.planned_steps else ", stopped early"
    return (
        f"{taken}{early}; the adapter is that of step {record.best_step:,}, the best one by "
        f"{record.criterion} on {plural(record.selection_rows, 'selection row')}."
    )


def finetune_plan_table(plan: FinetunePlan) -> Table:
    """What would be trained, on how many rows, for how long."""
    rows = (
        ("placement", f"{plan.choice.arm}, {plan.choice.why}"),
        ("parameters", count(plan.parameters)),
        ("learning rate", f"{plan.choice.learning_rate:g}, from {plan.choice.rate_from}"),
        ("rows trained on", f"{plan.train_rows:,}"),
        ("rows that choose the checkpoint", f"{plan.selection_rows:,}"),
        ("rows of the comparison", f"{plan.report_rows:,}"),
        ("steps", f"{plan.steps:,}, a checkpoint every {plan.every:,}"),
        ("early stopping", _patience(plan)),
        ("device time", f"about {duration(plan.seconds)}"),
        ("money", _money(plan)),
        ("peak memory", "unknown" if plan.peak_memory is None
         else f"{memory(plan.peak_memory)}, as its trials took"),
    )  # fmt: skip
    title = f"Plan of a final finetune of {short_name(plan.model.name)}, {plan.task}"
    columns = (Column("what"), Column("value"))
    return Table(title, columns, rows, (
        f"Device time: {plan.seconds_from}.", *(f"Note: {note}." for note in plan.notes),
    ))  # fmt: skip


def _patience(plan: FinetunePlan) -> str:
    if not plan.patience:
        return "none: all rows are trained on, to the last step"
    return f"after {plural(plan.patience, 'evaluation')} without a new best one"


def _money(plan: FinetunePlan) -> str:
    if plan.money is None:
        return "no price was given (price.hourly)"
    return f"about {money(plan.money)} {plan.currency}"
