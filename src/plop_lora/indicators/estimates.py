"""Estimate an indicator from a record of scores, for any of its sites. Does not import torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from plop_lora.errors import UsageError
from plop_lora.indicators.contrast import reference_measurements
from plop_lora.indicators.kinds import OfRecords, OfReferences
from plop_lora.indicators.registry import NFN, Indicator
from plop_lora.records import IndicatorScores, Scores
from plop_lora.statistics import Estimate, indicator_estimate, type_estimate

Estimator = Callable[[Sequence[int]], Estimate | None]
"""Function from indices of `Scores.sites` to the mean of these sites; None if none has a value."""


def estimator(scores: Scores, row: Indicator) -> Estimator:
    """Return a function that estimates an indicator over some sites of a record.

    Raises:
        UsageError: The record does not hold the indicator, or not the general text that it needs.
    """
    measurements = scores.measurements
    if row.name == NFN:
        return lambda indices: type_estimate(measurements, indices)
    if isinstance(row.measure, OfReferences):
        reference_measurements(scores)
        return functools.partial(row.measure.estimate, scores)
    held = _held(scores, row)
    return lambda indices: indicator_estimate(measurements, held, indices)


def _held(scores: Scores, row: Indicator) -> IndicatorScores:
    for held in scores.indicators:
        if held.indicator == row.name:
            return held
    if isinstance(row.measure, OfRecords):
        return IndicatorScores(row.name, (), tuple(row.measure.per_site(scores)))
    names = ", ".join((NFN, *(held.indicator for held in scores.indicators)))
    raise UsageError(
        f"These scores do not hold the indicator {row.name!r}; they hold: {names}. Record it with: "
        f"plop score MODEL --data DATA --indicator {row.name} -o scores.json"
    )
