"""A pytest plugin that keeps the outcome of every test in a file, as soon as it is known.

    PLOP_OUTCOMES=tests.json python -m pytest -p outcomes …

pytest writes its own report at the end of a run, which a run that is stopped never reaches.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from results import write

_OUTCOMES: dict[str, dict[str, Any]] = {}


def pytest_runtest_logreport(report: Any) -> None:
    """Keep the outcome of the call, or of what kept it from being made."""
    if report.when == "call" or report.outcome != "passed":
        _OUTCOMES[report.nodeid] = {
            "outcome": report.outcome,
            "seconds": round(report.duration, 2),
            "reason": report.longreprtext[-2000:] if report.failed else None,
        }
        _write()


def pytest_sessionfinish() -> None:
    """Leave a file also where nothing was collected."""
    _write()


def _write() -> None:
    path = Path(os.environ["PLOP_OUTCOMES"])
    write(path.parent, path.stem, _OUTCOMES)
