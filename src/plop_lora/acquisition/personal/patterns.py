"""What finds personal data and secrets without another library: patterns, then check digits.

A finding is a kind and the place of it in a text. Patterns are bounded, so that no text takes more
than time in proportion to its length.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from plop_lora.acquisition.personal.check_digits import is_card, is_iban, is_my_number

Place = tuple[int, int]
"""First and last position of a finding in its text, as of a slice."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One thing to look for.

    Attributes:
        kind: Kind that is reported.
        needs: Characters of which a text must hold one, which is looked for first.
        expression: Regular expression of a candidate.
        is_real: Function that says whether a candidate is one.
    """

    kind: str
    needs: str
    expression: re.Pattern[str]
    is_real: Callable[[re.Match[str]], bool] = lambda _: True

    def places(self, text: str) -> Iterator[Place]:
        """Yield the places where it stands in a text."""
        if any(sign in text for sign in self.needs):
            yield from (m.span() for m in self.expression.finditer(text) if self.is_real(m))


def _digits(found: re.Match[str]) -> str:
    return re.sub(r"\D", "", found[0])


def _is_my_number(found: re.Match[str]) -> bool:
    """Return whether a candidate is one; twelve digits in a row need a word that says so."""
    text, start, stop = found.string, found.start(), found.end()
    if found[1] == " " and (_ENDS_IN_DIGIT.search(text, max(start - 2, 0), start)
                            or _BEGINS_WITH_DIGIT.match(text, stop)):  # fmt: skip
        return False  # a part of a longer number in groups of four
    named = found[1] or _MY_NUMBER_WORD.search(text, max(start - 40, 0), start)
    return bool(named) and is_my_number(_digits(found))


def _is_public_address(found: re.Match[str]) -> bool:
    """Return whether a candidate is an address of the internet and no number of a version."""
    if "." in found[0] and len(found[0]) == len("1.2.3.4"):
        return False
    try:
        return ipaddress.ip_address(found[0]).is_global
    except ValueError:
        return False


_MY_NUMBER_WORD = re.compile("マイナンバー|個人番号|my ?number|individual number", re.IGNORECASE)
_ENDS_IN_DIGIT, _BEGINS_WITH_DIGIT = re.compile(r"\d \Z"), re.compile(r" \d")
_DIGITS = "0123456789"
PATTERNS = (
    Pattern("password", ":", re.compile(r"://[^\s/:@]{1,100}:[^\s/:@]{1,200}@[\w.-]")),
    Pattern(
        "email", "@",
        re.compile(
            r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"
        ),
    ),
    Pattern(
        "card", _DIGITS,
        re.compile(
            r"(?<![\w.])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,7}|3[47]\d\d([ -]?)\d{6}\2\d{5})"
            r"(?![\w]|[.,]\d)"
        ),
        lambda found: is_card(_digits(found)),
    ),
    Pattern(
        "iban", _DIGITS,
        re.compile(r"(?<!\w)[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)"),
        lambda found: is_iban(found[0].replace(" ", "")),
    ),
    Pattern(
        "my-number", _DIGITS,
        re.compile(r"(?<![\d.,-])\d{4}([ -]?)\d{4}\1\d{4}(?!\d|[,.-]\d)", re.ASCII),
        _is_my_number,
    ),
    Pattern(
        "ip-address", _DIGITS,
        re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)", re.ASCII),
        _is_public_address,
    ),
    Pattern(
        "ip-address", ":",
        re.compile(
            r"(?<![\w:])(?=[0-9a-fA-F:]{0,30}[0-9a-fA-F]{3})[0-9a-fA-F]{1,4}"
            r"(?::{1,2}[0-9a-fA-F]{1,4}){3,7}(?:::)?(?![\w:])"
        ),
        _is_public_address,
    ),
    Pattern(
        "api-key", "_-AK",
        re.compile(
            r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{30,80}|sk-(?:ant|proj)-[\w-]{20,250}"
            r"|gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_\w{22,251}|(?:AKIA|ASIA)[A-Z0-9]{16})"
            r"(?![A-Za-z0-9])"
        ),
    ),
    Pattern("private-key", "-", re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY")),
)  # fmt: skip
"""What is looked for. Where two overlap, the first counts."""
