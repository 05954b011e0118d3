"""Splits: rows as the trainers read them, parted so that nothing is trained on that is judged.

Three files come of it: training rows, a selection split held out of them that chooses learning
rates, and the report split, which is the user's evaluation data and is neither trained on nor
selected on. The rows are shuffled once, so that the first n of them are a fair share. How a row
of any data set becomes a row of a task is `rows.py`'s affair. No torch.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation.chats import ARGUMENTS, TOOLS
from plop_lora.evaluation.judged import Row
from plop_lora.evaluation.numbers import reference_number
from plop_lora.files import atomic_file
from plop_lora.recipe import DataRecipe
from plop_lora.records import TrialData
from plop_lora.study.rows import TaskRows, read_task_rows
from plop_lora.training.task import Task
from plop_lora.training.tasks import task_named

TRAIN, SELECT, REPORT = "train.jsonl", "select.jsonl", "report.jsonl"
GENERAL = "general.jsonl"
FOLDER = "data"
FROM_TRIAL = f"../../{FOLDER}"
"""Where a trial's folder, two below the run's, finds the files."""
LARGEST_OVERLAP = 0.01
LEAST_SELECTION, MOST_SELECTION = 16, 500
LEAST_TRAIN = 16
LEAST_REPORT = 16
ANSWERS_A_PROMPT = 10
"""Rows a prompt from which on prompts are no questions but tasks, told apart by their answers."""


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """The three splits of a run, the classes of `classify`, and what was left out on the way.

    `overlap` counts the evaluation rows that stood among the training rows, `digests` are the
    SHA-256 of the files by name. `general` are texts that do not belong to the task; whoever is
    judged on the report split is judged on them as well.
    """

    train: tuple[Row, ...]
    selection: tuple[Row, ...]
    report: tuple[Row, ...]
    labels: tuple[str, ...]
    overlap: int
    digests: Mapping[str, str]
    notes: tuple[str, ...]
    general: tuple[Row, ...] = ()

    def data(self, evaluation: str, rows: int | None = None) -> TrialData:
        """Return the files of a trial that is judged on `evaluation` (`SELECT` or `REPORT`)."""
        judges_general = self.general and evaluation == REPORT
        return TrialData(
            train=f"{FROM_TRIAL}/{TRAIN}",
            train_sha256=self.digests[TRAIN],
            evaluation=f"{FROM_TRIAL}/{evaluation}",
            evaluation_sha256=self.digests[evaluation],
            rows=rows,
            general=f"{FROM_TRIAL}/{GENERAL}" if judges_general else None,
            general_sha256=self.digests[GENERAL] if judges_general else None,
        )

    def whole(self) -> Splits:
        """Return splits whose training rows include the selection split, which is then empty."""
        train = (*self.train, *self.selection)
        digests = {name: value for name, value in self.digests.items() if name != SELECT}
        digests[TRAIN] = _sha256(_json_lines(train))
        return replace(self, train=train, selection=(), digests=digests)

    def with_general(self, texts: Sequence[str], notes: Sequence[str] = ()) -> Splits:
        """Return the same splits with general texts, and notes on them."""
        general = tuple({"text": text} for text in texts)
        digests = dict(self.digests)
        if general:
            digests[GENERAL] = _sha256(_json_lines(general))
        return replace(self, general=general, digests=digests, notes=(*self.notes, *notes))

    @property
    def general_characters(self) -> int:
        """The length of all general texts in characters."""
        return sum(len(row["text"]) for row in self.general)

    def characters(self, task: Task) -> float:
        """Return the mean length of a training row, prompt and answer, in characters."""
        lengths = (len(task.question(row)) + len(task.answer(row)) for row in self.train)
        return sum(lengths) / len(self.train)


def prepare_splits(
    data: DataRecipe, folder: Path | None = None, *, numbers_for: str | None = None
) -> Splits:
    """Read, check, part and write the rows of a run.

    Evaluation rows whose prompt is also in the training rows (letter case and white space apart)
    are an error above 1 % of them; below, those prompts leave the training rows. Rows that repeat
    another wholly are dropped on both sides. No prompt stands in two splits, unless the training
    rows share few prompts, which a note then says.

    Args:
        data: names the data and how its fields are read; its `seed` shuffles.
        folder: of the run, whose `data/` gets the files; None writes nothing.
        numbers_for: what compares numbers of the references, which are then read whole or refused.

    Raises:
        DataError: no such data, an empty file, a row without what the task needs, files that are
            read by different columns, an unknown label, too few rows, or evaluation rows among
            the training rows.
        UsageError: a template that cannot be read, or a folder that holds other data.
        OutputError: the files cannot be written.
    """
    task = task_named(data.task)
    train = read_task_rows(task, data, data.train)
    evaluation = read_task_rows(task, data, data.eval)
    _check_fields(data, train.fields, evaluation.fields)
    notes = [*train.notes, *evaluation.notes]
    labels = _labels(data, train, evaluation) if task.has_classes else ()
    keys = _Keys(train.rows, task, data.train)
    notes += keys.notes
    rows, note = _without_repeats(train.rows, f"training rows of {data.train}", keys)
    notes += note
    report, note = _without_repeats(evaluation.rows, f"rows of {data.eval}", keys)
    notes += note
    rows, overlap, note = _without_overlap(rows, report, data, keys)
    notes += note
    if task.has_classes:
        notes += _contradictions(task, rows, data.train)
        notes += _contradictions(task, report, data.eval)
    if numbers_for is not None:
        _check_numbers(task, numbers_for, {data.train: rows, data.eval: report})
    rest, selection = _hold_out(rows, task, data, keys)
    if len(report) < LEAST_REPORT:
        raise DataError(
            f"{data.eval} has {len(report)} different rows; at least {LEAST_REPORT} are needed "
            "to tell arms apart, and some hundreds to tell them apart well."
        )
    notes += train.column_notes
    parts = {TRAIN: rest, SELECT: selection, REPORT: report}
    digests = {name: _sha256(_json_lines(part)) for name, part in parts.items()}
    splits = Splits(
        tuple(rest), tuple(selection), tuple(report), labels, overlap, digests, tuple(notes)
    )
    if folder is not None:
        write_splits(splits, folder)
    return splits


def _check_fields(data: DataRecipe, train: Sequence[str], evaluation: Sequence[str]) -> None:
    """Refuse files that are read by different fields: their rows would ask in different ways."""
    if set(train) != set(evaluation):
        raise DataError(
            f"The columns do not match: {data.train} is read by {', '.join(train)}, and "
            f"{data.eval} by {', '.join(evaluation)}, so that a trial would be judged on another "
            "kind of row than it learns. Rename the columns of one, or name what both have with "
            "--prompt and --completion, --text or --label."
        )


class _Keys:
    """What of a row must not stand in two splits: its prompt, in lower case, white space as one.

    Where the training rows share few prompts ("Write a story."), the answer counts too, since
    then the prompt says nothing of what was seen. A question with several answers is still one
    question, and so is a text with several labels.
    """

    def __init__(self, rows: Sequence[Row], task: Task, source: str) -> None:
        self.task = task
        prompts = {_plain(task.question(row)) for row in rows}
        few = len(prompts) < LEAST_SELECTION or len(rows) >= ANSWERS_A_PROMPT * len(prompts)
        self.with_answer = task.completes and few and any(task.answer(row) for row in rows)
        self.notes = [
            f"the {len(rows)} rows of {source} share {len(prompts)} prompts, so a row is "
            "told by its prompt and its answer together: a prompt may stand in two splits"
        ] * self.with_answer  # fmt: skip

    def __call__(self, row: Row) -> str:
        return self.whole(row) if self.with_answer else _plain(self.task.question(row))

    def whole(self, row: Row) -> str:
        """Return all that a row says: two rows that share it are one row twice."""
        given = json.dumps([row.get(name) for name in (TOOLS, ARGUMENTS)], default=str)
        asked, answered = self.task.question(row), self.task.answer(row)
        return f"{_plain(asked)}\0{_plain(answered)}\0{given}"


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _without_repeats(rows: Sequence[Row], what: str, keys: _Keys) -> tuple[list[Row], list[str]]:
    kept = list({keys.whole(row): row for row in reversed(rows)}.values())[::-1]
    dropped = len(rows) - len(kept)
    return kept, [f"{dropped} of {len(rows)} {what} repeat another and are left out"] * (
        dropped > 0
    )


def _without_overlap(
    rows: list[Row], report: list[Row], data: DataRecipe, keys: _Keys
) -> tuple[list[Row], int, list[str]]:
    """Take out of the training rows what the report asks; refuse where that is much of it."""
    trained = {keys(row) for row in rows}
    seen = {key for row in report if (key := keys(row)) in trained}
    overlap = sum(keys(row) in seen for row in report)
    if not overlap:
        return rows, 0, []
    share = overlap / len(report)
    if share > LARGEST_OVERLAP:
        raise DataError(
            f"{overlap} of {len(report)} rows of {data.eval} ({share:.1%}) have a prompt that "
            f"is also in {data.train}, so the result would measure memory. At most "
            f"{LARGEST_OVERLAP:.0%} may; give evaluation rows that were not trained on."
        )
    kept = [row for row in rows if keys(row) not in seen]
    return kept, overlap, [
        f"{overlap} of {len(report)} evaluation rows ({share:.1%}) stand among the training rows, "
        f"where their prompts are left out ({len(rows) - len(kept)} of {len(rows)} rows)"
    ]  # fmt: skip


def _check_numbers(task: Task, reader: str, files: Mapping[str, Sequence[Row]]) -> None:
    """Refuse references whose number cannot be read whole, where numbers are compared."""
    for source, rows in files.items():
        for row in rows:
            try:
                reference_number(task.reference(row) or "", reader)
            except DataError as error:
                raise DataError(f"{source}: {error}") from error


def _contradictions(task: Task, rows: Sequence[Row], source: str) -> list[str]:
    """Return a note on texts that have several labels; no model can get all of them right."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(_plain(task.question(row)), set()).add(row["label"])
    several = sum(len(found) > 1 for found in labels.values())
    return [
        f"{several} of {len(labels)} texts of {source} have more than one label; they are kept"
    ] * (several > 0)


def _hold_out(
    rows: list[Row], task: Task, data: DataRecipe, keys: _Keys
) -> tuple[list[Row], list[Row]]:
    """Shuffle, and part the selection split from the rest; no prompt stands in both.

    A prompt is held out with all its rows. Classes have their share in both parts and in the
    first n rows of each, and those with two rows or more stand in both.
    """
    rows = list(rows)
    random.Random(data.seed).shuffle(rows)
    wanted = min(MOST_SELECTION, max(LEAST_SELECTION, round(data.selection * len(rows))))
    held = _first_prompts(_candidates(rows, task), wanted, keys)
    selection = _spread([row for row in rows if keys(row) in held], task)
    rest = _spread([row for row in rows if keys(row) not in held], task)
    if len(selection) < LEAST_SELECTION or len(rest) < LEAST_TRAIN:
        raise DataError(
            f"{data.train} leaves {len(rest)} training rows beside {len(selection)} that choose "
            f"the learning rate; at least {LEAST_TRAIN} and {LEAST_SELECTION} are needed."
        )
    return rest, selection


def _first_prompts(rows: Sequence[Row], wanted: int, keys: _Keys) -> set[str]:
    """Return the prompts of the first rows that together have as many rows as wanted."""
    sizes = Counter(map(keys, rows))
    held: dict[str, int] = {}
    for row in rows:
        if sum(held.values()) >= wanted:
            break
        key = keys(row)
        held[key] = sizes[key]
    return set(held)


def _candidates(rows: Sequence[Row], task: Task) -> list[Row]:
    """Return the rows in the order in which they are held out; a class's only row comes last."""
    if not task.has_classes:
        return list(rows)
    counts = Counter(row["label"] for row in rows)
    return sorted(_spread(rows, task), key=lambda row: counts[row["label"]] == 1)


def _spread(rows: Sequence[Row], task: Task) -> list[Row]:
    """Return rows so that each class has its share, and one row at least, of the first n."""
    if not task.has_classes:
        return list(rows)
    counts, seen = Counter(row["label"] for row in rows), Counter[str]()
    places = []
    for row in rows:
        places.append(seen[row["label"]] / counts[row["label"]])
        seen[row["label"]] += 1
    return [rows[index] for index in sorted(range(len(rows)), key=places.__getitem__)]


def _labels(data: DataRecipe, train: TaskRows, evaluation: TaskRows) -> tuple[str, ...]:
    """Return the classes of the training rows in order; numbers count by value."""
    found = {row["label"] for row in train.rows}
    if len(found) < 2:
        raise DataError(
            f"All rows of {data.train} have the label {next(iter(found))!r}; {data.task} needs two "
            "classes at least. Name another field with --label."
        )
    if len(found) > len(train.rows) / 2:
        raise DataError(
            f"{data.train} has {len(found)} different labels in {len(train.rows)} rows, which "
            "are no classes. Name the field of the class with --label."
        )
    for number, row in enumerate(evaluation.rows, start=1):
        if row["label"] not in found:
            raise DataError(
                f"{data.eval}, row {number}: the label {row['label']!r} is not among those of "
                f"{data.train}: {', '.join(sorted(found)[:20])}."
            )
    numbers = all(label.removeprefix("-").isdecimal() for label in found)
    return tuple(sorted(found, key=int) if numbers else sorted(found))


# --------------------------------------------------------------------------- files


def _json_lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check_splits(splits: Splits, folder: Path) -> None:
    """Refuse a folder of a run that holds other data.

    Raises:
        UsageError: a file of its `data/` differs.
    """
    for name, digest in splits.digests.items():
        path = folder / FOLDER / name
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise UsageError(
                f"The folder {folder} belongs to other data: {path} differs from what the recipe "
                "gives now. Name another folder with --folder, or remove this one."
            )


def write_splits(splits: Splits, folder: Path) -> None:
    """Write the files into `data/` of a run; those that are there must be the same.

    Raises:
        UsageError: the folder holds other data.
        OutputError: the files cannot be written.
    """
    check_splits(splits, folder)
    parts = {TRAIN: splits.train, SELECT: splits.selection, REPORT: splits.report,
             GENERAL: splits.general}  # fmt: skip
    for name, rows in ((name, parts[name]) for name in splits.digests):
        path = folder / FOLDER / name
        if not path.exists():
            with atomic_file(path) as file:
                file.write(_json_lines(rows))
