"""A key that must not be seen, and texts without it. Imports no more than errors and escapes."""

from __future__ import annotations

import base64
import json
import os
import urllib.parse

from plop_lora.errors import UsageError
from plop_lora.escapes import escaped

_MASK = "[key]"
_PART = 8
"""So many characters of a key in a row are taken for a part of it."""
NO_KEY = "none"
"""Sent where there is no key, since the client wants one; servers without keys ignore it."""
_SHOWN = 300
_READ = 10_000


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


def told_by_server(text: str, variable: str) -> str:
    """Return what a server said: without the key, short, without a full stop, and safe to print.

    Args:
        text: What it said.
        variable: Environment variable with the key.
    """
    shown = escaped(without_key(text[:_READ], key_of(variable)).strip().rstrip("."))
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} …"
