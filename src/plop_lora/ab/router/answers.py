"""What an answer that passes through tells: when it began and ended, its tokens, how it ended.

The bytes of the answer are looked at and not changed. Imports the standard library only.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_TAIL = 64 * 2**10
"""Bytes of the end of a stream that are kept, in which its last event is."""
_WHOLE = 4 * 2**20
"""Bytes of an answer in JSON that are kept; the tokens of a larger one are missing."""
_DONE = b"data: [DONE]"


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    UPSTREAM_ERROR = "upstream_error"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    CUT = "cut"
    CLIENT_GONE = "client_gone"

    @property
    def is_failure(self) -> bool | None:
        """Whether the arm failed; None where that cannot be said, as the client has left."""
        return None if self is Outcome.CLIENT_GONE else self is not Outcome.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A request that has ended.

    Attributes:
        outcome: How it ended.
        first: Seconds to the first byte of a streamed answer; None where it was not streamed.
        last: Seconds to its end.
        tokens_in: Tokens of the prompt, or None where the upstream says nothing of them.
        tokens_out: Tokens of the answer, or None.
    """

    outcome: Outcome
    first: float | None
    last: float
    tokens_in: int | None = None
    tokens_out: int | None = None


class AnswerWatch:
    """Follows the chunks of one answer.

    Attributes:
        is_stream: Whether the answer is a stream of events.
        beginning: Its first `keep` bytes.
    """

    __slots__ = ("_keep", "_kept", "_length", "_limit", "_size", "_total", "beginning", "is_stream")

    def __init__(self, content_type: str, length: int | None, *, keep: int = 0) -> None:
        kind = content_type.partition(";")[0].strip().lower()
        self.is_stream = kind == "text/event-stream"
        self._limit = _TAIL if self.is_stream else _WHOLE if kind.endswith("json") else 0
        self._length = length
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._total = 0
        self._keep = keep
        self.beginning = b""

    @property
    def is_complete(self) -> bool:
        """Whether as many bytes have come as the answer was announced to have."""
        return self._total == self._length

    def add(self, chunk: bytes) -> bool:
        """Take a chunk.

        Returns:
            Whether the answer is complete with it, as a client sees it.
        """
        self._total += len(chunk)
        self._hold(chunk)
        if len(self.beginning) < self._keep:
            self.beginning += chunk[: self._keep - len(self.beginning)]
        if self.is_stream:
            return _DONE in chunk or (len(chunk) < len(_DONE) and _DONE in b"".join(self._kept))
        return self.is_complete

    def _hold(self, chunk: bytes) -> None:
        if not self._limit:
            return
        self._kept.append(chunk)
        self._size += len(chunk)
        if not self.is_stream:
            if self._size > self._limit:
                self._limit = 0
                self._kept.clear()
            return
        while self._size - len(self._kept[0]) >= self._limit:
            self._size -= len(self._kept.popleft())

    def tokens(self) -> tuple[int | None, int | None]:
        """Return the tokens of the prompt and of the answer, each None where it is not told."""
        content = b"".join(self._kept)
        usage = _last_usage(content) if self.is_stream else _usage(content)
        return _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")


def _last_usage(stream: bytes) -> dict[str, Any]:
    """Return the usage of the last event that has one."""
    for line in reversed(stream.split(b"\n")):
        if line.startswith(b"data:") and b'"usage"' in line:
            usage = _usage(line[len(b"data:") :])
            if usage:
                return usage
    return {}


def _usage(document: bytes) -> dict[str, Any]:
    if b'"usage"' not in document:
        return {}
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):
        return {}
    usage = content.get("usage") if isinstance(content, dict) else None
    return usage if isinstance(usage, dict) else {}


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if good else None
