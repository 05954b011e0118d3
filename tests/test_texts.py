"""What of a row is its text: fields by name and shape, chats in every form that data have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from plop_lora.data.documents import load_documents
from plop_lora.demo import MODEL
from plop_lora.errors import DataError
from plop_lora.models.loading import load_tokenizer
from plop_lora.records import Scores
from plop_lora.scoring.inputs import chat_of

ASKED = [{"from": "human", "value": "What is a rank?"}, {"from": "gpt", "value": "A number."}]
TALK = [
    {"role": "user", "content": "What is a rank?"},
    {"role": "assistant", "content": "A number."},
]
RENDERED = "user: What is a rank?\nassistant: A number.\n"
OF_TEXTS = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
OF_ANYTHING = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
OF_PARTS = (
    "{% for m in messages %}{{ m.role }}: {% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}"
)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
OF_TOOLS = "{{ tools | tojson }} " + OF_TEXTS


def _chat(template: str):
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = template
    return chat_of(tokenizer)


def _lines(folder: Path, *rows: dict) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _parquet(folder: Path, *rows: dict) -> str:
    import pyarrow
    from pyarrow import parquet

    path = folder / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return str(path)


def _text(source: str, template: str = OF_TEXTS, **options: object) -> str:
    (document,) = load_documents(source, chat=_chat(template), **options).items
    return document.text


# --------------------------------------------------------------------------- which field


@pytest.mark.slow
@pytest.mark.parametrize(
    "value",
    [
        ASKED,
        TALK,
        {"role": ["user", "assistant"], "content": [m["content"] for m in TALK]},
        json.dumps(TALK),
    ],
    ids=["from and value", "role and content", "columns", "JSON"],
)
@pytest.mark.parametrize("write", [_lines, _parquet])
def test_a_chat_is_known_by_its_shape(tmp_path, write, value: object) -> None:
    """The ids beside a chat would be scored as the texts, since they are the only strings."""
    source = write(tmp_path, {"id": "conversation 17 of 20", "conversations": value})
    documents = load_documents(source, chat=_chat(OF_TEXTS))
    assert documents.items[0].text == RENDERED
    assert documents.field == "conversations"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "of 17", "tokens": ["a", "b"]}, r"'id' holds strings.*\(tokens\).*--text id"),
        ({"id": "of 17", "answers": {"text": "a"}}, r"'id' holds strings.*\(answers\)"),
        ({"chosen": TALK, "rejected": TALK}, r"several chats: chosen, rejected.*--text"),
        ({"id": "row-17", "score": 3}, r"'id', and each of them is one word.*--text id"),
    ],
)
def test_what_may_not_be_the_text_is_asked_about(tmp_path, row: dict, message: str) -> None:
    """A column of ids decides the choice of modules as confidently as texts do."""
    with pytest.raises(DataError, match=message):
        load_documents(_lines(tmp_path, row))


def test_a_name_is_a_text_where_the_user_says_so(tmp_path) -> None:
    source = _lines(tmp_path, {"id": "row-17", "score": 3}, {"id": "MKTAYIAKQR", "score": 4})
    documents = load_documents(source, text="id")
    assert len(documents.items) == 2
    assert documents.field == "id"


def test_an_empty_input_is_empty(tmp_path) -> None:
    """Most instructions need no input; their rows would all be skipped as rows without text."""
    rows = [
        {"instruction": "Name a colour.", "input": "", "output": "Red."},
        {"instruction": "Add them.", "input": "1 2", "output": "3"},
        {"instruction": "Name a fruit.", "input": None, "output": "Fig."},
        {"instruction": "No answer.", "input": "", "output": ""},
    ]
    source = _lines(tmp_path, *rows)
    documents = load_documents(source, template="{instruction} {input} {output}")
    assert [document.text for document in documents.items] == [
        "Name a colour.  Red.", "Add them. 1 2 3", "Name a fruit.  Fig.",
    ]  # fmt: skip
    assert documents.skipped == 1
    assert documents.field == "{instruction} {input} {output}"


# --------------------------------------------------------------------------- forms of contents


@pytest.mark.parametrize("template", [OF_TEXTS, OF_ANYTHING, OF_PARTS])
@pytest.mark.parametrize("write", [_lines, _parquet])
@pytest.mark.parametrize("parts", [True, False])
def test_contents_as_texts_and_as_parts_are_one_text(
    tmp_path, template: str, write, parts: bool
) -> None:
    """A template of texts prints `[{'type': 'text', …`, one of parts passes over a text."""
    messages = TALK
    if parts:
        messages = [
            {"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in TALK
        ]
    assert _text(write(tmp_path, {"messages": messages}), template) == RENDERED


def test_a_template_that_leaves_out_thoughts_is_not_second_guessed(tmp_path) -> None:
    """What a template drops on purpose must not bring another form of the contents."""
    template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    talk = [TALK[0], {"role": "assistant", "content": "<think>so</think>A number."}]
    assert _text(_lines(tmp_path, {"messages": talk}), template) == "What is a rank?A number."


def test_an_image_in_a_chat_is_refused(tmp_path) -> None:
    """The tokenizer alone makes a placeholder of it, and the model would see no image."""
    content = [{"type": "image", "url": "a.png"}, {"type": "text", "text": "What is it?"}]
    source = _lines(tmp_path, {"messages": [{"role": "user", "content": content}]})
    with pytest.raises(DataError, match=r"message 1 of 'messages' .*\(image\).*batches="):
        load_documents(source, chat=_chat(OF_PARTS))


# --------------------------------------------------------------------------- tools and days


def test_tools_are_one_text_however_they_are_stored(tmp_path) -> None:
    """Parquet gives every tool the keys of all, as null; CSV can hold only the JSON of them."""
    described = {"type": "function", "function": {"name": "sub", "description": "Subtract."}}
    rows = {"messages": TALK, "tools": [TOOL, described]}
    plain = _text(_lines(tmp_path, rows), OF_TOOLS)
    assert json.dumps(TOOL) in plain
    assert _text(_parquet(tmp_path, rows), OF_TOOLS) == plain
    assert _text(_lines(tmp_path, rows | {"tools": json.dumps(rows["tools"])}), OF_TOOLS) == plain


def test_tools_that_are_no_list(tmp_path) -> None:
    source = _lines(tmp_path, {"messages": TALK, "tools": "add, sub"})
    with pytest.raises(DataError, match=r"'tools' holds 'add, sub', which is no list of tools"):
        load_documents(source, chat=_chat(OF_TOOLS))


def test_a_template_with_a_date_gives_one_text_on_every_day(tmp_path, monkeypatch) -> None:
    """The same rows scored on two days would be different sequences, which nothing can compare."""
    text = _text(_lines(tmp_path, {"messages": TALK}), "{{ strftime_now('%d %b %Y') }}" + OF_TEXTS)
    assert text == "26 Jul 2024" + RENDERED


# --------------------------------------------------------------------------- what is said


def test_the_field_and_the_length_of_its_texts_are_told(tmp_path, run) -> None:
    """A wrong field is seen by its name and by texts of two tokens, if anybody says so."""
    rows = [{"label": n, "question": f"what is {n} and {n * n}?"} for n in range(24)]
    source, record = _lines(tmp_path, *rows), tmp_path / "scores.json"
    code, output, _ = run("score", str(MODEL), "--data", source, "-o", str(record))
    assert code == 0
    scores = Scores.load(record)
    mean = scores.tokens / scores.sequences
    assert scores.provenance.settings["field"] == "question"
    assert scores.provenance.settings["tokens_per_sequence"] == pytest.approx(mean, abs=0.051)
    assert f"Text: question, {mean:.1f} tokens a sequence on average." in output


@pytest.mark.parametrize("file", ["chat_template.json", "processor_config.json"])
def test_a_template_that_only_the_processor_has(tmp_path, file: str) -> None:
    """Older models that also see have it in a file that tokenizers do not read."""
    for part in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / part).symlink_to(MODEL / part)
    assert load_tokenizer(str(tmp_path)).chat_template is None
    (tmp_path / file).write_text(json.dumps({"chat_template": OF_PARTS}))
    assert load_tokenizer(str(tmp_path)).chat_template == OF_PARTS
