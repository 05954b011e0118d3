"""Passwords and keys of services, found by the library detect-secrets.

Of its detectors those of entropy are left out, which take identifiers and digits for secrets, and
that of addresses, which `patterns.py` has. Nothing is sent anywhere to verify a finding, and a mark
in the data that a line is to be passed over has no effect.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from plop_lora.acquisition.personal.patterns import Place
from plop_lora.errors import require

_LEFT_OUT = ("Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector")
_FILTERS = (
    "is_sequential_string", "is_potential_uuid", "is_likely_id_string", "is_templated_secret",
    "is_prefixed_with_dollar_sign", "is_indirect_reference", "is_not_alphanumeric_string",
)  # fmt: skip
_PASSWORDS = ("Secret Keyword", "Basic Auth Credentials")
_PRIVATE = "Private Key"
_WORTH_A_LOOK = re.compile(
    r"key|pass|pwd|secret|token|contrase|auth|akc|://|[A-Za-z0-9_.+/=-]{16}", re.IGNORECASE
)
"""What every line has in which a detector finds something; looking at all takes 0.25 ms a line."""
LONGEST_LINE = 4_000
"""Characters of a line that are looked at together; longer ones are cut into overlapping parts."""
_OVERLAP = 500
Find = Callable[[str], Iterator[tuple[str, Place]]]


@contextlib.contextmanager
def secrets_finder() -> Iterator[Find]:
    """Yield a function that yields the kind and place of every secret in a text.

    Raises:
        MissingExtraError: detect-secrets is not installed.
    """
    require("detect_secrets")
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import transient_settings

    names = {kind.__name__ for kind in get_mapping_from_secret_type_to_class().values()}
    config = {
        "plugins_used": [{"name": name} for name in sorted(names.difference(_LEFT_OUT))],
        "filters_used": [{"path": f"detect_secrets.filters.heuristic.{n}"} for n in _FILTERS],
    }

    def find(text: str) -> Iterator[tuple[str, Place]]:
        for offset, line in _lines(text):
            if _WORTH_A_LOOK.search(line):
                for secret in scan_line(line):
                    yield _kind(secret.type), _place(line, offset, secret.secret_value or "")

    with transient_settings(config):
        yield find


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield every line with its place in the text, a long one in parts."""
    offset = 0
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), LONGEST_LINE - _OVERLAP):
            yield offset + start, line[start : start + LONGEST_LINE]
        offset += len(line)


def _kind(secret_type: str) -> str:
    if secret_type in _PASSWORDS:
        return "password"
    return "private-key" if secret_type == _PRIVATE else "api-key"


def _place(line: str, offset: int, value: str) -> Place:
    start = offset + max(line.find(value), 0)
    return start, start + max(len(value), 1)
