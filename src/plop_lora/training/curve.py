"""The curve of a trial: every row that its trainer logs, on disk as it comes. No torch."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from plop_lora.errors import OutputError
from plop_lora.launcher import is_first_process
from plop_lora.records.trial import MOST_POINTS, LearningCurve
from plop_lora.training.folder import CURVE


class DivergedError(ArithmeticError):
    """Training or evaluation gave NaN or infinity, which becomes the cause of the failure."""


class Curve:
    """Writes every row that a trainer logs, and stops the training if the loss is not finite."""

    def __init__(self, folder: Path, *, upto: int = 0) -> None:
        """Start a curve, replacing that of a killed attempt.

        Args:
            folder: Folder of the trial.
            upto: Step at which the training resumes; the rows of the steps before it are kept.
        """
        self.rows = _rows_before(folder / CURVE, upto) if upto else []
        self.path = folder / CURVE if is_first_process() else None
        self._write("".join(f"{json.dumps(row)}\n" for row in self.rows), "w")

    @property
    def last(self) -> dict[str, object]:
        """Return the last row, empty without one."""
        return self.rows[-1] if self.rows else {}

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Write a row.

        Raises:
            DivergedError: The loss is NaN or infinite.
            OutputError: The curve cannot be written.
        """
        plain = plain_row(row)
        self.rows.append(plain)
        self._write(json.dumps(plain) + "\n", "a")
        loss = float(row.get("loss", 0.0))
        if not math.isfinite(loss):
            became = "NaN" if math.isnan(loss) else "infinite"
            raise DivergedError(f"loss became {became} at step {row.get('step', 'unknown')}")

    def _write(self, text: str, mode: str) -> None:
        if self.path is None:
            return
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise OutputError(f"Cannot write {self.path}: {error.strerror or error}.") from error


def _rows_before(path: Path, step: int) -> list[dict[str, Any]]:
    """Return the complete rows of a curve up to a step; none where it cannot be read."""
    rows = []
    with contextlib.suppress(OSError):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                row: Any = json.loads(line)
                if isinstance(row, dict) and isinstance(at := row.get("step"), int) and at <= step:
                    rows.append(row)
    return rows


# --------------------------------------------------------------------------- for a record


def learning_curve(rows: Sequence[Mapping[str, Any]]) -> LearningCurve | None:
    """Return the curve of a trial for its record; None where nothing was logged.

    Args:
        rows: Rows that its trainer logged.
    """
    quantity = REWARD if any(REWARD in row for row in rows) else LOSS
    points, evaluations = _points(rows, quantity), _points(rows, EVALUATION_LOSS)
    if not points and not evaluations:
        return None
    kept = math.ceil(len(evaluations) / MOST_POINTS)
    return LearningCurve(
        quantity=quantity,
        points=thinned(points, MOST_POINTS),
        # The last evaluation is kept, and before it every so many.
        evaluations=tuple(evaluations[::-kept][::-1]) if kept else (),
    )


LOSS, REWARD, EVALUATION_LOSS = "loss", "reward", "eval_loss"
"""Names of logged quantities."""


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return step and value of the rows that have a finite value."""
    return [
        (row["step"], float(f"{value:.6g}"))
        for row in rows
        if isinstance(value := row.get(name), int | float)
        and math.isfinite(value)
        and isinstance(row.get("step"), int)
    ]


def thinned(points: Sequence[tuple[int, float]], most: int) -> tuple[tuple[int, float], ...]:
    """Return at most so many points: the mean of some in a row, at the step of the last of them.

    >>> thinned([(1, 4.0), (2, 2.0), (3, 1.0)], 2)
    ((2, 3.0), (3, 1.0))
    """
    size = max(1, math.ceil(len(points) / most))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple(
        (group[-1][0], float(f"{fmean(value for _, value in group):.6g}")) for group in groups
    )


def plain_row(row: Mapping[str, object]) -> dict[str, object]:
    """Return a logged row as values that JSON has; what is not finite becomes null."""
    plain: dict[str, Any] = {}
    for name, value in row.items():
        scalar = value.item() if hasattr(value, "item") else value
        if isinstance(scalar, float) and not math.isfinite(scalar):
            scalar = None
        plain[name] = scalar if isinstance(scalar, bool | int | float | None) else str(scalar)
    return plain
