"""The section of an analysis: what to do with each arm, and every metric against the control."""

from __future__ import annotations

from plop_lora.records import Analysis, MetricComparison
from plop_lora.records.analysis import Role
from plop_lora.reports.page import figures
from plop_lora.reports.page.blocks import DataTable, Figure, Section
from plop_lora.reports.text import Text, number


def analysis_section(record: Analysis, words: Text) -> Section:
    """Return the decisions, a drawing for each metric, and the split of the units."""
    metrics = list(dict.fromkeys(row.metric for row in record.comparisons))
    drawn = [_metric(record, metric, place, words) for place, metric in enumerate(metrics, 1)]
    return Section(
        name="analysis",
        title=words("analysis.title", name=record.experiment),
        lines=(
            words(
                "analysis.units", units=words.count(record.units),
                planned=words.count(record.planned_units), design=words.word(record.design),
            ),
        ),
        figures=tuple(figure for figure in (_course(record, words), *drawn) if figure),
        tables=(_decisions(record, words), _comparisons(record, words), _split(record, words)),
        quotes=(*record.lines, *record.notes),
    )  # fmt: skip


def _metric(record: Analysis, metric: str, place: int, words: Text) -> Figure | None:
    rows = [
        row for row in record.comparisons if row.metric == metric and row.difference is not None
    ]
    if not rows:
        return None
    first = rows[0]
    verdicts = list(dict.fromkeys(words.word(row.verdict) for row in rows))
    harm = None if first.margin is None else first.margin * (-1 if first.higher_is_better else 1)
    title = words(
        "analysis.metric", metric=metric,
        direction=words("direction.higher" if first.higher_is_better else "direction.lower"),
    )  # fmt: skip
    return Figure(
        name=f"metric-{place}",
        title=title,
        alt=words("analysis.alt", metric=metric, arms=words.listed([row.arm for row in rows])),
        spec=figures.intervals(
            [
                {"name": row.arm, "value": row.difference, "low": row.low, "high": row.high,
                 "group": words.word(row.verdict)}
                for row in rows
            ],
            names=[row.arm for row in rows],
            groups=verdicts,
            titles={
                "name": words("column.arm"), "value": words("column.against_control"),
                "low": words("column.low"), "high": words("column.high"),
                "group": words("column.verdict"),
            },
            rules=(0.0,) if harm is None else (0.0, harm),
            zero=True,
        ),
        table=_table(rows, title, words),
    )  # fmt: skip


def _course(record: Analysis, words: Text) -> Figure | None:
    """Return what earlier looks would have shown of the primary metric, with its intervals."""
    if not record.course:
        return None
    primary = next(row.metric for row in record.comparisons if row.role is Role.PRIMARY)
    title = words("analysis.course", metric=primary)
    columns = ("arm", "day", "units", "difference", "interval")
    return Figure(
        name="course",
        title=title,
        alt=words("analysis.course.alt", metric=primary, looks=words.count(len(record.course))),
        spec=figures.band(
            [
                {"group": one.arm, "at": one.units, "value": one.difference, "low": one.low,
                 "high": one.high}
                for one in record.course
            ],
            groups=list(dict.fromkeys(one.arm for one in record.course)),
            titles={
                "group": words("column.arm"), "at": words("column.units"),
                "value": words("column.against_control"), "low": words("column.low"),
                "high": words("column.high"),
            },
        ),
        table=DataTable(
            caption=title,
            columns=tuple(words(f"column.{name}") for name in columns),
            rows=tuple(
                (
                    one.arm,
                    one.at.date().isoformat(),
                    words.count(one.units),
                    number(one.difference, 4, signed=True),
                    words.interval(one.low, one.high, digits=4, signed=True),
                )
                for one in record.course
            ),
            numeric=(False, False, True, True, True),
        ),
    )  # fmt: skip


def _comparisons(record: Analysis, words: Text) -> DataTable:
    return _table(list(record.comparisons), words("analysis.comparisons"), words)


def _table(rows: list[MetricComparison], caption: str, words: Text) -> DataTable:
    columns = (
        "arm",
        "metric",
        "role",
        "control",
        "value",
        "difference",
        "interval",
        "verdict",
        "units",
    )
    return DataTable(
        caption=caption,
        columns=tuple(words(f"column.{name}") for name in columns),
        rows=tuple(
            (
                row.arm,
                row.metric,
                words.word(row.role),
                number(row.control_value, 4),
                number(row.arm_value, 4),
                number(row.difference, 4, signed=True),
                words.interval(row.low, row.high, digits=4, signed=True),
                words.word(row.verdict),
                words.count(row.units),
            )
            for row in rows
        ),
        numeric=(False, False, False, True, True, True, True, False, True),
    )


def _decisions(record: Analysis, words: Text) -> DataTable:
    return DataTable(
        caption=words("analysis.decisions"),
        columns=tuple(words(f"column.{name}") for name in ("arm", "action", "cause")),
        rows=tuple(
            (one.arm, words.word(one.action), words.word(one.cause)) for one in record.decisions
        ),
        numeric=(False, False, False),
    )


def _split(record: Analysis, words: Text) -> DataTable:
    ratio = record.sample_ratio
    return DataTable(
        caption=words("analysis.mismatch" if ratio.mismatch else "analysis.split"),
        columns=tuple(words(f"column.{name}") for name in ("arm", "units", "expected")),
        rows=tuple(
            (arm, words.count(units), number(ratio.expected.get(arm), 1))
            for arm, units in ratio.units.items()
        ),
        numeric=(False, True, True),
    )
