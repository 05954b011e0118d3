"""The items of a gate: evaluation rows, general texts and prompts, with their hashes. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from plop_lora.data.gate_sets import GatePrompt, gate_prompts, read_prompts
from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation.judged import Row
from plop_lora.recipe import DataRecipe, GateRecipe
from plop_lora.study.general import read_texts, source_of
from plop_lora.study.rows import read_task_rows
from plop_lora.training.task import Task

_LETTERS = 16
_LONGEST_NAME = 48
"""Number of characters of an identifier above which it may be a text."""


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The items of one check.

    Attributes:
        rows: Rows as they are measured.
        hashes: Hash of the content of every row.
        groups: Name of the group of every row; rows of one group are not independent.
        source: Where the rows come from.
        names: Name of every row in a record, which holds no text of the row.
    """

    rows: tuple[Row, ...]
    hashes: tuple[str, ...]
    groups: tuple[str, ...]
    source: str
    names: tuple[str, ...]

    @property
    def independent(self) -> int:
        """The number of groups."""
        return len(set(self.groups))

    def where(self, holds: Callable[[Row], bool]) -> Items:
        """Return the items for whose row a function holds."""
        return self.at([index for index, row in enumerate(self.rows) if holds(row)])

    def at(self, kept: Sequence[int]) -> Items:
        """Return the items of some indices."""
        return Items(
            tuple(self.rows[index] for index in kept),
            tuple(self.hashes[index] for index in kept),
            tuple(self.groups[index] for index in kept),
            self.source,
            tuple(self.names[index] for index in kept),
        )

    def and_those(self, others: Items) -> Items:
        """Return these items, and other ones after them."""
        return Items(
            self.rows + others.rows,
            self.hashes + others.hashes,
            self.groups + others.groups,
            f"{self.source} and {others.source}",
            self.names + others.names,
        )

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        asked: Sequence[str],
        source: str,
        *,
        names: Sequence[str] | None = None,
    ) -> Items:
        """Return items whose groups are the rows that ask the same.

        Args:
            rows: Rows as they are measured.
            asked: Question of every row, or its whole text.
            source: Where the rows come from.
            names: Name of every row; by default its `id`, or else its number.
        """
        if names is None:
            names = [item_name(row.get("id"), place) for place, row in enumerate(rows, start=1)]
        hashes = tuple(_hash(json.dumps(row, sort_keys=True, default=str)) for row in rows)
        return cls(tuple(rows), hashes, tuple(map(_hash, asked)), source, tuple(names))


def item_name(identifier: object, number: int) -> str:
    """Return the identifier of a row if it can only be one, else the number of the row.

    A text that stands in a column of identifiers must not get into a record: an identifier is a
    whole number, or one short word.

    >>> item_name("fraud-12", 3), item_name("Where do you live?", 3), item_name(None, 3)
    ('fraud-12', 'row 3', 'row 3')
    """
    word = str(identifier) if isinstance(identifier, str | int) else ""
    if 0 < len(word) <= _LONGEST_NAME and not any(map(str.isspace, word)):
        return word
    return f"row {number}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_LETTERS]


def spread_evenly(rows: Sequence[Row], most: int) -> list[Row]:
    """Return at most so many rows, at equal distances from the first to the last.

    >>> spread_evenly([{"n": n} for n in range(6)], 3)
    [{'n': 0}, {'n': 2}, {'n': 4}]
    """
    count = len(rows)
    return [rows[place * count // most] for place in range(most)] if count > most else list(rows)


def rows_of(recipe: GateRecipe, task: Task, source: str) -> Items:
    """Return the rows of a file as the task reads them; those that share a question form one group.

    Raises:
        DataError: There are no rows, or they cannot be read as rows of the task.
    """
    data = DataRecipe.model_validate({
        "task": recipe.task, "train": source, "eval": source, "text": recipe.text,
        "prompt": recipe.prompt, "completion": recipe.completion,
    })  # fmt: skip
    rows = read_task_rows(task, data, source).rows
    return Items.of(rows, [task.question(row) for row in rows], source)


def task_items(recipe: GateRecipe, task: Task) -> Items:
    """Return the evaluation rows; those that share a question form one group.

    Raises:
        DataError: There are no rows, or they cannot be read as rows of the task.
        UsageError: The recipe names none.
    """
    if recipe.eval is None:
        raise UsageError(
            "The checks of the task and of fairness need evaluation rows. Give a file with eval, "
            "or choose other checks with --checks."
        )
    return rows_of(recipe, task, recipe.eval)


def general_items(recipe: GateRecipe, task: Task) -> Items:
    """Return the general texts.

    Raises:
        DataError: The texts cannot be read, or there are none.
        UsageError: The recipe asks for no texts.
    """
    if not recipe.general.most:
        raise UsageError(
            "The check forgetting needs general text, and general.most is 0. Give a larger number, "
            "or leave the check out with --checks task."
        )
    texts = read_texts(recipe.general)
    if not texts:
        raise DataError(f"{source_of(recipe.general)} holds no texts. Give a file with some.")
    return Items.of([{"text": text} for text in texts], texts, source_of(recipe.general))


BUNDLED = "the bundled prompts"


def prompt_items(recipe: GateRecipe, task: Task) -> Items:
    """Return the prompts of the checks of safety, harmful ones and their harmless twins.

    Raises:
        DataError: The file of prompts cannot be read, or a row of it is wrong.
        UsageError: There are no bundled prompts in a language.
    """
    safety = recipe.gate.safety
    if safety.prompts is None:
        by_language = [gate_prompts(language)[: safety.most] for language in safety.languages]
        found = [prompt for prompts in by_language for prompt in prompts]
        source = f"{BUNDLED} ({', '.join(safety.languages)})"
    else:
        found, source = [*read_prompts(Path(safety.prompts))], safety.prompts
    if not found:
        raise DataError(f"{source} has no prompts. Give a file with some, or leave out the checks.")
    _refuse_repeated(found, source)
    rows = [asdict(prompt) for prompt in found]
    return Items.of(rows, [prompt.prompt for prompt in found], source)


def _refuse_repeated(prompts: Sequence[GatePrompt], source: str) -> None:
    """Refuse a text that stands twice: as harmful and harmless it would judge itself."""
    seen: dict[str, str] = {}
    for prompt in prompts:
        first = seen.setdefault(" ".join(prompt.prompt.split()), prompt.id)
        if first != prompt.id:
            raise DataError(
                f"{source}: the prompts {first!r} and {prompt.id!r} have the same text. Leave one "
                "of them out."
            )
