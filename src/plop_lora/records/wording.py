"""Validation errors of pydantic as sentences about the file that the user wrote.

Takes pydantic's description of an error as plain values and does not import pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_EXPECTED = {
    "bool": "true or false",
    "dataclass": "a section of keys with values",
    "dict": "a section of keys with values",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "mapping": "a section of keys with values",
    "model": "a section of keys with values",
    "string": "text",
    "tuple": "a list",
}
"""First word of pydantic's name of an error → the kind of value that is expected."""

_BOUNDS = {
    "greater_than": ("gt", "above {}"),
    "greater_than_equal": ("ge", "{} or more"),
    "less_than": ("lt", "below {}"),
    "less_than_equal": ("le", "{} or less"),
}
_LONGEST = 40


def fault_at(place: str, error: Mapping[str, object]) -> str:
    """Return a sentence, without its full stop, that says what is wrong with a value.

    Args:
        place: Key or field, as the user would name it.
        error: Entry of `ValidationError.errors()`.
    """
    fault = _fault(error)
    if fault is not None:
        return f"{place} {fault}"
    return f"{place}: {str(error['msg']).removeprefix('Value error, ').rstrip('.')}"


def _fault(error: Mapping[str, Any]) -> str | None:
    """Return the rest of a sentence that begins with the key, or None for other errors."""
    kind, context, value = error["type"], error.get("ctx", {}), error.get("input")
    if kind == "missing":
        return "is needed, but is not there"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"is {_shown(value)}; it must be {words.format(format(context[name], 'g'))}"
    if kind in ("too_short", "too_long"):
        least = context.get("min_length")
        bound = f"at least {least}" if least is not None else f"at most {context['max_length']}"
        return f"has {context['actual_length']} entries; it must have {bound}"
    if kind == "finite_number":
        return f"is {_shown(value)}; it must be a finite number"
    expected = _EXPECTED.get(kind.split("_")[0])
    return None if expected is None else f"must be {expected}, and is {_shown(value)}"


def _shown(value: object) -> str:
    """Return a value as text, shortened if it is long."""
    if isinstance(value, Mapping):
        return "a section of keys"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "empty"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
