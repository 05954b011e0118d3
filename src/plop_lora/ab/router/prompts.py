"""Prompts and answers in a file, only where that was asked for.

Each line is a JSON object with the pseudonym of the unit, the arm, the request and the answer. The
file can be read by its owner alone. Imports the standard library only.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from plop_lora.errors import OutputError

LONGEST = 64 * 2**10
"""Bytes of a request, and of an answer, that are kept."""


class PromptFile:
    """A file that prompts and answers are appended to."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it where there is none.

        Raises:
            OutputError: It cannot be opened, is a link, or others may read it.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise OutputError(
                f"Cannot write prompts to {path}: {error.strerror or error}. "
                "Give another path with --store-prompts."
            ) from error
        if os.fstat(self._file).st_mode & 0o077:
            os.close(self._file)
            raise OutputError(
                f"Others may read {path}, and it would hold prompts. Run chmod 600 on it, or give "
                "another path with --store-prompts."
            )

    def append(self, *, unit: str, arm: str, request: bytes, answer: bytes) -> None:
        """Append one request with its answer, each up to `LONGEST` bytes.

        Raises:
            OSError: The disk is full or fails.
        """
        line = {
            "at": datetime.now(UTC).isoformat(),
            "unit": unit,
            "arm": arm,
            "request": request[:LONGEST].decode(errors="replace"),
            "answer": answer[:LONGEST].decode(errors="replace"),
            "shortened": max(len(request), len(answer)) > LONGEST,
        }
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
