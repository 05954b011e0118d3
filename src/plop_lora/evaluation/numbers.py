r"""Numbers in answers and references, read as a whole or not at all. No torch.

A fraction (`3/4`, `3 1/2`, `\frac{3}{4}`) is one number. A time, a date, a power or a list is none,
and the 2 of `m2` belongs to the unit.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from plop_lora.errors import DataError

MARK = "####"
_UNSIGNED = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"  # commas part thousands
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)])[-+])?"  # a sign, not a hyphen or a difference
    r"(?<![\d^]|[^\W\d])(?<!\d[.,:/^])"  # not inside a number, a word or a power
    r"(?:(?P<whole>\d+) (?=\d+/))?"
    rf"(?P<number>{_UNSIGNED}(?:[eE][-+]?\d{{1,3}})?)"
    r"(?:/(?P<denominator>\d+))?"
    r"(?![.,:/^]?\d)"  # "1,2,3" is a list, "1.2.3" a version, "10:30" a time, "1/2/24" a date
    r"(?!\^|\s*[×x·*]\s*10\^)"
)
_LEFT_OUT = re.compile(r"(?<![\d^]|[^\W\d])\d")
"""A digit that is no part of a word or a power."""
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_PLAIN = str.maketrans({"−": "-", "⁄": "/", **dict.fromkeys("$€£¥₹")})
_EMPHASIS = " \t*_`"
_SHOWN = 200


def marked_number(text: str) -> Fraction | None:
    r"""Return the number right after the last `####` of a text, None where there is none.

    >>> marked_number("6 * 3 = 18\n#### $1,018.50"), marked_number("It is 18.")
    (Fraction(2037, 2), None)
    >>> marked_number("#### 3/8"), marked_number("#### **42**")
    (Fraction(3, 8), Fraction(42, 1))
    """
    _, mark, tail = text.rpartition(MARK)
    found = _NUMBER.match(_plain(tail).lstrip().lstrip(_EMPHASIS)) if mark else None
    return _value(found) if found else None


def marked_numbers(text: str) -> list[Fraction]:
    """Return the numbers right after each `####` of a text, in their order.

    >>> marked_numbers("#### 4 and #### 5"), marked_numbers("It is 4.")
    ([Fraction(4, 1), Fraction(5, 1)], [])
    """
    parts = text.split(MARK)
    heads = [f"{MARK}{part}" for part in parts[1:]]
    return [number for head in heads if (number := marked_number(head)) is not None]


def last_number(text: str) -> Fraction | None:
    """Return the last number of a text, None where it has none.

    >>> last_number("10-5 leaves 5, so the answer is -2."), last_number("The area is 12 m2.")
    (Fraction(-2, 1), Fraction(12, 1))
    >>> last_number("1,234 and 1e5"), last_number("1,2,3")
    (Fraction(100000, 1), None)
    """
    found = _last(_plain(text))
    return _value(found) if found else None


def _last(text: str) -> re.Match[str] | None:
    found = list(_NUMBER.finditer(text))
    return found[-1] if found else None


def reference_number(reference: str, reader: str) -> Fraction:
    """Return the number of a reference: the one after its `####`, or else its last.

    Args:
        reference: The right answer.
        reader: Name of the metric or reward that reads the number, for the error.

    Raises:
        DataError: There is no number, or only a part of what stands there can be read.
    """
    _, mark, tail = reference.rpartition(MARK)
    line = next(iter(tail.strip().splitlines()), "") if mark else reference
    text = _plain(line).lstrip(_EMPHASIS)
    match = _NUMBER.match(text) if mark else _last(text)
    number = _value(match) if match else None
    if match is None or number is None:
        what = "finds no number"
    elif _LEFT_OUT.search(text, match.end()):
        what = f"reads {match.group()!r}, which is only a part of what stands"
    else:
        return number
    shown = reference if len(reference) <= _SHOWN else f"… {reference[-_SHOWN:]}"
    raise DataError(
        f"{reader} {what} in the reference {shown!r}. Write references that end in a line "
        f"'{MARK} 42', with one number, or judge by another metric or reward."
    )


def ends_in_number(text: str) -> bool:
    """Whether the last line that is not empty is `####` and a number, and nothing else."""
    lines = text.strip().splitlines()
    last = _plain(lines[-1]).strip() if lines else ""
    return last.startswith(MARK) and bool(_NUMBER.fullmatch(last[len(MARK) :].strip(_EMPHASIS)))


def _plain(text: str) -> str:
    return _FRACTION.sub(r"\1/\2", text.translate(_PLAIN))


def _value(found: re.Match[str]) -> Fraction | None:
    denominator = int(found["denominator"] or 1)
    if denominator == 0:
        return None
    number = Fraction(Decimal(found["number"].replace(",", ""))) / denominator
    number += int(found["whole"] or 0)
    return -number if found["sign"] == "-" else number
