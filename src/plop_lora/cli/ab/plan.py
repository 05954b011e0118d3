"""`plop ab plan`: how many units an experiment needs, or what a given number can show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plop_lora.cli.ab.options import share_of
from plop_lora.cli.output import ForceOption, Format, FormatOption, OutputOption, check, finish
from plop_lora.cli.words import DATA, STOPPING, with_examples
from plop_lora.errors import UsageError
from plop_lora.records.experiment import MetricKind, PerUnit

if TYPE_CHECKING:
    from plop_lora.ab import Baseline, Metric


@with_examples(
    ("Units to show that 10 % becomes 12 %", "plop ab plan --baseline 0.10 --effect 0.02"),
    (
        "And the days, with 500 new units a day of which half take part",
        "plop ab plan --baseline 0.10 --effect 0.02 --traffic 500 --coverage 50%",
    ),
    (
        "The effect that 8,000 units can show, from past data with several rows of a unit",
        "plop ab plan --past past.csv --metric resolved --unit account --units 8000",
    ),
    (
        "Units to pass a guardrail with a margin of 0.2 seconds",
        "plop ab plan --baseline 1.4 --sd 0.9 --margin 0.2",
    ),
)
def plan(
    baseline: Annotated[
        float | None,
        typer.Option(
            help="The value of the metric today: a share above 0 and below 1, or a mean with --sd.",
            rich_help_panel=DATA,
        ),
    ] = None,
    sd: Annotated[
        float | None,
        typer.Option(
            help="The standard deviation over units, where --baseline is a mean.",
            rich_help_panel=DATA,
        ),
    ] = None,
    past: Annotated[
        Path | None,
        typer.Option(
            help="A file of past data, in place of --baseline: .csv, .tsv, .jsonl or .parquet.",
            rich_help_panel=DATA,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="The column of the metric in the past data; for a ratio two, as NUMERATOR/"
            "DENOMINATOR.",
            rich_help_panel=DATA,
        ),
    ] = None,
    kind: Annotated[
        MetricKind,
        typer.Option(
            help="What the metric is: the mean of a column, the share of units with a 1, or the "
            "ratio of two columns.",
            rich_help_panel=DATA,
        ),
    ] = MetricKind.MEAN,
    unit: Annotated[
        str | None,
        typer.Option(
            help="The column with the id of the unit, whose rows are put together first. By "
            "default each row is a unit of its own.",
            rich_help_panel=DATA,
        ),
    ] = None,
    per_unit: Annotated[
        PerUnit,
        typer.Option(help="How several rows of one unit are put together.", rich_help_panel=DATA),
    ] = PerUnit.MEAN,
    effect: Annotated[
        float | None,
        typer.Option(
            help="The true difference from the control that is to be shown, in the unit of the "
            "metric.",
            rich_help_panel=STOPPING,
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="The margin of a guardrail, in the unit of the metric, that an arm that equals "
            "the control is to pass.",
            rich_help_panel=STOPPING,
        ),
    ] = None,
    units: Annotated[
        int | None,
        typer.Option(
            help="The number of units in all arms, to ask for the effect that they can show.",
            rich_help_panel=STOPPING,
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            help="The share of each arm, that of the control first, separated by commas.",
            rich_help_panel=STOPPING,
        ),
    ] = "0.5,0.5",
    traffic: Annotated[
        float | None,
        typer.Option(
            help="The number of new units a day, from which the days follow.",
            rich_help_panel=STOPPING,
        ),
    ] = None,
    coverage: Annotated[
        str | None,
        typer.Option(
            help="The share of these units that takes part, such as 5%; by default all of them.",
            rich_help_panel=STOPPING,
        ),
    ] = None,
    power: Annotated[
        float,
        typer.Option(
            help="The probability of showing the effect if it is there.", rich_help_panel=STOPPING
        ),
    ] = 0.8,
    error: Annotated[
        float,
        typer.Option(
            help="The probability of showing an effect that is not there (alpha).",
            rich_help_panel=STOPPING,
        ),
    ] = 0.05,
    output: OutputOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Compute the units and days that an experiment needs, for one look or any number of them.

    Give what the metric is today (--baseline or --past), and one of --effect, --margin and --units.
    """
    check(output, past, force=force)
    from plop_lora.ab import plan as step

    if coverage is not None and traffic is None:
        raise UsageError("--coverage is a share of the traffic. Give --traffic as well.")
    share = 1.0 if coverage is None else share_of(coverage, "--coverage")
    today = _given(baseline, sd) if past is None else _measured(past, metric, kind, unit, per_unit)
    _check_question(effect, margin, units)
    found = step(
        today,
        effect=effect,
        margin=margin,
        units=units,
        weights=_weights(weights),
        traffic=None if traffic is None else (traffic, share),
        power=power,
        error=error,
    )
    finish(found, output, form)


def _check_question(*asked: float | None) -> None:
    if sum(one is not None for one in asked) != 1:
        raise UsageError(
            "Give exactly one of --effect, --margin and --units: --effect 0.02 asks for the units "
            "that show it, --units 8000 for the effect that they show."
        )


def _given(value: float | None, sd: float | None) -> Baseline:
    from plop_lora.ab import Baseline

    if value is None:
        raise UsageError(
            "Give what the metric is today: --baseline 0.10 for a share, --baseline 3.2 --sd 1.5 "
            "for a mean, or --past FILE --metric COLUMN."
        )
    if sd is not None:
        return Baseline.of_mean(value, sd)
    if not 0 < value < 1:
        raise UsageError(
            f"--baseline is {value:g}. A share is above 0 and below 1; for a mean give its "
            "standard deviation over units with --sd."
        )
    return Baseline.of_share(value)


def _measured(
    past: Path, name: str | None, kind: MetricKind, unit: str | None, per_unit: PerUnit
) -> Baseline:
    from plop_lora.ab import read_baseline

    if name is None:
        raise UsageError(f"Give the column of {past} that holds the metric with --metric.")
    return read_baseline(past, _metric(name, kind, per_unit), unit=unit)


def _metric(name: str, kind: MetricKind, per_unit: PerUnit) -> Metric:
    from plop_lora.ab import Metric

    if kind is not MetricKind.RATIO:
        return Metric(name=name, kind=kind, per_unit=per_unit)
    above, slash, below = name.partition("/")
    if not slash:
        raise UsageError(
            f"--metric is {name!r}; a ratio needs two columns, such as tokens_out/requests."
        )
    return Metric(name=name, kind=kind, numerator=above, denominator=below)


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(
            f"--weights is {text!r}; give numbers that add up to 1, such as 0.5,0.5."
        ) from None
