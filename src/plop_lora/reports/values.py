"""Values with their intervals, with a number of digits that follows from the interval."""

from __future__ import annotations

from collections.abc import Mapping

from plop_lora.indicators import INDICATORS
from plop_lora.records import TypeValue


def value_and_interval(
    value: float | None, low: float | None, high: float | None
) -> tuple[str, str]:
    """Return a value and its interval with digits that follow the width of the interval."""
    if value is None:
        return "no score", ""
    if low is None or high is None:
        return f"{value:.3f}", "needs 2 texts"
    digits = _digits(high - low)
    return f"{value:.{digits}f}", f"{low:.{digits}f}–{high:.{digits}f}"


def difference(value: float, low: float | None, high: float | None) -> tuple[str, str]:
    """Return a signed difference and its interval."""
    if low is None or high is None:
        return f"{value:+.3f}", "needs 2 texts"
    digits = _digits(high - low)
    return f"{value:+.{digits}f}", f"{low:+.{digits}f} to {high:+.{digits}f}"


def _digits(width: float) -> int:
    digits = 3
    while digits < 5 and width < 2 * 10.0**-digits:
        digits += 1
    return digits


def title_of(indicator: str) -> str:
    """Return the heading of an indicator; its name where this release does not know it."""
    return INDICATORS[indicator].title if indicator in INDICATORS else indicator


def value_in(held: Mapping[str, TypeValue], name: str) -> str:
    """Return a further indicator of a type, nothing where it has none."""
    row = held.get(name)
    return "" if row is None else by_indicator(row.value, row.low, row.high)[0]


def by_indicator(value: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    """Return a value and its interval, which has no width where the data play no part."""
    if value is not None and low is not None and low == high:
        return f"{value:.4g}", ""
    return value_and_interval(value, low, high)
