"""Bounds of numeric options, checked while the command line is parsed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import typer

from plop_lora.errors import UsageError

Number = TypeVar("Number", int, float, None)


def bounded(
    least: float, most: float | None = None
) -> Callable[[typer.CallbackParam, Number], Number]:
    """Return a callback for an option that rejects numbers outside of its bounds.

    Unlike the bounds of typer's own, they do not widen the column of types in the help.
    """
    allowed = f"{least:g} or more" if most is None else f"{least:g} to {most:g}"
    highest = math.inf if most is None else most

    def check(parameter: typer.CallbackParam, value: Number) -> Number:
        if value is not None and not (math.isfinite(value) and least <= value <= highest):
            raise UsageError(f"{parameter.opts[0]} {value} is not possible; give {allowed}.")
        return value

    return check
