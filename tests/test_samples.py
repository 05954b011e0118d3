"""What people have as data, what is no sample, and what a file may do to memory."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow
import pytest
from conftest import WordTokenizer
from pyarrow import parquet

import plop_lora as plop
from plop_lora.cli import app
from plop_lora.data.documents import load_documents
from plop_lora.data.reading import read_rows
from plop_lora.errors import DataError, UsageError

ROWS = [{"text": f"text number {number}"} for number in range(20)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def _write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


# --------------------------------------------------------------------------- what people have


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.gz", "a.jsonl"])
def test_gzip_by_its_content(tmp_path: Path, name: str) -> None:
    """Compressed files are what data sets are kept in; a name without .gz is read all the same."""
    assert list(read_rows(_write(tmp_path / name, gzip.compress(LINES.encode())))) == ROWS


def test_other_formats_are_compressed_as_well(tmp_path: Path) -> None:
    """The suffix in front of .gz says what is inside."""
    content = gzip.compress(b"text\tlabel\none, two\t1\n")
    assert list(read_rows(_write(tmp_path / "a.tsv.gz", content))) == [
        {"text": "one, two", "label": "1"}
    ]


def test_tsv_is_split_at_tabs_alone(tmp_path: Path) -> None:
    """A header of one name with a comma in it would have been split there."""
    assert list(read_rows(_write(tmp_path / "a.tsv", "text, whole\none\n"))) == [
        {"text, whole": "one"}
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (LINES, ROWS),
        (json.dumps(ROWS), ROWS),
        ("one\ntwo\n", [{"text": "one"}, {"text": "two"}]),
        (gzip.compress(LINES.encode()), ROWS),
    ],
)
def test_standard_input(content: str | bytes, expected: list[dict], monkeypatch) -> None:
    """A pipe has no name to tell the format by, and cannot be read twice."""
    given = io.BytesIO(content.encode() if isinstance(content, str) else content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(given))
    assert list(read_rows("-")) == expected


@pytest.mark.slow
def test_standard_input_from_the_command_line(tmp_path: Path) -> None:
    """`zcat texts.gz | plop score MODEL --data -`, with three passes over one pipe."""
    program = "from plop_lora.data.documents import load_documents as l; print(len(l('-').items))"
    done = subprocess.run(
        [sys.executable, "-c", program], input=LINES, capture_output=True, text=True, check=True
    )
    assert done.stdout == "20\n"


def test_a_terminal_is_no_data(monkeypatch) -> None:
    """`--data -` without a pipe waits for ever for someone to type."""
    given = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(given, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", given)
    with pytest.raises(UsageError, match="is a terminal"):
        read_rows("-")


def test_saved_data_sets(tmp_path: Path) -> None:
    """A folder of `save_to_disk` was answered with `it has none`."""
    made = datasets.Dataset.from_list(ROWS)
    made.save_to_disk(tmp_path / "one")
    assert list(read_rows(str(tmp_path / "one"))) == ROWS
    datasets.DatasetDict(train=made, test=made).save_to_disk(tmp_path / "splits")
    assert list(read_rows(str(tmp_path / "splits"))) == ROWS
    assert list(read_rows(str(tmp_path / "splits" / "test"))) == ROWS
    datasets.DatasetDict(a=made, b=made).save_to_disk(tmp_path / "odd")
    with pytest.raises(DataError, match=r"the splits a, b.*odd/a"):
        read_rows(str(tmp_path / "odd"))


def test_data_sets_and_iterables_in_python(models) -> None:
    """`plop.score(..., dataset)` complained that a row is no string."""
    made = datasets.Dataset.from_list(ROWS)
    tokenizer = WordTokenizer()
    whole = plop.score(models("llama"), tokenizer, made, stop="fixed", progress=False)
    plain = plop.score(
        models("llama"), tokenizer, [row["text"] for row in ROWS], stop="fixed", progress=False
    )
    assert whole.sequences == 20
    assert [row.nfn for row in whole.types] == [row.nfn for row in plain.types]
    for source in (made, ROWS, iter(ROWS), (row["text"] for row in ROWS)):
        assert len(load_documents(source).items) == 20
    with pytest.raises(UsageError, match=r"dataset\['train'\]"):
        load_documents(datasets.DatasetDict(train=made))


# --------------------------------------------------------------------------- no sample


def test_copies_are_dropped_and_counted(tmp_path: Path, models, tokenizer) -> None:
    """Fifty copies of one text gave an interval of width 0."""
    source = _write(tmp_path / "a.jsonl", LINES + LINES[: LINES.index("\n") + 1] * 3)
    documents = load_documents(source)
    assert (len(documents.items), documents.duplicates, documents.skipped) == (20, 3, 0)
    texts = [row["text"] for row in ROWS]
    scores = plop.score(models("llama"), tokenizer, [*texts, *texts[:5]], progress=False)
    assert any("5 texts dropped as a copy" in note for note in scores.notes)


@pytest.mark.parametrize("different", [1, 3])
def test_a_few_texts_many_times_are_no_sample(
    tmp_path: Path, models, tokenizer, different: int
) -> None:
    """What is left would be scored as if it had been chosen on purpose."""
    texts = [f"the text {number}" for number in range(different)] * 20
    source = _write(tmp_path / "a.txt", "\n".join(texts))
    with pytest.raises(DataError, match=rf"only {different} (is|are) different"):
        load_documents(source)
    with pytest.raises(DataError, match=rf"only {different} (is|are) different"):
        plop.score(models("llama"), tokenizer, texts)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"text": 5}', "row 2: 'text' holds 5, which is no text"),
        ('{"text": NaN}', "row 2: 'text' holds nan"),
        ('{"text": true}', "row 2: 'text' holds True"),
        ('{"text": ["a"]}', "row 2: 'text' holds a list"),
    ],
)
def test_values_that_are_no_text(tmp_path: Path, row: str, message: str) -> None:
    """Numbers and NaN were scored as the words 5 and nan, against what the page says."""
    with pytest.raises(DataError, match=message):
        load_documents(_write(tmp_path / "a.jsonl", f'{{"text": "words"}}\n{row}\n'))


def test_a_column_of_numbers_is_no_text(tmp_path: Path) -> None:
    """In CSV everything is a string; an id taken for the text scores as nonsense."""
    source = _write(tmp_path / "a.csv", "text\n" + "".join(f"{n}\n" for n in range(20)))
    with pytest.raises(DataError, match="are numbers, such as '0'"):
        load_documents(source)


def test_numbers_in_a_template_are_part_of_the_text(tmp_path: Path) -> None:
    """An answer that is a number belongs into a template; only NaN does not."""
    source = _write(tmp_path / "a.jsonl", '{"q": "how many?", "a": 5}\n')
    assert load_documents(source, template="{q} {a}").items[0].text == "how many? 5"
    source = _write(tmp_path / "a.jsonl", '{"q": "how many?", "a": NaN}\n')
    with pytest.raises(DataError, match="row 1: 'a' holds nan"):
        load_documents(source, template="{q} {a}")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "user"}, "message 2 of 'messages' .user. has no content"),
        ({"role": "user", "content": None}, "has no content"),
        ({"role": "user", "content": 5}, "the content 5, which is no text"),
    ],
)
def test_messages_without_content(tmp_path: Path, message: dict, words: str) -> None:
    """Templates render what is not there as the word None."""
    row = {"messages": [{"role": "user", "content": "hello"}, message]}
    source = _write(tmp_path / "a.jsonl", json.dumps(row))
    with pytest.raises(DataError, match=words):
        load_documents(source, chat=str)


def test_a_call_of_a_tool_needs_no_content(tmp_path: Path) -> None:
    """The assistant's message that calls a tool has its calls instead."""
    row = {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}
    source = _write(tmp_path / "a.jsonl", json.dumps(row))
    assert load_documents(source, chat=str).items


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one", "text": "two"}\n'),
        ("a.json", '[{"text": "one", "text": "two"}]'),
        ("a.csv", "text,text\none,two\n"),
    ],
)
def test_a_field_that_is_there_twice(tmp_path: Path, name: str, content: str) -> None:
    """Python keeps the last of them without a word."""
    with pytest.raises(DataError, match="the field 'text' twice"):
        list(read_rows(_write(tmp_path / name, content)))


# --------------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", LINES.encode("utf-16"), "UTF-16 text.*iconv -f utf-16"),
        ("a.txt", LINES.encode("utf-32"), "UTF-32 text.*iconv -f utf-32"),
        ("a.jsonl", b"PAR1....", "Parquet file.*ends in .parquet"),
        ("a.csv", b"PK\x03\x04....", "a spreadsheet"),
        ("a.txt", b"one\0two", "binary file: byte 3 is zero"),
        ("a.jsonl.gz", LINES.encode(), "not compressed with gzip.*Rename it to a.jsonl"),
        ("a.jsonl.gz", gzip.compress(LINES.encode() * 99)[:-20], "damaged or cut off"),
        ("a.txt", b"GGUF....", "weights of a model"),
    ],
)
def test_files_that_are_something_else(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """All of them were answered with a byte that is not UTF-8, or read as texts."""
    with pytest.raises(DataError, match=message):
        list(read_rows(_write(tmp_path / name, content)))


def test_the_folder_of_a_model_is_no_data(tmp_path: Path) -> None:
    """Arguments the wrong way round."""
    _write(tmp_path / "config.json", "{}")
    with pytest.raises(DataError, match=r"the folder of a model.*Give a file of them"):
        read_rows(str(tmp_path))


def test_a_pipe_is_for_one_process(monkeypatch, tmp_path: Path) -> None:
    """Each process of a launcher would read some part of the same pipe."""
    from typer.testing import CliRunner

    _write(tmp_path / "config.json", "{}")

    class Together:
        first = True

    words = ["score", str(tmp_path), "--data", "-"]
    result = CliRunner().invoke(app, words, obj=Together(), input=LINES)
    assert isinstance(result.exception, UsageError)
    assert "one process only" in str(result.exception)


# --------------------------------------------------------------------------- memory


def _peak(program: str, *words: str) -> int:
    """Return by how many bytes a program's memory grew while it read."""
    measured = (
        "import resource, sys\n"
        "from plop_lora.data.documents import load_documents\n"
        "import pyarrow.parquet, numpy\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"{program}\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", measured, *words], capture_output=True, text=True, check=True
    )
    return int(done.stdout) * 1024


@pytest.mark.slow
def test_sixteen_texts_of_a_long_file_need_little_memory(tmp_path: Path) -> None:
    """Half a gigabyte was held for sixteen texts of a million lines."""
    source = tmp_path / "long.jsonl"
    with source.open("w") as file:
        for number in range(150_000):
            file.write(f'{{"text": "number {number} of many {"word " * 20}"}}\n')
    grown = _peak("assert len(load_documents(sys.argv[1], samples=16).items) == 16", str(source))
    assert grown < 40 << 20, f"{grown >> 20} MiB for a file of {source.stat().st_size >> 20}"


@pytest.mark.slow
def test_a_small_parquet_file_with_gigabytes_inside(tmp_path: Path) -> None:
    """521 bytes took 7.2 GB: equal values are stored once."""
    column = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 100_000, pyarrow.int32()), pyarrow.array(["word " * 10_000])
    )
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    grown = _peak(
        "try:\n"
        "    load_documents(sys.argv[1])\n"
        "except ValueError as error:\n"
        "    assert 'only 1 is different' in str(error), error",
        str(tmp_path / "a.parquet"),
    )
    assert grown < 100 << 20, f"{grown >> 20} MiB"


@pytest.mark.slow
def test_parquet_that_declares_too_much_is_not_read(tmp_path: Path) -> None:
    """One page of zeros, compressed, fills memory before a row is seen."""
    table = pyarrow.table({"text": ["x" * (100 << 20)]})
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match=r"would fill memory.*unpack to"):
        load_documents(tmp_path / "a.parquet")


def test_a_line_without_an_end(tmp_path: Path, monkeypatch) -> None:
    """A compressed file of megabytes can hold a line of gigabytes."""
    monkeypatch.setattr("plop_lora.data.lines.LONGEST_LINE", 1000)
    source = _write(tmp_path / "a.txt.gz", gzip.compress(b"short\n" + b"x" * 5000))
    with pytest.raises(DataError, match="line 2, is longer than"):
        list(read_rows(source))


def test_a_record_with_a_byte_order_mark(tmp_path: Path, scores) -> None:
    """Editors on Windows put one in front, and the record was called no JSON."""
    path = scores.save(tmp_path / "scores.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert plop.Scores.load(path) == scores
