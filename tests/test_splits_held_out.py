"""What is held out: whole questions, a share of every class, and labels that are told apart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from plop_lora.errors import DataError
from plop_lora.recipe import VerifyRecipe
from plop_lora.study.splits import Splits, prepare_splits

Rows = list[dict[str, Any]]


@pytest.fixture
def split(tmp_path: Path):
    """Split rows that are written to files."""

    def make(task: str, train: Rows, evaluation: Rows, **keys: Any) -> Splits:
        paths = {}
        for name, rows in (("train", train), ("eval", evaluation)):
            paths[name] = str(tmp_path / f"{name}.jsonl")
            Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return prepare_splits(VerifyRecipe(task=task, **paths, **keys))

    return make


def answered(questions: range, *answers: str) -> Rows:
    return [
        {"question": f"What is {n}?", "answer": f"{text} {n}"}
        for n in questions
        for text in answers
    ]


def test_questions_with_two_answers_are_held_out_whole(split) -> None:
    """With two answers each, all report questions were trained on without a word."""
    rows = answered(range(100), "so", "thus")
    with pytest.raises(DataError, match=r"40 of 40 rows .* have a prompt that is also in"):
        split("sft", rows, answered(range(40), "or"))
    splits = split("sft", rows, answered(range(200, 240), "or"))
    parts = [{row["prompt"] for row in part} for part in (splits.train, splits.selection)]
    assert not parts[0] & parts[1]
    assert len(splits.train) + len(splits.selection) == len(rows)
    assert 20 <= len(splits.selection) <= 21
    assert not any("told by" in note for note in splits.notes)


def test_the_rule_is_told_when_it_changes(split) -> None:
    stories = [{"prompt": "Write a story.", "completion": f"story {n}"} for n in range(120)]
    splits = split("sft", stories[:90], stories[90:])
    assert any("share 1 prompts, so a row is told by its prompt" in n for n in splits.notes)


def test_contradictory_labels_are_counted(split) -> None:
    """They were taken for another rule of what may stand in two splits, and never named."""
    rows = [{"text": f"text {n}", "label": label} for n in range(60) for label in "ab"]
    report = [{"text": f"other {n}", "label": "ab"[n % 2]} for n in range(20)]
    splits = split("classify", rows, report)
    assert any("60 of 60 texts" in note for note in splits.notes)
    assert not {r["text"] for r in splits.train} & {r["text"] for r in splits.selection}


@pytest.mark.parametrize("seed", range(20))
def test_every_class_is_in_the_selection_rows(split, seed: int) -> None:
    """With 2 % of one class most seeds chose their rate on rows of the other alone."""
    rows = [{"text": f"text {n}", "label": int(n % 50 == 0)} for n in range(400)]
    report = [{"text": f"other {n}", "label": n % 2} for n in range(20)]
    splits = split("classify", rows, report, seed=seed)
    held, trained, first = (
        Counter(row["label"] for row in part)
        for part in (splits.selection, splits.train, splits.train[:90])
    )
    assert held == {"0": 39, "1": 1}
    assert trained == {"0": 353, "1": 7}
    assert first["1"] == 2


def test_the_only_row_of_a_class_is_trained_on(split) -> None:
    rows = [{"text": f"text {n}", "label": n % 2} for n in range(99)] + [{"text": "x", "label": 7}]
    report = [{"text": f"other {n}", "label": n % 2} for n in range(20)]
    assert "7" in {row["label"] for row in split("classify", rows, report).train}


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("①", "②"), ("①", "②")),
        (("1", "²"), ("1", "²")),
        ((-1, 1), ("-1", "1")),
        (("-1", "1", "10", "2"), None),
        ((-1, 0, 1), None),
    ],
)
def test_labels_that_look_like_numbers(split, labels: Any, classes: Any) -> None:
    """Digits that are no decimals ended the run; -1 beside 1 is a class, else a kept-back label."""
    rows = [{"text": f"text {n}", "label": labels[n % len(labels)]} for n in range(99)]
    report = [{"text": f"other {n}", "label": labels[n % len(labels)]} for n in range(20)]
    if classes:
        assert split("classify", rows, report).labels == classes
        return
    with pytest.raises(DataError, match=r"row 1: there is no label.*of 99 rows.*as a word"):
        split("classify", rows, report)
