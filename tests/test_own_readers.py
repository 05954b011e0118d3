"""Why text files are read by our own code and not by `datasets`: what each makes of the same file.

Where a test of the library fails after an update, the library has learnt what our reader does for
that file: compare the two again, and let the reader go if nothing is left that only it does.
"""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from plop_lora.data.reading import read_rows
from plop_lora.errors import DataError

VALUES = {
    "digits.csv": (b"text,id\nhi,007\nyes,1\n", {"text": "hi", "id": "007"}),
    "words.csv": (b"text,n\nNA,1.50\nNone,2\n", {"text": "NA", "n": "1.50"}),
    "truth.csv": (b"text,label\ntrue,a\nFalse,b\n", {"text": "true", "label": "a"}),
    "semicolons.csv": (b'text;n\n"a, b";1\n', {"text": "a, b", "n": "1"}),
    "mark.txt": (b"\xef\xbb\xbfone\ntwo\n", {"text": "one"}),
    "date.jsonl": (b'{"text": "2020-01-02"}\n{"text": "2020-01-03"}\n', {"text": "2020-01-02"}),
    "large.jsonl": (b'{"n": 12345678901234567890123}\n', {"n": 12345678901234567890123}),
    "half.jsonl": (b'{"text": "bad \\ud83d here"}\n', {"text": "bad \ud83d here"}),
    "keys.jsonl": (b'{"a": 1}\n{"b": 2}\n', {"a": 1}),
    "wrapped.json": (b'{"version": 3, "data": [{"text": "a"}]}', {"text": "a"}),
}
"""A file → its content and its first row. `datasets` reads another row, or refuses the file."""
FAULTS = {
    "broken.jsonl": (b'{"text": "one"}\n{"text":\n', r"line 2, is not JSON: .* at column 9"),
    "bare.jsonl": (b'{"text": "one"}\n[1]\n', "line 2, is not an object"),
    "twice.jsonl": (b'{"a": 1}\n{"a": 1, "a": 2}\n', "line 2, has the field 'a' twice"),
    "latin.jsonl": (b'{"text": "one"}\n{"text": "caf\xe9"}\n', r"line 2, is not UTF-8.*0xe9"),
    "latin.csv": (b"text,n\na,1\ncaf\xe9,2\n", r"line 3, is not UTF-8.*0xe9"),
    "latin.txt": (b"a\ncaf\xe9\n", r"line 2, is not UTF-8.*0xe9"),
    "wide.txt": ("a\nb\n".encode("utf-16"), "is UTF-16 text. Convert it"),
    "open.csv": (b'text,n\na,1\n"b,2\n', "line 3, is not CSV: unexpected end of data"),
    "more.csv": (b"text,n\na,1\nb,c,2\n", "line 3, has more fields than the header"),
    "more-everywhere.csv": (b"text,n\na,b,1\n", "line 2, has more fields than the header"),
    "names.csv": (b"text,text\na,b\n", "the field 'text' twice in its header"),
}
"""A file → its content and what our error says. `datasets` reads it, or does not say where."""


def _written(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_of_the_file(tmp_path, name: str) -> None:
    """A class "007", a text "NA" or a date is a text, and has to be scored as it stands."""
    content, row = VALUES[name]
    assert next(read_rows(_written(tmp_path, name, content))) == row


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_its_file_and_line(tmp_path, name: str) -> None:
    """Nobody finds the one broken line of a million without its number."""
    content, message = FAULTS[name]
    source = _written(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows(source))
    assert str(caught.value).startswith(source)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
def test_a_large_file_is_not_held(tmp_path, suffix: str) -> None:
    """A sample of a file larger than memory is drawn row by row, with no copy on the disk."""
    text = "word " * 100
    line = json.dumps({"text": text}) if suffix == ".jsonl" else text
    source = _written(tmp_path, f"data{suffix}", f"{line}\n".encode() * 10_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(source)) >= 9_999
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000  # of 5 MB
    assert [path.name for path in tmp_path.iterdir()] == [f"data{suffix}"]


# --------------------------------------------------------------------------- the library


def _of_library(source: str, cache: Path) -> tuple[list[dict], str]:
    """Return the rows that it reads, or its error with what raised that."""
    import datasets

    kind = {"csv": "csv", "txt": "text"}.get(source.rpartition(".")[2], "json")
    try:
        rows = datasets.load_dataset(kind, data_files=source, split="train", cache_dir=str(cache))
        return list(rows), ""
    except Exception as error:  # of json, of pandas, of pyarrow, of its own
        return [], f"{error} {error.__cause__ or ''}"


@pytest.mark.slow
@pytest.mark.parametrize("name", VALUES)
def test_the_library_reads_other_values(tmp_path, name: str) -> None:
    """It guesses the types of columns and which words stand for nothing, without a warning."""
    content, row = VALUES[name]
    rows, said = _of_library(_written(tmp_path, name, content), tmp_path / "cache")
    assert rows[:1] != [row]
    assert rows or "surrogate" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_the_library_does_not_name_the_line(tmp_path, name: str) -> None:
    """Its errors tell a position in a block of the file, and not which file."""
    content, _ = FAULTS[name]
    rows, said = _of_library(_written(tmp_path, name, content), tmp_path / "cache")
    assert bool(rows) != bool(said)
    assert not ("line" in said and name in said)
