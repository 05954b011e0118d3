"""Characters that act instead of being read: found in text that others wrote, and shown as escapes.

A line break ends a comment of a generated file, an escape sequence moves the cursor of a terminal,
a mark of direction shows a line in another order than it runs. None of them belongs in a name.

Imports the standard library only.
"""

from __future__ import annotations

import re

_ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: line breaks, terminal escapes
    "\u2028\u2029"  # line and paragraph separators
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks of direction
    "\ud800-\udfff]"  # surrogates, which no file can hold
)


def acting(text: str) -> str | None:
    r"""Return the first character of a text that acts instead of being read, or None.

    >>> acting("a\nb"), acting("plain µ text")
    ('\n', None)
    """
    found = _ACTING.search(text)
    return None if found is None else found[0]


def escaped(text: str, *, keep: str = "") -> str:
    r"""Return the text with such characters written as escapes, except for those in `keep`.

    >>> escaped("a\x1b[2Jb")
    'a\\x1b[2Jb'
    >>> escaped("two\nlines", keep="\n") == "two\nlines"
    True
    """
    return _ACTING.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def escaped_json(document: str) -> str:
    r"""Return a JSON document with such characters as `\uXXXX`: the same values, safe to print.

    Line breaks and tabs stay: inside a JSON string they are escaped already.
    """
    return _ACTING.sub(
        lambda found: found[0] if found[0] in "\n\r\t" else f"\\u{ord(found[0]):04x}", document
    )
