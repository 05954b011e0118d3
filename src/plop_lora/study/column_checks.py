"""Which columns of a data set reach the model, reported before anything is trained.

A text column beside the question that nobody reads would make another task of it without a word,
and rows that differ only there look like repeats. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from plop_lora.data.fields import lost_column, unread_columns, values_of
from plop_lora.errors import DataError
from plop_lora.evaluation.judged import Row
from plop_lora.training.readers import Reader
from plop_lora.training.task import Task

_LONGEST = 160


def check_unread(rows: Sequence[Row], asked: Sequence[str], reader: Reader, task: Task) -> None:
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
    name = lost_column(rows, asked, reader.fields, guessed=reader.guessed)
    if name is not None:
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


def column_notes(
    rows: Sequence[Row], made: Sequence[Row], used: Sequence[str], task: Task, source: str
) -> list[str]:
    """Return notes on what the model is given: one row, the columns it never sees, odd prompts."""
    parts = task.reserved
    row = ", ".join(f"{part} {_cut(made[0][part])}" for part in parts if part in made[0])
    notes = [f"the first row of {source} becomes: {row}"]
    unread = [name for name in unread_columns(rows, used) if _is_any_text(rows, name)]
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
    return any(isinstance(value, str) for value in values_of(rows, name))


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
