"""Telephone numbers, which are told from other numbers by how they are written.

A number counts where it begins with + and a country, or is grouped as the numbers of Japan or of
North America are. Digits in a row are no telephone number, except for a Japanese mobile one: sums
and identifiers look the same. Where the library phonenumbers is installed, it says of every
candidate whether such a number can exist, for more countries too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from plop_lora.acquisition.personal.patterns import Place
from plop_lora.errors import require

_PLUS = re.compile(
    r"(?<![\w+)=])\+(?:\d{10,15}|\d{1,3} \d{8,12}"
    r"|\d{1,3}[ .-]\(?\d{1,5}\)?(?:[ .-]\d{2,5}){1,4})(?![\w]|[.,-]\d)",
    re.ASCII,
)
_ZERO = re.compile(
    r"(?<![\w.,+/=-])(?:\(0\d{1,5}\) ?|0\d{1,5}[/-]|(?<!\d )0\d{1,5} (?=\d{2,8} \d))"
    r"\d{1,8}(?:[ -]\d{2,8}){0,3}(?![\w]|[.,/-]\d)"
    r"|(?<![\w.,+/=-])0[789]0\d{8}(?![\w]|[.,/-]\d)",
    re.ASCII,
)
_NORTH_AMERICA = re.compile(
    r"(?<![\w.,+/=(-])(?:\([2-9]\d\d\) ?|[2-9]\d\d([.-]))[2-9]\d\d[.-]\d{4}(?![\w]|[.,/-]\d)",
    re.ASCII,
)
_JAPANESE = re.compile(r"\(?0\d{1,4}[)-] ?\d{1,4}-\d{4}|0[789]0\d{8}", re.ASCII)
JAPAN, NORTH_AMERICA = "JP", "US"
IsNumber = Callable[[str, str | None], bool]
"""Says of a candidate, in a region or None for an international one, whether it is a number."""


def phone_places(text: str, regions: Sequence[str], is_number: IsNumber) -> Iterator[Place]:
    """Yield the places of telephone numbers in a text; they do not overlap.

    Args:
        text: Any text.
        regions: Countries in whose national form numbers count, such as JP.
        is_number: Function that says of a candidate whether it is a number.
    """
    end = 0
    for start, stop, wanted in sorted(_candidates(text, regions)):
        if start >= end and any(is_number(text[start:stop], region) for region in wanted):
            end = stop
            yield start, stop


def _candidates(
    text: str, regions: Sequence[str]
) -> Iterator[tuple[int, int, tuple[str | None, ...]]]:
    if "+" in text:
        yield from ((*found.span(), (None,)) for found in _PLUS.finditer(text))
    national = tuple(region for region in regions if region != NORTH_AMERICA)
    if national and "0" in text:
        yield from ((*found.span(), national) for found in _ZERO.finditer(text))
    if NORTH_AMERICA in regions:
        american = (NORTH_AMERICA,)
        yield from ((*found.span(), american) for found in _NORTH_AMERICA.finditer(text))


def looks_like_a_number(text: str, region: str | None) -> bool:
    """Return whether a candidate has as many digits, and is grouped, as numbers of its region."""
    digits = len(re.sub(r"\D", "", text))
    if region is None:
        return 9 <= digits <= 15
    if region == JAPAN:
        return 10 <= digits <= 11 and _JAPANESE.fullmatch(text) is not None
    return region == NORTH_AMERICA


def library_check() -> IsNumber:
    """Return the check of the library phonenumbers.

    Raises:
        MissingExtraError: It is not installed.
    """
    phonenumbers = require("phonenumbers")

    def is_number(text: str, region: str | None) -> bool:
        try:
            number = phonenumbers.parse(text, region)
        except phonenumbers.NumberParseException:
            return False
        valid: bool = phonenumbers.is_valid_number(number)
        return valid

    return is_number
