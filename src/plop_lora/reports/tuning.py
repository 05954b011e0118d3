"""Rows of a search: the finalists with their verdicts, the trials and their cost."""

from __future__ import annotations

from collections import Counter

from plop_lora.records import Candidate, Configuration, SearchTrial, Tuning, TuningPlan
from plop_lora.records.tuning import (
    FAILED,
    IMPROVED,
    OVER_BUDGET,
    REFERENCE,
    SEARCHED,
    STANDS,
    UNCONFIRMED,
)
from plop_lora.reports.forgetting import forgetting_words
from plop_lora.reports.rows import (
    DIFFERENCE,
    INTERVAL,
    VERDICT,
    Column,
    Table,
    count,
    plural,
    short_name,
)
from plop_lora.reports.values import difference

SHOWN = 5
_CONFIGURATION = (
    Column("placement"), Column("rank", right=True), Column("init"), Column("rate", right=True),
    Column("LoRA+", right=True), Column("trainable", right=True),
)  # fmt: skip
_SENTENCES = {
    IMPROVED: "Take {chosen}: on rows and seeds that the search has not seen it is better than the "
    "default.",
    STANDS: "Keep {chosen}: no configuration of the search is shown to be better than the default.",
    UNCONFIRMED: "Best of the search: {chosen}. It is not confirmed, and the best of many trials "
    "looks better than it is.",
}
_OPEN = "Keep {chosen}: these seeds and rows cannot separate the candidates from the default."


def tuning_table(tuning: Tuning) -> Table:
    """The finalists, the default first; without a confirmation the best of the search."""
    if not tuning.candidates:
        return _search_table(tuning)
    rows = tuple(
        (
            *_configuration(candidate.configuration, candidate.parameters),
            _value(candidate.selection),
            _value(candidate.mean),
            *_difference(candidate),
            candidate.verdict,
        )
        for candidate in tuning.candidates
    )
    columns = (
        *_CONFIGURATION, Column("selection", right=True, starts=True),
        Column("report", right=True), DIFFERENCE, INTERVAL, VERDICT,
    )  # fmt: skip
    confirmed = (
        f"Report: mean over {plural(len(tuning.seeds), 'fresh seed')} on "
        f"{plural(tuning.report_rows, 'row')}; difference to the default, above 0 is better; a "
        f"candidate is not worse within {tuning.margin:g}."
    )
    causes = [
        f"Failed in the confirmation: {candidate.configuration.label}: {cause}."
        for candidate in tuning.candidates
        for cause in candidate.causes[:1]
    ]
    elsewhere = list(filter(None, map(_elsewhere, tuning.candidates)))
    return Table(_title(tuning), columns, rows, (_verdict(tuning), confirmed, *elsewhere, *causes,
                                                 *_lines(tuning)))  # fmt: skip


def _elsewhere(candidate: Candidate) -> str:
    """Return how a candidate and the default differ in forgetting, empty where nothing says so."""
    if candidate.general_difference is None:
        return ""
    label = candidate.configuration.label
    return forgetting_words(
        label, "the default", candidate.general_difference, candidate.general_low,
        candidate.general_high,
    )  # fmt: skip


def _search_table(tuning: Tuning) -> Table:
    done = [trial for trial in tuning.history if trial.value is not None]
    done.sort(key=lambda trial: (trial.value or 0) * (-1 if tuning.higher_is_better else 1))
    rows = tuple(
        (*_configuration(trial.configuration, trial.parameters), _value(trial.value))
        for trial in done[:SHOWN]
    )
    columns = (*_CONFIGURATION, Column("selection", right=True, starts=True))
    return Table(_title(tuning), columns, rows, (_verdict(tuning), *_lines(tuning)))


def tuning_plan_table(plan: TuningPlan) -> Table:
    """One row a stage; the cost where a trial of the same folder has been measured."""
    rows = tuple(
        (stage.what, str(stage.trials), f"{stage.train_rows:,}", f"{stage.evaluation_rows:,}")
        for stage in plan.stages
    )
    columns = (
        Column("stage"), Column("trials", right=True), Column("rows trained on", right=True),
        Column("rows evaluated on", right=True),
    )  # fmt: skip
    rates = ", ".join(f"{rate:g}" for rate in plan.learning_rates)
    lines = [
        f"Budget: {plan.budget:,} adapter parameters; {plan.feasible} of {plan.configurations} "
        "pairs of placement and rank fit.",
        f"Default: {plan.default.label}.",
        f"Ladder: {rates}." if rates else "No ladder: too few trials.",
        f"Inits: {', '.join(plan.inits)}; LoRA+ ratios: "
        f"{', '.join(f'{ratio:g}' for ratio in plan.loraplus_ratios)}.",
        _plan_cost(plan),
        *(f"Note: {note}." for note in plan.notes),
    ]
    title = f"Plan of a search for {short_name(plan.model.name)}, {plan.task}, {plan.metric}"
    return Table(title, columns, rows, tuple(lines))


def _plan_cost(plan: TuningPlan) -> str:
    limit = "" if plan.hours is None else f" No trial starts after {plan.hours:g} device-hours."
    passes = "" if plan.row_passes is None else f"{plan.row_passes:,.0f} rows pass in training; "
    if plan.device_seconds is None:
        return f"Cost: {passes}the time is known once a trial has run in this folder.{limit}"
    money = "" if plan.money is None else f", {plan.money:.2f} {plan.currency}"
    hours = plan.device_seconds / 3600
    return f"Cost: {passes}about {hours:.2g} device-hours in all{money}.{limit}"


def _title(tuning: Tuning) -> str:
    direction = "higher" if tuning.higher_is_better else "lower"
    return (
        f"Search for {short_name(tuning.model.name)}, {tuning.task}, {tuning.metric} "
        f"({direction} is better)"
    )


def _verdict(tuning: Tuning) -> str:
    return _SENTENCES.get(tuning.verdict, _OPEN).format(chosen=tuning.chosen.label)


def _lines(tuning: Tuning) -> list[str]:
    states = Counter(trial.state for trial in tuning.history)
    lines = [
        f"Searched: {plural(states[SEARCHED], 'trial')} done, {states[FAILED]} failed, "
        f"{plural(states[OVER_BUDGET], 'suggestion')} above the budget of {tuning.budget:,} "
        "adapter parameters and not trained."
    ]
    lines += _ladder_line(tuning)
    lines += _failure_lines(tuning.history)
    total = tuning.cost.total
    spent = f"{total.device_seconds:,.0f} device-seconds"
    spent = spent if total.gpu_hours is None else f"{total.gpu_hours:.2f} GPU-hours"
    money = "" if total.money is None else f", {total.money:.2f} {tuning.cost.currency}"
    lines.append(f"Took {plural(total.trials, 'trial')}, {spent}{money}.")
    return lines + [f"Note: {note}." for note in tuning.notes]


def _ladder_line(tuning: Tuning) -> list[str]:
    steps = [f"{step.learning_rate:g}: {_value(step.value) or 'failed'}" for step in tuning.ladder]
    return [f"Ladder of the rate: {', '.join(steps)}."] if steps else []


def _failure_lines(history: tuple[SearchTrial, ...]) -> list[str]:
    """Return a line for each cause with the number of trials; the record lists them by trial."""
    causes = Counter(trial.cause or "no cause given" for trial in history if trial.state == FAILED)
    return [f"Failed: {cause} ({plural(number, 'trial')})." for cause, number in causes.items()]


def _configuration(point: Configuration, parameters: int) -> tuple[str, ...]:
    ratio = "" if point.loraplus_ratio == 1 else f"{point.loraplus_ratio:g}"
    name = short_name(point.placement)
    return name, str(point.rank), point.init, f"{point.learning_rate:g}", ratio, count(parameters)


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _difference(candidate: Candidate) -> tuple[str, str]:
    if candidate.verdict == REFERENCE or candidate.difference is None:
        return "", ""
    if candidate.low is None or candidate.high is None:
        return f"{candidate.difference:+.3f}", "too few trials"
    return difference(candidate.difference, candidate.low, candidate.high)
