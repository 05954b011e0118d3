"""Headers: which are passed on in each direction, and the token that a client sent.

Imports the standard library only.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence

Pairs = Sequence[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
    b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
})  # fmt: skip
"""Headers of one connection (RFC 9110, section 7.6.1, and those of before it)."""
_NOT_SENT = frozenset({b"host", b"content-length", b"expect", b"accept-encoding"})
"""Headers that the client of the router sets itself. An answer that is not compressed can be read
for its number of tokens, and the servers that are meant here compress none."""


def named(headers: Pairs, name: bytes) -> list[bytes]:
    """Return the values of a header, whose name is in lower case."""
    return [value for key, value in headers if key == name]


def bearer(headers: Pairs) -> bytes:
    """Return the bearer token of a request, or nothing where there is none or more than one."""
    values = named(headers, b"authorization")
    if len(values) != 1:
        return b""
    scheme, _, token = values[0].partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def is_token(given: bytes, token: str) -> bool:
    """Whether a token is the expected one, in a time that does not depend on how far it agrees."""
    return bool(token) and hmac.compare_digest(given, token.encode())


def to_upstream(headers: Pairs, *, without: Iterable[bytes], key: str) -> list[tuple[str, str]]:
    """Return the headers that go to the upstream.

    Args:
        headers: Headers of the client, names in lower case.
        without: Names of further headers that stay here, such as that of the unit.
        key: Key of the upstream, which takes the place of the client's authorization, or empty.
    """
    dropped = _HOP_BY_HOP | _NOT_SENT | _named_by_connection(headers) | set(without)
    if key:
        dropped |= {b"authorization"}
    kept = [(_text(name), _text(value)) for name, value in headers if name not in dropped]
    if key:
        kept.append(("authorization", f"Bearer {key}"))
    return kept


def to_client(headers: Pairs) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer that go to the client, names in lower case."""
    lower = [(name.lower(), value) for name, value in headers]
    dropped = _HOP_BY_HOP | _named_by_connection(lower)
    return [(name, value) for name, value in lower if name not in dropped]


def _named_by_connection(headers: Pairs) -> set[bytes]:
    return {
        word.strip().lower()
        for value in named(headers, b"connection")
        for word in value.split(b",")
    }


def _text(value: bytes) -> str:
    """Return bytes as the text that the client of the router encodes as UTF-8 again."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
