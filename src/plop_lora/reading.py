"""Rows from a local file (.jsonl .json .csv .parquet .txt) or a hub data set; no torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plop_lora.errors import DataError, nearest

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")


def read_rows(source: str) -> Iterator[Row]:
    """Read a local file or a hub data set, `name`, `name:split` or `name:config:split`.

    Raises:
        DataError: no such data, or a file that cannot be read, with the line where it fails.
    """
    path = Path(source)
    if path.is_file():
        if path.suffix not in _READERS:
            raise DataError(
                f"Cannot read {source}: {path.suffix or 'no suffix'} is not one of "
                f"{' '.join(SUFFIXES)}."
            )
        return _READERS[path.suffix](path)
    if path.suffix in SUFFIXES or path.is_dir() or source.startswith((".", "/", "~")):
        raise DataError(_unknown_path(path))
    return _read_hub(source)


def _unknown_path(path: Path) -> str:
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        return f"{path} is a folder; give one file of it ({', '.join(files) or 'it has none'})."
    siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"No data at {path}.{nearest(path.name, siblings)}"


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}, is not JSON: {error}.") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}, is not an object with named fields.")
            yield row


def _read_json(path: Path) -> Iterator[Row]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig") or "[]")
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    if isinstance(document, dict):
        lists = [value for value in document.values() if isinstance(value, list)]
        document = lists[0] if len(lists) == 1 else [document]
    for order, row in enumerate(document):
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise DataError(f"{path}, item {order}, is neither an object nor a string.")
        yield row


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        yield from parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file: {error}.") from error


def _read_txt(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        yield from ({"text": line.strip()} for line in file)


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}


def _read_hub(source: str) -> Iterator[Row]:
    import datasets

    name, *rest = source.split(":")
    if len(rest) > 2:
        raise DataError(f"Cannot read {source!r}; write a hub data set as name:config:split.")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        yield from datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises many unrelated classes here
        here = [file.name for file in Path().iterdir() if file.suffix in SUFFIXES]
        raise DataError(
            f"No data set {source!r}: it is not a file here, and loading it from the hub failed "
            f"({_first_line(error)}).{nearest(name, here)} "
            "Write a hub data set as name:config:split, such as openai/gsm8k:main:train."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
