"""The words and the numbers of a report in the reader's language.

Every word stands in `en.py` and `ja.py`, under the same keys, and those of one kind in a file of
both languages: heads of columns in `columns.py`, costs of a placement in `caveats.py`, the section
of a robustness record in `robustness.py`. What a record holds as text (reasons, notes, names) is
English, or the user's own; the short names and reasons of `recorded.py` are translated, and the
others are shown as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from plop_lora.errors import UsageError
from plop_lora.reports.text import caveats, columns, en, ja, recorded, robustness

LANGUAGES: dict[str, Mapping[str, str]] = {
    "en": en.TEXT | columns.EN | caveats.EN | recorded.EN | robustness.EN,
    "ja": ja.TEXT | columns.JA | caveats.JA | recorded.JA | robustness.JA,
}
"""Language → key → text."""


@dataclass(frozen=True, slots=True)
class Text:
    """The texts of one language.

    Attributes:
        language: Code of the language, a key of `LANGUAGES`.
        table: The texts by key.
    """

    language: str
    table: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """Return the text of a key, with its placeholders replaced by the values."""
        return self.table[key].format(**values)

    def word(self, value: StrEnum) -> str:
        """Return the word for a member of a closed vocabulary, such as a verdict."""
        return self.table[f"word.{value}"]

    def recorded(self, what: str, value: str) -> str:
        """Return a name or reason that plop-lora wrote into a record; any other as it is.

        >>> text("ja").recorded("ended", "open at 2 seeds")
        'シード 2 個でも未決着'
        """
        return recorded.recorded(what, value, self.table)

    def listed(self, names: list[str]) -> str:
        """Return names as a list in a sentence."""
        return self("list.separator").join(names)

    def count(self, number: int) -> str:
        """Return a whole number with separated thousands."""
        return f"{number:,}"

    def percent(self, share: float) -> str:
        """Return a share of 1 as a percentage with three significant digits."""
        return self("percent", number=f"{100 * share:.3g}")

    def interval(
        self, low: float | None, high: float | None, *, digits: int = 3, signed: bool = False
    ) -> str:
        """Return the bounds of an interval; nothing where one is missing."""
        if low is None or high is None:
            return ""
        low_end, high_end = (number(end, digits, signed=signed) for end in (low, high))
        return self("interval", low=low_end, high=high_end)

    def duration(self, seconds: float) -> str:
        """Return a time in its two largest units, from seconds to hours.

        >>> text("en").duration(3725), text("ja").duration(42)
        ('1 h 2 min', '42 秒')
        """
        whole = round(seconds)
        if whole < 60:
            return self("seconds", number=f"{seconds:.3g}")
        if whole < 3600:
            return self("minutes", minutes=whole // 60, seconds=whole % 60)
        return self("hours", hours=f"{whole // 3600:,}", minutes=whole % 3600 // 60)

    def money(self, amount: float, currency: str) -> str:
        """Return an amount of money."""
        return f"{amount:,.2f} {currency}"


def number(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    """Return a number with so many decimals, zero never as negative; nothing where there is none.

    >>> number(-0.00001), number(0.25, 1, signed=True)
    ('0.000', '+0.2')
    """
    return "" if value is None else f"{value:{'+' if signed else ''}z.{digits}f}"


def text(language: str) -> Text:
    """Return the texts of a language.

    Raises:
        UsageError: There are none in this language.
    """
    if language not in LANGUAGES:
        raise UsageError(
            f"There is no report in the language {language!r}. Allowed: {', '.join(LANGUAGES)}."
        )
    return Text(language, LANGUAGES[language])
