"""Rows of any data set → rows of a task, or an error with the row's number.

How a row becomes one of a task is the task's affair; columns that are not used stay with their
row, for reward functions and metrics. No torch.
"""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plop_lora.data.reading import read_rows
from plop_lora.errors import DataError
from plop_lora.evaluation.judged import Row
from plop_lora.recipe import DataRecipe
from plop_lora.study.column_checks import check_unread, column_notes
from plop_lora.training.readers import Reader
from plop_lora.training.task import Task


@dataclass(frozen=True, slots=True, eq=False)
class TaskRows:
    """The rows of a data set in the form of a task, with what there is to say about them.

    `fields` are those that the rows were read by, `column_notes` say what the model is given.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    fields: tuple[str, ...]
    column_notes: tuple[str, ...] = ()


def read_task_rows(task: Task, data: DataRecipe, source: str) -> TaskRows:
    """Read a data set and turn every row into one of a task.

    Raises:
        DataError: no such data, no rows, a field that is missing or cannot be told, a row that
            lacks what the task needs.
        UsageError: a template that cannot be read, or half a pair of them.
    """
    rows = list(read_rows(source))
    if not rows:
        raise DataError(f"{source} holds no rows. Give a file with some hundreds.")
    fields = list(dict.fromkeys(field for row in rows for field in row))
    reader = task.reader(data, fields, source)
    made: list[dict[str, Any]] = []
    foreign: set[str] = set()
    for number, row in enumerate(rows, start=1):
        try:
            used = reader.read(row)
        except DataError as error:
            raise DataError(f"{source}, row {number}: {error}") from error
        made.append(_beside(row, task.reserved, foreign) | used)
    task.check_made(made, reader.fields, source)
    notes = [
        f"the column {name!r} of {source} is not text, numbers or lists and is left out"
        for name in sorted(foreign)
    ]
    if data.prompt is None and data.text is None and not reader.whole:
        _check_unread(task, rows, made, reader, source)
    about_columns = column_notes(rows, made, reader.fields, task, source)
    return TaskRows(tuple(made), tuple(notes), reader.fields, tuple(about_columns))


def _check_unread(
    task: Task, rows: Sequence[Row], made: Sequence[Row], reader: Reader, source: str
) -> None:
    """Refuse a part of the question that the recognised columns leave out."""
    try:
        check_unread(rows, [task.question(row) for row in made], reader, task)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def _beside(row: Row, reserved: Sequence[str], foreign: set[str]) -> dict[str, object]:
    """Return the columns that stay with a row as they are; note what JSON cannot hold."""
    kept = {}
    for name, value in row.items():
        if name in reserved:
            continue
        try:
            kept[name] = json.loads(json.dumps(value, default=_as_text))
        except TypeError:
            foreign.add(name)
    return kept


def _as_text(value: object) -> str:
    if isinstance(value, datetime.date | datetime.time | decimal.Decimal):
        return str(value)
    raise TypeError
