"""Which columns of a row are its text: one rule for what is scored and for what is trained on.

Columns are known by the names that data sets use. Scoring reads any row that a finetune would
read, as the text that the finetune would see: what is asked, then what is answered. A column that
is a part of the question and would be left out is found, so that it is told. No torch.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from plop_lora.data.reading import Row
from plop_lora.data.texts import Document, plain

PAIR = ("prompt", "completion")
"""Joined as they are; both may be chats."""
MESSAGES = "messages"
CHATS = (MESSAGES, "conversations")
TEXT = "text"
ANSWERED = (("question", "answer"), ("instruction", "output"), ("instruction", "response"))
"""A question and its answer, with a line break between them."""
BESIDE = {"instruction": ("input", "context"), "question": ("context", "passage")}
"""What a question is about, in a column of its own; it may be empty. Passages come first."""
TEXT_PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"),
    ("question", "sentence"), ("question", "passage"), ("title", "content"), ("title", "text"),
)  # fmt: skip
"""Two texts of one class, with a line break between them."""
TEXTS = ("text", "sentence", "content", "review", "question")
"""One text of a class."""
LABELS = ("label", "labels", "class", "category")
PROMPTS = ("prompt", "question", "problem", "instruction")
ASKED_TOO = frozenset({
    "input", "context", "contexts", "passage", "document", "article", "background", "choices",
    "options", "premise", "hypothesis", "sentence1", "sentence2", "question1", "question2",
})  # fmt: skip
"""Columns that are a part of what is asked wherever there is one."""
NOT_ASKED = frozenset({
    "answer", "answers", "output", "outputs", "response", "responses", "completion", "solution",
    "explanation", "rationale", "reasoning", "reference", "references", "target", "ground_truth",
    "text", "messages", "source", "url", "metadata", "label_text", "label_name",
})  # fmt: skip
"""Columns that say what is right, why, or where a row comes from."""
WORDS = 3
"""A column of this many words a value on average, or more, is text and not names or classes."""


class Form(enum.Enum):
    """In which way columns make up the text of a row."""

    pair = "a prompt with its completion"
    alone = "one column, a text or a chat"
    answered = "a question, what it is about, and its answer"
    texts = "texts of a class"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that hold the text of a row.

    Attributes:
        form: In which way they make up the text.
        names: Names of the columns, in the order in which they are read.
    """

    form: Form
    names: tuple[str, ...]

    @property
    def guessed(self) -> bool:
        """Whether any text beside them may belong to the question as well."""
        return self.form in (Form.answered, Form.texts)


def of_training(names: Collection[str]) -> Columns | None:
    """Return the columns that teach writing: a pair, a chat, a text, or a question and its answer.

    >>> of_training(["id", "instruction", "input", "output"]).names
    ('instruction', 'input', 'output')
    """
    if set(PAIR) <= set(names):
        return Columns(Form.pair, PAIR)
    for name in (*CHATS, TEXT):
        if name in names:
            return Columns(Form.alone, (name,))
    for question, answer in ANSWERED:
        if {question, answer} <= set(names):
            return Columns(Form.answered, (question, *beside(question, names), answer))
    return None


def of_classes(names: Collection[str]) -> Columns | None:
    """Return the columns of the texts that a class is given to: two of them, or one."""
    for pair in TEXT_PAIRS:
        if set(pair) <= set(names):
            return Columns(Form.texts, pair)
    return next((Columns(Form.texts, (name,)) for name in TEXTS if name in names), None)


def of_scoring(names: Collection[str]) -> Columns | None:
    """Return the columns of a row's text for any task, None where their names do not tell.

    Where there is a column of labels, two texts are taken before the column `text` alone.

    >>> of_scoring(["premise", "hypothesis", "label"]).names
    ('premise', 'hypothesis')
    """
    trained, classified = of_training(names), of_classes(names)
    labelled = not set(LABELS).isdisjoint(names)
    if classified is None or (trained is not None and trained.names != (TEXT,)):
        return trained
    if labelled and classified.names != (TEXT,):
        return classified
    return trained or (classified if len(classified.names) > 1 else None)


def beside(question: str, names: Collection[str]) -> tuple[str, ...]:
    """Return those of the columns that say what a question is about."""
    return tuple(name for name in BESIDE.get(question, ()) if name in names)


def question_text(question: str, text: str, given: Sequence[str]) -> str:
    """Return a question as one text with what it is about: a passage before, an input after it."""
    return "\n".join([*given, text] if question == "question" else [text, *given])


def answered_document(row: Row, columns: Columns) -> Document | None:
    """Return a question and its answer as a document, None where one of them is empty.

    Raises:
        UnreadableError: A column holds something else than text.
    """
    question, *about, answer = columns.names
    text, reply = plain(row.get(question), question), plain(row.get(answer), answer)
    if text is None or reply is None:
        return None
    given = [part for name in about if (part := plain(row.get(name), name)) is not None]
    return Document(f"{question_text(question, text, given)}\n", target=reply)


def classified_document(row: Row, columns: Columns) -> Document | None:
    """Return the texts of a class as one document, None where one of them is empty.

    Raises:
        UnreadableError: A column holds something else than text.
    """
    texts = [plain(row.get(name), name) for name in columns.names]
    whole = [text for text in texts if text is not None]
    return Document("\n".join(whole)) if len(whole) == len(texts) else None


# --------------------------------------------------------------------------- what is left out


def lost_column(
    rows: Sequence[Row], asked: Sequence[str], used: Sequence[str], *, guessed: bool
) -> str | None:
    """Return a column that is a part of the question but is not read, None where there is none.

    Args:
        rows: Rows of the data set.
        asked: The question that was made of each row.
        used: Names of the columns that are read.
        guessed: Whether any column of text may belong to the question; if not, only one whose
            name says so does.
    """
    for name in unread_columns(rows, used):
        if name in NOT_ASKED or not _differs(rows, name):
            continue
        is_part = name in ASKED_TOO or (guessed and _is_text(rows, name))
        if is_part and not _is_inside(rows, asked, name):
            return name
    return None


def unread_columns(rows: Sequence[Row], used: Sequence[str]) -> list[str]:
    """Return the columns that are not used."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name not in used]


def values_of(rows: Sequence[Row], name: str) -> list[Any]:
    """Return the values of a column that are not empty."""
    return [value for row in rows if (value := row.get(name)) not in (None, "", [], {})]


def _differs(rows: Sequence[Row], name: str) -> bool:
    return len({str(value) for value in values_of(rows, name)}) > 1


def _is_text(rows: Sequence[Row], name: str) -> bool:
    values = values_of(rows, name)
    if not values or not all(isinstance(value, str) for value in values):
        return False
    return sum(len(value.split()) for value in values) / len(values) >= WORDS


def _is_inside(rows: Sequence[Row], asked: Sequence[str], name: str) -> bool:
    """Whether each question holds the value of the column already."""
    pairs = [(str(row[name]), text) for row, text in zip(rows, asked, strict=True) if row.get(name)]
    return all(value.strip() in text for value, text in pairs)
