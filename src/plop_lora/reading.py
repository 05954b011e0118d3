"""Rows from a local file (.jsonl .json .csv .parquet .txt) or a hub data set; no torch."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plop_lora.errors import DataError, nearest

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
DELIMITERS = ",;\t|"


def read_rows(source: str) -> Iterator[Row]:
    """Read a local file or a hub data set, `name`, `name:split` or `name:config:split`.

    Raises:
        DataError: no such data, or a file that cannot be read, with the line where it fails.
    """
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if path.is_file():
        if suffix not in _READERS:
            raise DataError(
                f"Cannot read {source}: {path.suffix or 'no suffix'} is not one of "
                f"{' '.join(SUFFIXES)}."
            )
        return _opened(path, _READERS[suffix])
    if suffix in SUFFIXES or path.is_dir() or source.startswith((".", "/", "~")):
        raise DataError(_unknown_path(path))
    return _read_hub(source)


def _opened(path: Path, reader: Callable[[Path], Iterator[Row]]) -> Iterator[Row]:
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


def _unknown_path(path: Path) -> str:
    if path.is_dir():
        files = _data_files(path)
        return f"{path} is a folder; give one file of it ({', '.join(files) or 'it has none'})."
    if not path.parent.is_dir():
        return f"No data at {path}: there is no folder {path.parent}."
    # Suffixes are alike in all of them, so it is the stem that must be close.
    alike = [
        name
        for name in _data_files(path.parent)
        if difflib.get_close_matches(path.stem, [Path(name).stem])
    ]
    return f"No data at {path}.{nearest(path.name, alike)}"


def _data_files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


# --------------------------------------------------------------------------- text files


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Return numbered lines; decoded one by one, so that an error knows its line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}, is not UTF-8 text (byte 0x{line[error.start]:02x}). "
                    f"Convert it first, for example: iconv -f latin1 -t utf-8 {path} > utf8"
                    f"{path.suffix}"
                ) from error


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{path}, line {number}, is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}, line {number}, is not an object with named fields, such as "
                '{"text": "…"}.'
            )
        yield row


def _read_json(path: Path) -> Iterator[Row]:
    text = "".join(line for _, line in _lines(path))
    if not text.strip():
        return
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        if not _is_object(text.lstrip().partition("\n")[0]):
            raise DataError(f"{path} is not JSON: {error}.") from error
        yield from _read_jsonl(path)
        return
    rows = _from_object(path, document) if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise DataError(f"{path} is a bare value; it must be a list of objects with named fields.")
    for order, row in enumerate(rows):
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise DataError(f"{path}, item {order}, is neither an object nor a string.")
        yield row


def _is_object(line: str) -> bool:
    """Whether a line is a JSON object by itself: JSON Lines under the name .json."""
    try:
        return isinstance(json.loads(line), dict)
    except (json.JSONDecodeError, RecursionError):
        return False


def _from_object(path: Path, document: dict[str, Any]) -> list[Any]:
    """Find the rows in an object: one list of them, columns of equal length, or itself a row."""
    lists = {key: value for key, value in document.items() if isinstance(value, list)}
    if not lists or "messages" in lists:
        return [document]
    if len(lists) == 1:
        return next(iter(lists.values()))
    holds_rows = [key for key, value in lists.items() if value and isinstance(value[0], dict)]
    if holds_rows or len(lists) < len(document) or len(set(map(len, lists.values()))) > 1:
        raise DataError(
            f"{path} holds several lists ({', '.join(lists)}), so its rows cannot be told. "
            "Keep one list of objects, or columns of equal length."
        )
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def _read_csv(path: Path) -> Iterator[Row]:
    # The library's limit of 128 KiB a field is shorter than many texts; it knows no other way.
    csv.field_size_limit(2**31 - 1)
    lines = [line for _, line in _lines(path)]
    first = next((order for order, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return
    reader = csv.DictReader(lines[first:], delimiter=_delimiter(lines[first]), strict=True)
    try:
        for row in reader:
            if None in row:
                raise DataError(
                    f"{path}, line {first + reader.line_num}, has more fields than the header "
                    f"({', '.join(reader.fieldnames or ())}). Quote texts that hold the delimiter."
                )
            yield row
    except csv.Error as error:
        raise DataError(
            f'{path}, line {reader.line_num}, is not CSV: {error}. Quote texts with " and double '
            "the quotes inside them."
        ) from error


def _delimiter(header: str) -> str:
    """Return the delimiter that splits the header into most names; a comma if none does."""
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark))))


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        yield from parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a Parquet file: {_first_line(error)}.") from error


def _read_txt(path: Path) -> Iterator[Row]:
    yield from ({"text": line.strip()} for _, line in _lines(path))


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}


# --------------------------------------------------------------------------- the hub


def _read_hub(source: str) -> Iterator[Row]:
    name, *rest = source.split(":")
    if len(rest) > 2 or not all((name, *rest)):
        raise DataError(f"Cannot read {source!r}; write a hub data set as name:config:split.")
    import datasets

    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        yield from datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises many unrelated classes here
        raise DataError(
            f"No data set {source!r}: it is not a file here, and loading it from the hub failed "
            f"({_first_line(error)}).{nearest(name, _data_files(Path()))} "
            "Write a hub data set as name:config:split, such as openai/gsm8k:main:train."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
