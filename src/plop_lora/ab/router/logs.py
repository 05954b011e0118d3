"""The log of a router: one JSON object a line, and no flood of the same failure.

Nothing of a request or an answer is logged, and no secret. Imports the standard library only.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime

LOGGER = logging.getLogger("plop_lora.router")
_REPEAT = 60.0
"""Seconds in which a failure of one kind is logged once."""


class JsonFormatter(logging.Formatter):
    """Writes a log record as one line of JSON; characters that act are written as escapes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "message": record.getMessage()}
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            line |= {key: value for key, value in fields.items() if key not in line}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log(message: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Write a line with fields of its own."""
    LOGGER.log(level, message, extra={"fields": fields})


class Failures:
    """Logs a failure once a minute for each kind, with the number that was left out."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._silent: dict[str, int] = {}
        self._lock = threading.Lock()

    def report(self, kind: str, message: str) -> None:
        """Log a failure, unless one of its kind was logged in the last minute."""
        with self._lock:
            now = time.monotonic()
            if now - self._last.get(kind, -_REPEAT) < _REPEAT:
                self._silent[kind] = self._silent.get(kind, 0) + 1
                return
            self._last[kind] = now
            left_out = self._silent.pop(kind, 0)
        log(message, level=logging.WARNING, kind=kind, left_out=left_out)


def set_up(level: int = logging.INFO) -> None:
    """Send the lines of the router, of the store and of the web server to stderr as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_is_news)
    # Any client can cause a warning of the web server with each of its requests.
    for name, lowest in (("plop_lora", level), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(lowest)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the web server says more than that an answer broke off."""
    return "without completing response" not in record.getMessage()
