"""The section of a tuning: the course of the search, and what new seeds confirmed."""

from __future__ import annotations

from plop_lora.records import Candidate, Tuning
from plop_lora.records.tuning import SEARCHED
from plop_lora.reports.page import figures
from plop_lora.reports.page.blocks import DataTable, Figure, Section
from plop_lora.reports.page.sections.costs import cost_table
from plop_lora.reports.text import Text, number


def tuning_section(record: Tuning, words: Text) -> Section:
    """Return the search, the confirmed candidates and the cost."""
    drawn = [_search(record, words), _confirmation(record, words)]
    return Section(
        name="tuning",
        title=words("tuning.title"),
        lines=(
            tuning_sentence(record, words),
            words(
                "tuning.design", trials=words.count(len(record.history)), metric=record.metric,
                budget=words.count(record.budget), rows=words.count(record.report_rows),
            ),
        ),
        figures=tuple(figure for figure in drawn if figure is not None),
        tables=(_candidates(record, words), cost_table(record.cost, words)),
        quotes=record.notes,
    )  # fmt: skip


def tuning_sentence(record: Tuning, words: Text) -> str:
    """Return the verdict of a search as one sentence."""
    return words(
        f"tuning.{record.verdict.name.lower()}",
        chosen=record.chosen.label,
        default=record.default.label,
    )


def _search(record: Tuning, words: Text) -> Figure | None:
    done = [trial for trial in record.history if trial.state is SEARCHED]
    done = [trial for trial in done if trial.value is not None]
    if not done:
        return None
    titles = {
        "at": words("column.trial"), "value": record.metric, "group": words("column.placement"),
    }  # fmt: skip
    return Figure(
        name="search",
        title=words("tuning.search.title"),
        alt=words("tuning.search.alt", trials=len(done), metric=record.metric),
        spec=figures.course(
            [
                {"at": one.number, "value": one.value, "group": one.configuration.placement}
                for one in done
            ],
            groups=list(dict.fromkeys(one.configuration.placement for one in done)),
            titles=titles,
        ),
        table=DataTable(
            caption=words("tuning.search.title"),
            columns=(words("column.trial"), words("column.configuration"), record.metric),
            rows=tuple(
                (str(one.number), one.configuration.label, number(one.value, 4)) for one in done
            ),
            numeric=(True, False, True),
        ),
    )


def _confirmation(record: Tuning, words: Text) -> Figure | None:
    shown = [one for one in record.candidates if one.difference is not None]
    if not shown:
        return None
    names = [one.configuration.label for one in shown]
    verdicts = [words.word(one.verdict) for one in shown]
    rows = [
        {"name": name, "value": one.difference, "low": one.low, "high": one.high, "group": verdict}
        for name, verdict, one in zip(names, verdicts, shown, strict=True)
    ]
    return Figure(
        name="confirmation",
        title=words("tuning.confirmation.title", default=record.default.label),
        alt=words("tuning.confirmation.alt", candidates=len(shown)),
        spec=figures.intervals(
            rows,
            names=names,
            groups=list(dict.fromkeys(verdicts)),
            titles={
                "name": words("column.configuration"), "value": words("column.difference"),
                "low": words("column.low"), "high": words("column.high"),
                "group": words("column.verdict"),
            },
            rules=(0.0, -record.margin),
            zero=True,
        ),
        table=_candidates(record, words),
    )  # fmt: skip


def _candidates(record: Tuning, words: Text) -> DataTable:
    columns = (
        "configuration",
        "parameters",
        "selection",
        "mean",
        "difference",
        "interval",
        "verdict",
    )
    return DataTable(
        caption=words("tuning.candidates", metric=record.metric),
        columns=tuple(words(f"column.{name}") for name in columns),
        rows=tuple(_row(one, words) for one in record.candidates),
        numeric=(False, True, True, True, True, True, False),
    )


def _row(one: Candidate, words: Text) -> tuple[str, ...]:
    return (
        one.configuration.label,
        words.count(one.parameters),
        number(one.selection, 4),
        number(one.mean, 4),
        number(one.difference, 4, signed=True),
        words.interval(one.low, one.high, digits=4, signed=True),
        words.word(one.verdict),
    )
