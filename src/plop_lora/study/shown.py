"""What of a data set reaches the model, told before anything is trained: one row, and the rest.

A text column beside the question that nobody reads would make another task of it without a word,
and rows that differ only there look like repeats. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plop_lora.errors import DataError
from plop_lora.evaluation.judged import Row
from plop_lora.fields import Reader
from plop_lora.training.task import Task

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
"""Mean words of a column from which on it is a text, and no name, number or class."""
_SHOWN = 160


def check_lost(rows: Sequence[Row], asked: Sequence[str], reader: Reader, task: Task) -> None:
    """Refuse a column that is a part of the question but would reach no model.

    Args:
        rows: those of the file.
        asked: the prompt that each has become.
        reader: of the rows; where it has guessed, any text beside its columns may belong to the
            question, otherwise its name must say so.
        task: what the rows are for.

    Raises:
        DataError: there is such a column.
    """
    for name in _unread(rows, reader.fields):
        if name in NOT_ASKED or not _differs(rows, name):
            continue
        is_part = name in ASKED_TOO or (reader.guessed and _is_text(rows, name))
        if is_part and not _is_inside(rows, asked, name):
            raise DataError(_lost(name, reader.fields, task))


def _lost(name: str, used: Sequence[str], task: Task) -> str:
    with_it = "\\n".join(f"{{{field}}}" for field in (name, used[0]))
    if task.completes:
        end = f' --completion "{{{used[-1]}}}"'
        ways = (f'--prompt "{with_it}\\n"{end}', f'--prompt "{{{used[0]}}}\\n"{end}')
    else:
        ways = (f'--prompt "{with_it}"', f"--text {used[0]}")
    return (
        f"the column {name!r} beside {used[0]!r} holds text that no trial would see, and rows that "
        f"differ only there would count as one. Use it with {ways[0]}, or leave it out with "
        f"{ways[1]}."
    )


def _unread(rows: Sequence[Row], used: Sequence[str]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name not in used]


def _values(rows: Sequence[Row], name: str) -> list[Any]:
    return [value for row in rows if (value := row.get(name)) not in (None, "", [], {})]


def _differs(rows: Sequence[Row], name: str) -> bool:
    return len({str(value) for value in _values(rows, name)}) > 1


def _is_text(rows: Sequence[Row], name: str) -> bool:
    values = _values(rows, name)
    if not values or not all(isinstance(value, str) for value in values):
        return False
    return sum(len(value.split()) for value in values) / len(values) >= WORDS


def _is_inside(rows: Sequence[Row], asked: Sequence[str], name: str) -> bool:
    """Whether the prompts hold what the column says already."""
    pairs = [(str(row[name]), text) for row, text in zip(rows, asked, strict=True) if row.get(name)]
    return all(value.strip() in text for value, text in pairs)


def shown(
    rows: Sequence[Row], made: Sequence[Row], used: Sequence[str], task: Task, source: str
) -> list[str]:
    """Return notes on what the model is given: one row, the columns it never sees, odd prompts."""
    parts = task.reserved
    row = ", ".join(f"{part} {_cut(made[0][part])}" for part in parts if part in made[0])
    notes = [f"the first row of {source} becomes: {row}"]
    unread = [name for name in _unread(rows, used) if _is_any_text(rows, name)]
    if unread:
        notes.append(f"text columns of {source} that the model is not given: {', '.join(unread)}")
    prompts = [row["prompt"] for row in made if isinstance(row.get("prompt"), str)]
    spaced = sum(prompt.endswith(" ") for prompt in prompts)
    if spaced and task.completes:
        notes.append(
            f"{spaced} of {len(made)} prompts of {source} end in a space, which most tokenizers "
            "join with the word that follows: the model is asked with other tokens than it learns "
            "by. Begin the completion with the space"
        )
    return notes


def _is_any_text(rows: Sequence[Row], name: str) -> bool:
    return any(isinstance(value, str) for value in _values(rows, name))


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
