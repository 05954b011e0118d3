"""One rule says which columns are the text: what is scored is what is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plop_lora.data.documents import load_documents
from plop_lora.data.texts import Document, UnreadableError, template_value
from plop_lora.errors import DataError
from plop_lora.evaluation.chats import template_arguments
from plop_lora.recipe import VerifyRecipe
from plop_lora.study.rows import read_task_rows
from plop_lora.training.tasks import task_named

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]


def _chat(messages: list[dict[str, str]]) -> str:
    return "|".join(message["content"] for message in messages)


def _file(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _trained(source: str, task: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the first row as a trial is given it, and the columns that it was read by."""
    recipe = VerifyRecipe(task=task, train=source, eval=source)
    read = read_task_rows(task_named(task), recipe, source)
    return dict(read.rows[0]), read.fields


SFT: list[dict[str, Any]] = [
    {"prompt": "a", "completion": " b", "id": "x"},
    {"question": "a?", "answer": "b"},
    {"question": "a?", "answer": "b", "context": "c", "passage": ""},
    {"instruction": "do", "output": "done", "input": "this", "id": 7},
    {"instruction": "do", "output": "done", "input": ""},
    {"instruction": "do", "response": "done"},
    {"text": "whole", "question": "a?", "answer": "b"},
    {"text": "a text", "label": 3},
]
CLASSIFY: list[dict[str, Any]] = [
    {"premise": "a", "hypothesis": "b", "label": 1, "idx": 0},
    {"sentence1": "a", "sentence2": "b", "label": "same"},
    {"title": "a", "content": "b", "label": "good"},
    {"title": "a", "text": "b", "label": "good"},
    {"sentence": "a film", "label": "good"},
    {"review": "a film", "class": "good", "id": "x1"},
    {"text": "a film", "label": "good"},
]


@pytest.mark.parametrize("row", SFT, ids=lambda row: " ".join(row))
def test_what_is_scored_is_what_is_trained_on(row: dict[str, Any], tmp_path: Path) -> None:
    """Files that `plop verify` reads were refused by `plop score`, or read as something else."""
    source = _file(tmp_path, row)
    (document,), made = load_documents(source).items, _trained(source, "sft")
    if "text" in made[0]:
        assert document == Document(made[0]["text"])
    else:
        assert document == Document(made[0]["prompt"], target=made[0]["completion"])
    assert load_documents(source).field == ", ".join(made[1])


@pytest.mark.parametrize("row", CLASSIFY, ids=lambda row: " ".join(row))
def test_what_is_scored_is_what_is_classified(row: dict[str, Any], tmp_path: Path) -> None:
    """A label beside the text made it one of two string columns, between which nobody can tell."""
    source = _file(tmp_path, row)
    made, fields = _trained(source, "classify")
    documents = load_documents(source)
    assert documents.items == (Document(made["text"]),)
    assert documents.field == ", ".join(fields[:-1])


@pytest.mark.parametrize(
    ("row", "expected", "field"),
    [
        ({"premise": "a", "hypothesis": "b"}, Document("a\nb"), "premise, hypothesis"),
        ({"title": "a", "text": "b"}, Document("b"), "text"),
        ({"messages": TALK, "text": "no"}, Document("hi|yes", rendered=True), "messages"),
        ({"conversations": TALK, "text": "no"}, Document("hi|yes", rendered=True), "conversations"),
        ({"dialog": TALK, "label": "a"}, Document("hi|yes", rendered=True), "dialog"),
        ({"sentence": "only one"}, Document("only one"), "sentence"),
    ],
)
def test_rows_of_no_task(row, expected: Document, field: str, tmp_path: Path) -> None:
    documents = load_documents(_file(tmp_path, row), chat=_chat)
    assert documents.items == (expected,)
    assert documents.field == field


def test_rows_without_a_question_or_an_answer_are_skipped(tmp_path: Path) -> None:
    """Scoring counts rows without text; half a pair would be another text."""
    rows = [{"question": "a?", "answer": "b"}, {"question": "a?", "answer": ""}, {"answer": "b"}]
    documents = load_documents(_file(tmp_path, *rows))
    assert (len(documents.items), documents.skipped) == (1, 2)
    pairs = [{"premise": "a", "hypothesis": None}, {"premise": "a", "hypothesis": "b"}]
    assert load_documents(_file(tmp_path, *pairs)).skipped == 1


def test_a_part_of_the_question_is_not_left_out_silently(tmp_path: Path) -> None:
    """Choices beside a question make another task of it, for the score as for the trial."""
    rows = [
        {"question": f"which {n}?", "answer": "b", "hint": f"it is one of the {n} last"}
        for n in range(4)
    ]
    source = _file(tmp_path, *rows)
    with pytest.raises(DataError, match=r"'hint' .* --template \"\{hint\}\\n\{question\}"):
        load_documents(source)
    with pytest.raises(DataError, match="'hint' beside 'question'"):
        _trained(source, "sft")
    joined = load_documents(source, template="{hint}\n{question}\n{answer}")
    assert joined.items[0].text == "it is one of the 0 last\nwhich 0?\nb"
    classes = [{"sentence": f"film {n}", "label": f"it is class {n}"} for n in range(4)]
    assert load_documents(_file(tmp_path, *classes)).field == "sentence"
    named = [row | {"solution": row.pop("hint")} for row in rows]
    assert len(load_documents(_file(tmp_path, *named)).items) == 4


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ([{"name": "f"}], list, [{"name": "f"}]),
        ('[{"name": "f", "strict": null}]', list, [{"name": "f"}]),
        ('{"style": "brief"}', dict, {"style": "brief"}),
        (None, list, None),
        ("", list, ""),
    ],
)
def test_what_a_template_is_given(value: Any, kind: type, expected: Any) -> None:
    assert template_value({"tools": value}, "tools", kind) == expected


@pytest.mark.parametrize("value", ["add, sub", '{"name": "f"}', {"name": "f"}, 5])
def test_tools_that_are_none_are_told_alike(value: Any) -> None:
    """Scoring and training read the column by two functions that had come apart."""
    row = {"tools": value}
    with pytest.raises(UnreadableError) as scored:
        template_value(row, "tools", list)
    with pytest.raises(DataError) as trained:
        template_arguments(row)
    assert str(scored.value) in str(trained.value)
    assert "'tools' holds" in str(scored.value)
