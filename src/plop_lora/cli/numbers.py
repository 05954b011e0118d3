"""Bounds of the options that are numbers, checked while the line is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import typer

from plop_lora.errors import UsageError

Number = TypeVar("Number", int, float, None)


def bounded(
    least: float | None = None, *, above: float | None = None, below: float | None = None
) -> Callable[[typer.CallbackParam, Number], Number]:
    """Return the callback of an option that refuses a number out of its range.

    Args:
        least: the smallest number that is allowed.
        above: the number must be greater than this.
        below: the number must be smaller than this.
    """
    parts = [f"{least:g} or more"] if least is not None else []
    parts += [f"a number above {above:g}"] if above is not None else []
    parts += [f"below {below:g}"] if below is not None else []

    def check(parameter: typer.CallbackParam, value: Number) -> Number:
        if value is None:
            return value
        fits = (
            math.isfinite(value)
            and (least is None or value >= least)
            and (above is None or value > above)
            and (below is None or value < below)
        )
        if not fits:
            raise UsageError(
                f"{parameter.opts[0]} {value} is not possible; give {' and '.join(parts)}."
            )
        return value

    return check
