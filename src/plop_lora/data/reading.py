"""Rows from a local file, a pipe, a saved data set or the hub; no torch.

Rows come one after another, and again from the beginning for whoever asks again, so that a sample
of a large file does not need the file in memory. Only a .json document is read whole.

The hub and saved data sets are read by `datasets`, Parquet files by pyarrow. Text files are read
here, because `datasets` converts a whole file into a cache on the disk before it gives a row,
guesses types on the way (in a CSV file "007" becomes 7 and "NA" becomes None), and does not say in
which line of which file a fault is. pyarrow's readers guess types and name no file either.
`tests/test_own_readers.py` compares `datasets` with this module on the same files.
"""

from __future__ import annotations

import csv
import difflib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plop_lora.data.lines import LONGEST_LINE, STDIN, DataFile
from plop_lora.data.tables import first_line, is_saved, read_parquet, read_saved
from plop_lora.errors import DataError, nearest
from plop_lora.models.folders import CONFIG, expanded
from plop_lora.models.hub import hub_or_cache, out_of_reach, why_not
from plop_lora.models.origin import Origin

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
TABLES = (".csv", ".tsv", ".jsonl")
DELIMITERS = ",;\t|"
_LARGEST_DOCUMENT = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows that can be gone through several times; each time they are read anew.

    Attributes:
        source: The user's name of the data, which errors repeat.
        read: Function that opens the data and returns the rows from the first.
    """

    source: str
    read: Callable[[], Iterable[Row]]

    def __iter__(self) -> Iterator[Row]:
        """Go through the rows from the first."""
        return iter(self.read())


def read_rows(source: str) -> Iterator[Row]:
    """Read a source once; see `open_rows`."""
    return iter(open_rows(source))


def open_rows(source: str, token: str | None = None, revision: str | None = None) -> Rows:
    """Find a local file, standard input, a saved data set or one of the hub.

    Args:
        source: A file, which may be compressed with gzip; `-` for standard input; a folder of
            `datasets.save_to_disk`; or a hub data set, `name`, `name:split` or
            `name:config:split`.
        token: Access token of the hub; None takes the stored one.
        revision: Branch, tag or commit of a hub data set; None is the main branch.

    Raises:
        DataError: There is no such data. A fault inside a file is raised with its line when the
            rows are read.
    """
    path = Path(expanded(source))
    if source == STDIN or (path.exists() and not path.is_dir()):
        return Rows(source, _file_reader(DataFile(source if source == STDIN else str(path))))
    if path.is_dir() and is_saved(path):
        return Rows(source, lambda: read_saved(path))
    named = DataFile(str(path)).suffix in SUFFIXES
    if named or path.is_dir() or source.startswith((".", "/", "~")):
        raise DataError(_unknown_path(path))
    name = hub_name(source)
    reason = out_of_reach(name, "dataset")
    if reason:
        raise DataError(_not_on_the_hub(source, name, reason))
    loaded: list[Iterable[Row]] = []

    def read() -> Iterable[Row]:
        if not loaded:
            loaded.append(_read_hub(source, token, revision))
        return loaded[0]

    return Rows(source, read)


def _file_reader(file: DataFile) -> Callable[[], Iterator[Row]]:
    """Return what reads a file, by its suffix or else by its first character."""
    if file.suffix == ".parquet":
        return lambda: read_parquet(file.path)
    if file.suffix in _READERS:
        return lambda: _READERS[file.suffix](file)
    pipe = not file.path.is_file()
    if pipe or (file.path.suffix.lower() == ".gz" and not file.suffix):
        return lambda: _read_by_content(file)
    raise DataError(
        f"Cannot read {file}: {file.path.suffix or 'no suffix'} is not one of "
        f"{' '.join(SUFFIXES)}, each of them also as .gz."
    )


def _read_by_content(file: DataFile) -> Iterator[Row]:
    """Read what has no name to go by: JSON Lines, a JSON document, or one text a line."""
    first = next((line.lstrip() for _, line in file.lines() if line.strip()), "")
    if _is_object(first):
        return _read_jsonl(file)
    return _read_json(file) if first.startswith(("{", "[")) else _read_txt(file)


_GIVE = (
    f"Give a file ({' '.join(SUFFIXES)}), or a data set of the hub, written as name:config:split."
)


def _unknown_path(path: Path) -> str:
    if path.is_dir() and (path / CONFIG).exists():
        return (
            f"{path} is the folder of a model, but rows of data are needed here. Give a file of "
            f"them, such as: plop score {path} --data FILE."
        )
    if path.is_dir():
        files = _data_files(path)
        return f"{path} is a folder; give one file of it ({', '.join(files) or 'it has none'})."
    if not path.parent.is_dir():
        return f"No data at {path}: there is no folder {path.parent}. {_GIVE}"
    # Suffixes are alike in all of them, so it is the stem that must be close.
    alike = [
        name
        for name in _data_files(path.parent)
        if difflib.get_close_matches(path.stem, [Path(name).stem])
    ]
    return f"No data at {path}.{nearest(path.name, alike)} {_GIVE}"


def _data_files(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if DataFile(f.name).suffix in SUFFIXES)


# --------------------------------------------------------------------------- text files


class _TwiceError(ValueError):
    """A name that an object has twice, of which Python would silently keep the last."""


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _parsed(file: DataFile, text: str, line: int | None = None) -> object:
    """Parse one line of a file as JSON, or the whole file where `line` is None.

    Raises:
        DataError: The text is not JSON, or an object in it has a name twice.
    """
    where = str(file) if line is None else f"{file}, line {line},"
    try:
        return _DECODER.decode(text)
    except _TwiceError as error:
        raise DataError(
            f"{where} has the field {str(error)!r} twice in one object, so that one of the two "
            "would be lost. Rename one."
        ) from error
    except json.JSONDecodeError as error:
        within = f"line {error.lineno}, " if line is None else ""
        raise DataError(
            f"{where} is not JSON: {error.msg} at {within}column {error.colno}."
        ) from error
    except RecursionError as error:
        raise DataError(f"{where} is not JSON: {error}.") from error


def numbered_objects(file: DataFile) -> Iterator[tuple[int, Row]]:
    """Yield the objects of a JSON Lines file, each with the number of its line.

    Raises:
        DataError: The file cannot be read, or a line is no object.
    """
    for number, line in file.lines():
        if not line.strip():
            continue
        row = _parsed(file, line.rstrip("\r\n"), number)
        if not isinstance(row, dict):
            raise DataError(
                f"{file}, line {number}, is not an object with named fields, such as "
                '{"text": "…"}.'
            )
        yield number, row


def _read_jsonl(file: DataFile) -> Iterator[Row]:
    return (row for _, row in numbered_objects(file))


def _read_json(file: DataFile) -> Iterator[Row]:
    lines = (line for _, line in file.lines() if line.strip())
    first, second = next(lines, ""), next(lines, "")
    if second and _is_object(first):  # JSON Lines under another name
        yield from _read_jsonl(file)
        return
    if not first:
        return
    document = _parsed(file, file.read(_LARGEST_DOCUMENT))
    rows = _from_object(file, document) if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise DataError(f"{file} is a bare value; it must be a list of objects with named fields.")
    for index, row in enumerate(rows):
        if isinstance(row, str):
            row = {"text": row}
        if not isinstance(row, dict):
            raise DataError(f"{file}, item {index}, is neither an object nor a string.")
        yield row


def _is_object(line: str) -> bool:
    """Whether a line is a JSON object by itself: JSON Lines under the name .json."""
    try:
        return isinstance(json.loads(line), dict)
    except (json.JSONDecodeError, RecursionError):
        return False


def _from_object(file: DataFile, document: dict[str, object]) -> list[object]:
    """Find the rows in an object: one list of them, columns of equal length, or itself a row."""
    lists = {key: value for key, value in document.items() if isinstance(value, list)}
    if not lists or "messages" in lists:
        return [document]
    if len(lists) == 1:
        return next(iter(lists.values()))
    holds_rows = [key for key, value in lists.items() if value and isinstance(value[0], dict)]
    if holds_rows or len(lists) < len(document) or len(set(map(len, lists.values()))) > 1:
        raise DataError(
            f"{file} holds several lists ({', '.join(lists)}), so its rows cannot be told. "
            "Keep one list of objects, or columns of equal length."
        )
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def numbered_rows(file: DataFile) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a table, each with its place for errors: "line 3", or "row 3".

    Args:
        file: A file of .csv, .tsv, .jsonl or .parquet, or standard input in the first or third of
            these forms. A field that a row of CSV lacks is None.

    Raises:
        DataError: The file cannot be read or is of another kind, or a row has too many fields.
    """
    if file.suffix == ".parquet":
        yield from ((f"row {n}", row) for n, row in enumerate(read_parquet(file.path), start=1))
        return
    if file.suffix not in ("", *TABLES):
        raise DataError(
            f"Cannot read {file}: {file.suffix} is not one of {' '.join(TABLES)} .parquet."
        )
    first = next((line.lstrip() for _, line in file.lines() if line.strip()), "")
    if file.suffix == ".jsonl" or (not file.suffix and first.startswith("{")):
        yield from ((f"line {number}", row) for number, row in numbered_objects(file))
        return
    delimiter = "\t" if file.suffix == ".tsv" else None
    yield from ((f"line {number}", row) for number, row in _numbered_csv(file, delimiter))


def _read_csv(file: DataFile, delimiter: str | None = None) -> Iterator[Row]:
    return (row for _, row in _numbered_csv(file, delimiter))


def _numbered_csv(file: DataFile, delimiter: str | None) -> Iterator[tuple[int, Row]]:
    # The library's limit of 128 KiB a field is shorter than many texts; it knows no other way.
    csv.field_size_limit(LONGEST_LINE)
    numbered = itertools.dropwhile(lambda pair: not pair[1].strip(), file.lines())
    first = next(numbered, None)
    if first is None:
        return
    number, header = first
    lines = itertools.chain([header], (line for _, line in numbered))
    reader: csv.DictReader[str] | None = None
    try:
        reader = csv.DictReader(lines, delimiter=delimiter or _delimiter(header), strict=True)
        _check_names(file, reader.fieldnames or ())
        for row in reader:
            if None in row:
                raise DataError(
                    f"{file}, line {number - 1 + reader.line_num}, has more fields than the header "
                    f"({', '.join(reader.fieldnames or ())}). Quote texts that hold the delimiter."
                )
            yield number - 1 + reader.line_num, row
    except csv.Error as error:
        before = 0 if reader is None else reader.line_num
        raise DataError(
            f'{file}, line {number + before}, is not CSV: {error}. Quote texts with " '
            "and double the quotes inside them."
        ) from error


def _check_names(file: DataFile, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"{file} has the field {twice!r} twice in its header, so that one of the two would be "
            "lost. Rename one."
        )


def _read_tsv(file: DataFile) -> Iterator[Row]:
    return _read_csv(file, "\t")


def _delimiter(header: str) -> str:
    """Return the delimiter that splits the header into most names; a comma if none does."""
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark))))


def _read_txt(file: DataFile) -> Iterator[Row]:
    yield from ({"text": line.strip()} for _, line in file.lines())


_READERS: dict[str, Callable[[DataFile], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_txt,
}


# --------------------------------------------------------------------------- the hub


def hub_name(source: str) -> str:
    """Return the id of a hub data set, without its config and split.

    Raises:
        DataError: The text is no name of a hub data set.
    """
    return _hub_parts(source)[0]


def _hub_parts(source: str) -> tuple[str, str | None, str]:
    """Return name, config and split of `name`, `name:split` or `name:config:split`."""
    name, *rest = source.split(":")
    if len(rest) > 2 or not all((name, *rest)):
        raise DataError(f"Cannot read {source!r}; write a hub data set as name:config:split.")
    return name, rest[0] if len(rest) == 2 else None, rest[-1] if rest else "train"


def _read_hub(source: str, token: str | None, revision: str | None) -> Iterable[Row]:
    import datasets

    name, config, split = _hub_parts(source)
    with hub_or_cache(name):
        try:
            return datasets.load_dataset(  # type: ignore[no-any-return]
                name, config, split=split, token=token, revision=revision
            )
        except Exception as error:  # the library raises many unrelated classes here
            reason = why_not(error) or Origin(token=token).without_token(first_line(error))
            raise DataError(_not_on_the_hub(source, name, reason)) from error


def _not_on_the_hub(source: str, name: str, reason: str) -> str:
    return (
        f"No data set {source!r}: it is not a file here, and loading it from the hub failed "
        f"({reason}).{nearest(name, _data_files(Path()))} "
        "Write a hub data set as name:config:split, such as openai/gsm8k:main:train."
    )
