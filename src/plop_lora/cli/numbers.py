"""Bounds of the options that are numbers, checked while the line is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import typer

from plop_lora.errors import UsageError

Number = TypeVar("Number", int, float, None)


def bounded(least: float) -> Callable[[typer.CallbackParam, Number], Number]:
    """Return the callback of an option that refuses a number below the least that is allowed."""

    def check(parameter: typer.CallbackParam, value: Number) -> Number:
        if value is not None and not (math.isfinite(value) and value >= least):
            raise UsageError(
                f"{parameter.opts[0]} {value} is not possible; give {least:g} or more."
            )
        return value

    return check
