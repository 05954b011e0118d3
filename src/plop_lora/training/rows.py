"""The prepared rows of a trial: JSON lines whose SHA-256 is that of the spec. No torch.

They are parsed from the same bytes whose SHA-256 was checked. A reader that opens the path again,
as `datasets` does, could find another file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from plop_lora.errors import DataError, UsageError, nearest
from plop_lora.evaluation.judged import Row
from plop_lora.records import TrialSpec
from plop_lora.training.task import Task


def read_rows(path: Path, sha256: str, *, limit: int | None = None) -> list[Row]:
    """Read the rows of a file and check its content.

    Args:
        path: Path of a file of JSON lines.
        sha256: Expected SHA-256 of the file.
        limit: Number of rows to return, from the start; None returns all.

    Raises:
        DataError: The file does not exist, has another content or no rows, or a line is not a
            JSON object.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"Cannot read the data of the trial at {path}: {error.strerror or error}. Its path is "
            "relative to the folder of the spec."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{path} has changed since the trial was planned: its SHA-256 is {found[:16]}…, not "
            f"{sha256[:16]}…. Put the old file back, or plan again with plop verify."
        )
    rows: list[Row] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            rows.append(_parsed(line, path, number))
        if len(rows) == limit:
            break
    if not rows:
        raise DataError(f"{path} has no rows.")
    return rows


def read_general(task: Task, spec: TrialSpec, root: Path) -> list[Row]:
    """Read the general text of a trial, on which the loss outside the task is measured, if any.

    Raises:
        DataError: The file cannot be read (see `read_rows`), or a row has no text.
        UsageError: The task has no loss on text.
    """
    data = spec.data
    if data.general is None:
        return []
    if not task.reads_text:
        raise UsageError(
            f"The task {task.name} has no loss on general text: its model has no head for tokens. "
            "Leave data.general out of the spec."
        )
    rows = read_rows(root / data.general, data.general_sha256 or "")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("text"), str):
            raise DataError(
                f"{data.general}, row {number} has {', '.join(row) or 'nothing'}; a row of general "
                "text has the column text."
            )
    return rows


def read_selection(spec: TrialSpec, root: Path) -> list[Row]:
    """Read the rows on which a training is evaluated while it runs; none where there are none.

    Raises:
        DataError: The file cannot be read (see `read_rows`).
    """
    data = spec.data
    if data.selection is None:
        return []
    return read_rows(root / data.selection, data.selection_sha256 or "")


def _parsed(line: bytes, path: Path, number: int) -> dict[str, object]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number} is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number} is not a JSON object with named columns.")
    return row


def check_rows(task: Task, spec: TrialSpec, rows: Sequence[Row], source: str) -> None:
    """Check that every row has the columns that the task reads, and a label of the spec.

    Raises:
        DataError: A row does not. The text names the first one.
    """
    for number, row in enumerate(rows, start=1):
        if not any(all(row.get(name) is not None for name in names) for names in task.columns):
            wanted = ", or ".join(" and ".join(names) for names in task.columns)
            raise DataError(
                f"{source}, row {number} has {', '.join(row) or 'nothing'}; a row of "
                f"{task.name} has {wanted}."
            )
    task.check_rows(spec, rows, source)


def label_numbers(
    rows: Sequence[Row], labels: Sequence[str], source: str = "The data"
) -> list[int]:
    """Return the index of every row's label; a numeric label is compared by its digits.

    Raises:
        DataError: A row has no label, or one that is not in `labels`. The text names the row.
    """
    numbers = {name: number for number, name in enumerate(labels)}
    found = []
    for index, row in enumerate(rows, start=1):
        label = str(row.get("label", ""))
        if label not in numbers:
            raise DataError(
                f"{source}, row {index} has the label {label!r}.{nearest(label, labels)} "
                f"The labels of this trial are: {', '.join(labels)}."
            )
        found.append(numbers[label])
    return found
