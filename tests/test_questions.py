"""The page of questions: a command for each, and a number that another page has, or not known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "questions.md").read_text(encoding="utf-8")
QUESTIONS = dict(
    re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
)
SOURCES = " ".join(
    (DOCS / name).read_text(encoding="utf-8")
    for name in ("evidence.md", "experiments.md", "gate.md")
)
NUMBER = re.compile(r"[+−]?\d+\.\d+")


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_has_a_command_and_a_number_or_none_is_known(question: str) -> None:
    answer = QUESTIONS[question]
    assert "```sh\nplop " in answer
    text = answer.partition("```")[0]
    assert NUMBER.search(text) or "Not known" in text or "Often not" in text


def test_numbers_stand_on_the_pages_that_measured_them() -> None:
    """A number that changes there must change here."""
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    missing = [found for found in NUMBER.findall(prose) if found.lstrip("+−") not in SOURCES]
    assert missing == []
