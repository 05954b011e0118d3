"""Bounds of numeric options, checked while the command line is parsed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import typer

from plop_lora.errors import UsageError

Number = TypeVar("Number", int, float, None)


def bounded(least: float) -> Callable[[typer.CallbackParam, Number], Number]:
    """Return a callback for an option that rejects numbers below a lower bound."""

    def check(parameter: typer.CallbackParam, value: Number) -> Number:
        if value is not None and not (math.isfinite(value) and value >= least):
            raise UsageError(
                f"{parameter.opts[0]} {value} is not possible; give {least:g} or more."
            )
        return value

    return check
