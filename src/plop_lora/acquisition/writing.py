"""The folder of an acquisition: two files of rows and the record, complete or not at all."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plop_lora.data.reading import Row
from plop_lora.errors import DataError, OutputError, RecordError, UsageError
from plop_lora.escapes import escaped
from plop_lora.files import atomic_folder, check_writable
from plop_lora.models.folders import expanded
from plop_lora.records import Acquisition

TRAIN_FILE, EVAL_FILE, RECORD_FILE = "train.jsonl", "eval.jsonl", "acquisition.json"


def check_folder(folder: Path, *sources: str | None) -> None:
    """Refuse a folder that holds other files than an acquisition, before the rows are read.

    Args:
        folder: Folder to be written, which need not exist.
        sources: Files that are read.

    Raises:
        UsageError: The folder holds something else, or a file that is read.
        OutputError: It is a file, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"Cannot write {folder}: it is a file. Give a folder with --folder.")
    check_writable(folder / RECORD_FILE)
    for source in sources:
        if source is not None and Path(expanded(source)).resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"--folder {folder} holds {source}, which is read here and would be replaced. Give "
                "another folder with --folder."
            )
    if not folder.is_dir():
        return
    names = {entry.name for entry in folder.iterdir()}
    if names and not (names <= {TRAIN_FILE, EVAL_FILE, RECORD_FILE} and _is_ours(folder)):
        raise UsageError(
            f"{folder} is there already and is no acquisition of plop-lora. Give a new or an empty "
            "folder with --folder."
        )


def _is_ours(folder: Path) -> bool:
    try:
        Acquisition.load(folder / RECORD_FILE)
    except RecordError:
        return False
    return True


def write_folder(folder: Path, train: str, evaluation: str, record: Acquisition) -> None:
    """Write both files and the record under the name of the folder at once.

    Raises:
        OutputError: They cannot be written. An older folder is left unchanged.
    """
    with atomic_folder(folder) as made:
        for name, text in ((TRAIN_FILE, train), (EVAL_FILE, evaluation)):
            (made / name).write_text(text, encoding="utf-8", newline="\n")
        record.save(made / RECORD_FILE)


def json_lines(rows: Sequence[Row], numbers: Sequence[int], source: str) -> str:
    """Return rows as JSON Lines, with all of their fields.

    Args:
        rows: Rows to be written.
        numbers: Their numbers in the source, for errors.
        source: The user's name of the data.

    Raises:
        DataError: A field holds bytes, NaN or another value that JSON has no form for.
    """
    return "".join(
        f"{_line(row, number, source)}\n" for row, number in zip(rows, numbers, strict=True)
    )


def sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _line(row: Row, number: int, source: str) -> str:
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain)
        line.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only its escape can express
        return json.dumps(row, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        name = next((str(name) for name, value in row.items() if not _is_json(value)), "?")
        raise DataError(
            f"{source}, row {number}: the field {escaped(name)!r} holds a value that JSON has no "
            "form for, such as bytes, an image, NaN or infinity. Leave the field out of the data."
        ) from error
    return line


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _plain(value: object) -> Any:
    """Return a value of a table as text: a time, or a number with a fixed number of digits."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    raise TypeError(type(value).__name__)
