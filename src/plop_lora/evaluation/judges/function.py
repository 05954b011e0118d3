"""A function of the user's as a judge, given as `module:function`. No torch."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plop_lora.errors import DataError, PlopError, UsageError
from plop_lora.escapes import escaped
from plop_lora.evaluation.judges.judge import Item, Ratings
from plop_lora.user_code import find_function

KINDS = ("an address such as http://localhost:8000/v1",)
"""What a judge may be beside a function, for the text of errors."""
_DIGITS = 16
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class FunctionJudge:
    """Calls a function with each prompt and answer; a `Rater`.

    Attributes:
        name: Name of the function, as `module:function`. It is imported when it is first needed.
    """

    name: str

    @property
    def identity(self) -> str:
        """Name of the function, and a digest of the text of its file."""
        return f"function {self.name}, file {_digest(self._function(), self.name)}"

    def check(self) -> None:
        """Import the function.

        Raises:
            UsageError: There is no such module or function, or its file cannot be read.
        """
        _digest(self._function(), self.name)

    def rate(self, items: Sequence[Item]) -> Ratings:
        """Yield the value of each item, in their order.

        Raises:
            DataError: The function failed on an item or returned something else than a value.
        """
        function = self._function()
        for item in items:
            try:
                value = function(item.prompt, item.answer)
            except PlopError:
                raise
            except Exception as error:
                raise DataError(
                    f"The judge {self.name!r} raised {type(error).__name__} on item {item.number}: "
                    f"{escaped(str(error)[:_SHOWN])}."
                ) from error
            yield item, self._checked(value, item)

    def _function(self) -> Callable[..., Any]:
        return find_function(self.name, "judge", KINDS)

    def _checked(self, value: Any, item: Item) -> float | None:
        """Return the value of an item as a number; NumPy's kinds of numbers are numbers as well."""
        if value is None:
            return None
        try:
            number = -1.0 if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = -1.0
        if 0 <= number <= 1:
            return number
        raise DataError(
            f"The judge {self.name!r} returned {escaped(repr(value)[:_SHOWN])} for item "
            f"{item.number}. It must return True or 1 for unsafe, False or 0 for safe, a number "
            "between them, or None if it cannot decide."
        )


def _digest(function: Callable[..., Any], name: str) -> str:
    """Return a digest of the file in which a function, or the class of a callable, is defined."""
    path = _file_of(inspect.unwrap(function)) or _file_of(type(function))
    path = path or getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    try:
        content = Path(path or "").read_bytes()
    except OSError as error:
        raise UsageError(
            f"The judge {name!r} is defined in no file that can be read, so its judgements cannot "
            "be told from those of another. Define it in a Python file."
        ) from error
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _file_of(thing: Any) -> str | None:
    try:
        return inspect.getsourcefile(thing)
    except TypeError:
        return None
