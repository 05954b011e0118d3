"""A second text column is joined, or refused with what to type; what the model sees is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plop_lora.errors import DataError
from plop_lora.evaluation.judged import prompt_text
from plop_lora.recipe import VerifyRecipe
from plop_lora.study.rows import TaskRows, read_task_rows
from plop_lora.training.tasks import task_named


@pytest.fixture
def read(tmp_path: Path):
    def make(task: str, row: dict[str, Any], **keys: Any) -> TaskRows:
        path = tmp_path / "rows.jsonl"
        rows = [{name: f"{text} {n}" if text else "" for name, text in row.items()}
                for n in range(4)]  # fmt: skip
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = VerifyRecipe(task=task, train=str(path), eval=str(path), **keys)
        return read_task_rows(task_named(task), recipe, str(path))

    return make


@pytest.mark.parametrize(
    ("task", "row", "prompt"),
    [
        ("sft", {"instruction": "sum", "input": "1 2", "output": "3"}, "sum 0\n1 2 0\n"),
        ("sft", {"instruction": "sum", "input": "", "output": "3"}, "sum 0\n"),
        ("sft", {"instruction": "sum", "context": "1 2", "response": "3"}, "sum 0\n1 2 0\n"),
        ("sft", {"question": "who", "context": "she", "answer": "x"}, "she 0\nwho 0\n"),
        ("grpo", {"question": "who", "context": "she", "answer": "x"}, "she 0\nwho 0"),
        ("classify", {"question": "who", "sentence": "she", "label": "x"}, "who 0\nshe 0"),
        ("classify", {"title": "who", "content": "she", "label": "x"}, "who 0\nshe 0"),
        ("sft", {"prompt": "sum 1 2", "input": "1 2", "completion": "3"}, "sum 1 2 0"),
    ],
)
def test_known_pairs_are_joined(read, task: str, row: dict[str, Any], prompt: str) -> None:
    """The input of an instruction was left out without a word."""
    assert prompt_text(read(task, row).rows[0]) == prompt


@pytest.mark.parametrize(
    ("task", "row", "name"),
    [
        ("sft", {"prompt": "sum", "input": "1 2", "completion": "3"}, "input"),
        ("sft", {"question": "who", "story": "a long old story", "answer": "x"}, "story"),
        ("sft", {"instruction": "sum", "facts": "one two three", "output": "3"}, "facts"),
        ("grpo", {"problem": "sum", "choices": "1 2", "answer": "3"}, "choices"),
        ("classify", {"text": "fine", "comment": "a long old story", "label": "x"}, "comment"),
    ],
)
def test_other_texts_are_refused_with_what_to_type(
    read, task: str, row: dict[str, Any], name: str
) -> None:
    rest = f"the column '{name}' beside .* --prompt \"{{{name}}}.*, or leave it out with --"
    with pytest.raises(DataError, match=rest):
        read(task, row)
    first = next(iter(row))
    keys: dict[str, Any] = {"text": first}
    if task == "sft":
        keys = {"prompt": f"{{{first}}}", "completion": f"{{{list(row)[-1]}}}"}
    assert read(task, row, **keys).rows


def test_columns_beside_the_question_that_are_none(read) -> None:
    row = {"question": "who", "answer": "x", "id": "a", "explanation": "a long old story"}
    told = read("sft", row).column_notes
    assert "prompt 'who 0\\n', completion 'x 0'" in told[0]
    assert told[1].endswith("is not given: id, explanation")
    assert len(told) == 2


def test_prompts_that_end_in_a_space_are_told(read) -> None:
    """The space joins the answer's first word in training, and stands alone when it is asked."""
    told = read("sft", {"q": "who", "a": "x"}, prompt="{q} is ", completion="{a}").column_notes
    assert told[-1].startswith("4 of 4 prompts of")
