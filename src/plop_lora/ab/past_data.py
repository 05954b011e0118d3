"""Mean and spread of a metric in past data, from which an experiment is planned.

Imports numpy; no torch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plop_lora.data.reading import Row, open_rows
from plop_lora.errors import DataError, UsageError, nearest
from plop_lora.records import Metric
from plop_lora.records.experiment import RATIO, SHARE, PerUnit
from plop_lora.statistics import mean_estimate, ratio_estimate


@dataclass(frozen=True, slots=True)
class Baseline:
    """A metric before the experiment.

    Attributes:
        mean: Mean over units, or the ratio.
        sd: Standard deviation over units; of a ratio, that of its influences.
        binary: Whether each unit has 0 or 1, so that the spread follows from the mean.
        source: Where the numbers come from.
        units: Number of units behind them; None where they were given.
    """

    mean: float
    sd: float
    binary: bool = False
    source: str = "given"
    units: int | None = None

    @classmethod
    def of_share(cls, share: float) -> Baseline:
        """Return the baseline of a share of units, such as a rate of resolved requests.

        Raises:
            UsageError: The share is not above 0 and below 1.
        """
        if not 0 < share < 1:
            raise UsageError(f"The share is {share:g}; it must be above 0 and below 1.")
        return cls(share, math.sqrt(share * (1 - share)), binary=True)

    @classmethod
    def of_mean(cls, mean: float, sd: float) -> Baseline:
        """Return the baseline of a mean over units.

        Raises:
            UsageError: The standard deviation is not above 0.
        """
        if not 0 < sd < math.inf or not math.isfinite(mean):
            raise UsageError(
                f"The mean is {mean:g} with a standard deviation of {sd:g}; the mean must be "
                "finite and the deviation above 0."
            )
        return cls(mean, sd)


def read_baseline(source: str | Path, metric: Metric, *, unit: str | None = None) -> Baseline:
    """Return the baseline of a metric from a file of past data.

    Args:
        source: File with a column for each value of the metric: .csv, .tsv, .jsonl or .parquet.
        metric: Metric; see `Metric.values` for the names of its columns.
        unit: Column with the id of the unit, whose rows are put together first. None takes each
            row as a unit of its own.

    Raises:
        DataError: A column is not there, a value is no number, or the values do not vary.
    """
    columns = metric.values
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(columns))
    counts: dict[str, int] = defaultdict(int)
    for number, row in enumerate(open_rows(str(source)), start=1):
        key = str(number) if unit is None else str(_cell(row, unit, source, number))
        values = [_number(row, column, source, number) for column in columns]
        sums[key] = [old + new for old, new in zip(sums[key], values, strict=True)]
        counts[key] += 1
    if len(sums) < 2:
        raise DataError(f"{source} has {len(sums)} units; at least 2 are needed for a spread.")
    table_UC = np.array(list(sums.values()))
    counts_U = np.array(list(counts.values()), dtype=np.float64)
    return _baseline(metric, table_UC, counts_U, str(source))


def _baseline(metric: Metric, table_UC: np.ndarray, counts_U: np.ndarray, source: str) -> Baseline:
    if metric.kind is RATIO:
        if table_UC[:, 1].min() < 0 or not table_UC[:, 1].sum():
            raise DataError(
                f"The column {metric.denominator!r} of {source} must be 0 or more in every unit, "
                "and above 0 in one."
            )
        found = ratio_estimate(table_UC[:, 0][None], table_UC[:, 1][None])
    else:
        per_unit = table_UC[:, 0] if metric.per_unit is PerUnit.SUM else table_UC[:, 0] / counts_U
        found = mean_estimate(per_unit)
    values_U = found.value + found.influence_S
    if metric.kind is SHARE and (values_U.min() < -1e-9 or values_U.max() > 1 + 1e-9):
        raise DataError(f"The share {metric.name!r} is not from 0 to 1 in every row of {source}.")
    sd = float(found.influence_S.std(ddof=1))
    if not sd:
        raise DataError(f"{metric.name!r} is {found.value:g} for every unit of {source}.")
    binary = metric.kind is SHARE and bool(np.isin(values_U.round(9), (0.0, 1.0)).all())
    return Baseline(found.value, sd, binary, source, len(values_U))


def _cell(row: Row, column: str, source: str | Path, number: int) -> object:
    if column not in row:
        raise DataError(
            f"{source} has no column {column!r} in row {number}; it has {', '.join(row)}."
            f"{nearest(column, list(row))}"
        )
    return row[column]


def _number(row: Row, column: str, source: str | Path, number: int) -> float:
    given = _cell(row, column, source, number)
    try:
        value = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{source}, row {number}: {column!r} is {given!r}; it must be a finite number."
        )
    return value
