"""A key that must not be seen, and texts without it. Imports the standard library only."""

from __future__ import annotations

import base64
import json
import os
import urllib.parse

from plop_lora.errors import UsageError

_MASK = "[key]"
_PART = 8
"""So many characters of a key in a row are taken for a part of it."""


def key_of(variable: str) -> str | None:
    """Return the key in an environment variable, or None where it is empty or not set.

    Raises:
        UsageError: It holds characters that a header cannot hold.
    """
    key = os.environ.get(variable, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise UsageError(
            f"The key in {variable} holds a space, a line break or another character that no key "
            "has. Set the variable again."
        )
    return key or None


def without_key(text: str, key: str | None) -> str:
    """Return a text in which neither a key nor a part of it can be read.

    >>> without_key("Wrong key 'secret-key-1': secret-k…", "secret-key-1")
    "Wrong key '[key]': [key]…"
    """
    if key is None:
        return text
    forms = {key, urllib.parse.quote(key, safe=""), json.dumps(key)[1:-1]}
    forms.add(base64.b64encode(key.encode()).decode())
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, _MASK)
    for start in range(len(key) - _PART + 1):
        text = text.replace(key[start : start + _PART], _MASK)
    return text
