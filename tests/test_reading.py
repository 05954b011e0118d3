"""Files as they come: other dialects, shapes and encodings, nested fields, chats with tools."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from plop_lora.data.documents import load_documents
from plop_lora.data.reading import read_rows
from plop_lora.data.texts import Document
from plop_lora.data.tokens import encode
from plop_lora.errors import DataError, UsageError

ROWS = [{"question": "one", "answer": "1"}, {"question": "two", "answer": "2"}]
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]


def _file(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def _texts(source: str, **options: object) -> list[str]:
    return [document.text for document in load_documents(source, **options).items]


# --------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    "document",
    [
        json.dumps(ROWS),
        json.dumps({"data": ROWS, "version": 3}),
        json.dumps({"question": ["one", "two"], "answer": ["1", "2"]}),
        "\n".join(json.dumps(row) for row in ROWS),
        "\n\n" + "\n".join(json.dumps(row) for row in ROWS) + "\n",
    ],
    ids=["list", "list in an object", "columns", "lines", "lines after blanks"],
)
def test_json_in_several_shapes(tmp_path, document: str) -> None:
    """Exports of pandas, of datasets and of annotation tools all end in .json."""
    assert list(read_rows(_file(tmp_path, "data.json", document))) == ROWS


def test_json_with_strings_and_with_one_row(tmp_path) -> None:
    assert _texts(_file(tmp_path, "a.json", '["one", "two"]')) == ["one", "two"]
    assert _texts(_file(tmp_path, "b.json", '{"text": "one"}')) == ["one"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("5", "is a bare value"),
        ("null", "is a bare value"),
        ("[1, 2]", "item 0, is neither an object nor a string"),
        ('{"train": [{"text": "a"}], "test": [{"text": "b"}]}', r"several lists \(train, test\)"),
        ('{"a": ["x"], "b": ["y", "z"]}', "columns of equal length"),
        ('{"text": "a"', "is not JSON"),
        ('{"text": "a"}\n{"text"', "line 2, is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_json_that_holds_no_rows(tmp_path, document: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_rows(_file(tmp_path, "data.json", document)))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt"])
@pytest.mark.parametrize("content", ["", " \n \n", "\ufeff"])
def test_empty_files(tmp_path, name: str, content: str) -> None:
    """Nothing at all, blank lines and a lone byte-order mark are all empty."""
    with pytest.raises(DataError, match=r"holds no rows|No row of .* has text"):
        load_documents(_file(tmp_path, name, content), text="text")


# --------------------------------------------------------------------------- csv


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_csv_dialects(tmp_path, mark: str) -> None:
    """A semicolon file read with commas would be one column with a wrong text."""
    lines = [mark.join(("question", "answer")), mark.join(('"one, ""1""; or | so"', "1"))]
    source = _file(tmp_path, "data.csv", "\ufeff" + "\r\n".join(lines))
    assert list(read_rows(source)) == [{"question": 'one, "1"; or | so', "answer": "1"}]


def test_csv_with_long_and_quoted_lines(tmp_path) -> None:
    """A text may be longer than the library's limit for a field, and span lines."""
    long = "word " * 60_000
    source = _file(tmp_path, "data.csv", f'text,n\n"{long}",1\n"two\nlines",2\n')
    assert _texts(source, text="text") == [long, "two\nlines"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,n\na, b,1\n", r"line 2, has more fields than the header \(text, n\)"),
        ('text,n\n"a,1\n', "is not CSV: unexpected end of data"),
    ],
)
def test_csv_that_is_broken(tmp_path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_rows(_file(tmp_path, "data.csv", content)))


# --------------------------------------------------------------------------- encodings


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt"])
def test_other_encodings_are_named_with_their_line(tmp_path, name: str) -> None:
    lines = {"a.jsonl": '{"text": "a"}\n{"text": "café"}', "a.json": '["a",\n"café"]'}
    content = lines.get(name, "text\ncafé\n").encode("latin-1")
    with pytest.raises(DataError, match=r"line 2, is not UTF-8 text \(byte 0xe9\).*iconv"):
        list(read_rows(_file(tmp_path, name, content)))


def test_half_a_surrogate_pair_is_replaced(tmp_path, tokenizer) -> None:
    """JSON can hold it; hashing and tokenising it would fail deep inside a library."""
    documents = load_documents(_file(tmp_path, "a.jsonl", '{"text": "bad \\ud83d here"}'))
    seen = []

    def spy(text: str, **options: object) -> dict[str, list[int]]:
        seen.append(text)
        return tokenizer(text)

    encode(documents.items, spy, max_length=9, vocabulary=None, encoder_decoder=False)
    assert seen == ["bad ? here"]


def test_suffixes_in_capitals_and_unreadable_files(tmp_path, monkeypatch) -> None:
    assert _texts(_file(tmp_path, "DATA.TXT", "one\n")) == ["one"]

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    source = _file(tmp_path, "data.jsonl", "{}")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"Cannot read .*data\.jsonl: Permission denied"):
        list(read_rows(source))


def test_a_missing_file_offers_only_what_is_close(tmp_path) -> None:
    _file(tmp_path, "cols.json", "[]")
    with pytest.raises(DataError, match=r"No data at .*problems\.jsonl\. Give a file \(\.jsonl"):
        read_rows(str(tmp_path / "problems.jsonl"))
    with pytest.raises(DataError, match="there is no folder"):
        read_rows(str(tmp_path / "deep" / "problems.jsonl"))


# --------------------------------------------------------------------------- fields


def _parquet(folder: Path, rows: list[dict]) -> str:
    import pyarrow
    from pyarrow import parquet

    path = folder / "data.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def test_nested_fields(tmp_path) -> None:
    """Parquet from the hub nests; a printed Python dict must never be scored as a text."""
    rows = [
        {"id": 1, "answers": {"text": ["Paris", "Rome"], "day": datetime.date(2020, 1, 2)}},
        {"id": 2, "answers": {"text": [], "day": None}},
        {"id": 3, "answers": None},
    ]
    source = _parquet(tmp_path, rows)
    documents = load_documents(source, template="{id}: {answers[text][1]} on {answers[day]}")
    assert documents.items == (Document("1: Rome on 2020-01-02"),)
    assert documents.skipped == 2
    with pytest.raises(DataError, match=r"row 1: 'answers' holds a dict.*\{answers\[text\]\}"):
        load_documents(source, text="answers")
    with pytest.raises(DataError, match=r"row 1: there is no 'x' in 'id\[x\]'"):
        load_documents(source, template="{id[x]}")
    with pytest.raises(DataError, match=r"No field of .* holds plain text; it has: id, answers"):
        load_documents(source)


def test_templates(tmp_path) -> None:
    source = _file(tmp_path, "a.jsonl", json.dumps({"a.b": "x", "n": 7, "set": ""}))
    assert _texts(source, template="{{{a.b}}} {{n}} {n:03d}") == ["{x} {n} 007"]
    with pytest.raises(UsageError, match=r"Cannot read the template '{n'"):
        load_documents(source, template="{n")
    with pytest.raises(UsageError, match="names no field"):
        load_documents(source, template="{} {n}")
    with pytest.raises(DataError, match=r"row 1: the template .* does not fit: Unknown format"):
        load_documents(source, template="{a.b:d}")
    with pytest.raises(DataError, match=r"No row of .* has text"):
        load_documents(source, template="{n} {set}")


# --------------------------------------------------------------------------- chats


def _chat(messages: list[dict], tools: list | None = None) -> str:
    assert all("tool_calls" not in m or m["tool_calls"] for m in messages)
    said = "|".join(str(message["content"]) for message in messages)
    return f"<s>{said}" + (f" with {len(tools)} tools" if tools else "")


def test_chats_with_tools(tmp_path) -> None:
    """Parquet fills absent keys with None, which templates take for a call without a name."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    source = _parquet(tmp_path, [{"messages": [*TALK, call], "tools": [{"name": "add"}]}])
    assert load_documents(source, chat=_chat).items == (
        Document("<s>hi|yes|None with 1 tools", rendered=True),
    )


def test_chats_under_other_names(tmp_path) -> None:
    source = _file(tmp_path, "a.jsonl", json.dumps({"chosen": TALK, "rejected": TALK[:1]}))
    assert _texts(source, text="chosen", chat=_chat) == ["<s>hi|yes"]


def test_a_rendered_chat_gets_no_second_beginning(tokenizer) -> None:
    """Chat templates write the beginning-of-text token; the tokenizer would add another."""
    asked = []

    def spy(text: str, **options: object) -> dict[str, list[int]]:
        asked.append(options["add_special_tokens"])
        return tokenizer(text)

    documents = [Document("plain"), Document("<s>chat", rendered=True)]
    encode(documents, spy, max_length=9, vocabulary=None, encoder_decoder=True)
    assert asked == [True, True, False, False]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "hi"}, r"row 2: 'messages' must be a list of messages"),
        ({"messages": [{"from": "nobody", "value": "hi"}]}, r"row 2: 'messages' must be a list"),
        (
            {"messages": [TALK[0] | {"tool_calls": []}]},
            r"row 2: the chat template refuses.*Assertion",
        ),
        ({"prompt": "a", "completion": TALK}, r"row 1: 'prompt' and 'completion' must both"),
    ],
)
def test_chats_that_cannot_be_read(tmp_path, row: dict, message: str) -> None:
    rows = [row] if "prompt" in row else [{"messages": TALK}, row]
    source = _file(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=message):
        load_documents(source, chat=_chat)


def test_empty_chats_are_skipped(tmp_path) -> None:
    rows = [{"messages": []}, {"messages": None}, {"messages": TALK}]
    source = _file(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    documents = load_documents(source, chat=_chat)
    assert (len(documents.items), documents.skipped) == (1, 2)
