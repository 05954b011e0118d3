"""Numbers that carry check digits: payment cards, IBAN, and the Japanese My Number.

A check digit turns down ten of eleven numbers and more, so that amounts and results of sums are not
taken for them.
"""

from __future__ import annotations

_ISSUERS = (
    (range(4, 5), (13, 16, 19)),
    (range(34, 35), (15,)),
    (range(37, 38), (15,)),
    (range(51, 56), (16,)),
    (range(65, 66), (16,)),
    (range(2221, 2721), (16,)),
    (range(3528, 3590), (16,)),
    (range(6011, 6012), (16,)),
)
"""First digits of the numbers of an issuer, and their lengths. Source: ISO/IEC 7812, in part."""
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22,
    "BR": 29, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20,
    "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27,
    "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30,
    "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22,
    "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27,
    "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
"""Number of characters by country. Source: the IBAN registry of SWIFT."""


def is_card(digits: str) -> bool:
    """Return whether digits are the number of a payment card: issuer, length and Luhn's formula.

    >>> is_card("4111111111111111"), is_card("4111111111111112")
    (True, False)
    """
    known = any(
        len(digits) in lengths and int(digits[: len(str(first.start))]) in first
        for first, lengths in _ISSUERS
    )
    return known and _luhn(digits)


def _luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Return whether a text without spaces is an IBAN: its country, length and remainder by 97.

    >>> is_iban("DE89370400440532013000"), is_iban("DE88370400440532013000")
    (True, False)
    """
    if _IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(sign, 36)) for sign in text[4:] + text[:4])) % 97 == 1


def is_my_number(digits: str) -> bool:
    """Return whether twelve digits are a Japanese Individual Number, by the last of them.

    Source: Ordinance of the Ministry of Internal Affairs and Communications No. 85 of 2014,
    article 5.

    >>> is_my_number("123456789018"), is_my_number("123456789019")
    (True, False)
    """
    if len(digits) != 12 or len(set(digits)) == 1:
        return False
    places = enumerate(reversed(digits[:11]), start=1)
    total = sum(int(digit) * (place + 1 if place <= 6 else place - 5) for place, digit in places)
    remainder = total % 11
    return int(digits[11]) == (0 if remainder <= 1 else 11 - remainder)
