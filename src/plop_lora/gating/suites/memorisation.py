"""Suites of what an adapter has learnt by heart: training rows, and planted canaries.

Imports no torch; what measures imports it when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation.judged import Prepared, Row, answer_text, prompt_text
from plop_lora.evaluation.memorisation import Canary
from plop_lora.gating.items import Items, rows_of, spread_evenly
from plop_lora.gating.suite import Reading, Suite
from plop_lora.recipe import GateRecipe
from plop_lora.training.task import Task

VERBATIM, EXPOSURE = "completed verbatim", "exposure"
_SHOWN = 3


# --------------------------------------------------------------------------- training rows


def is_trained(row: Row) -> bool:
    """Return whether an item is a row of the training, and not of the control."""
    return bool(row["trained"])


def _items(recipe: GateRecipe, task: Task) -> Items:
    """Return rows of the training, and after them rows of the control.

    Raises:
        DataError: A file cannot be read, a row has no answer, or a row of the control is one of the
            training.
        UsageError: The recipe does not name both.
    """
    limits = recipe.gate.memorisation
    control = limits.control or recipe.eval
    if limits.train is None or control is None:
        raise UsageError(
            "The check memorisation needs the rows of the training and a control of rows never "
            "seen. Give gate.memorisation.train, and eval or gate.memorisation.control."
        )
    seen, unseen = (_whole_rows(recipe, task, source) for source in (limits.train, control))
    if shared := shared_rows(seen, unseen):
        raise shared_error(unseen, shared, control)
    samples = [spread_evenly(distinct(found), limits.most) for found in (seen, unseen)]
    rows = [
        {"trained": trained, "row": row}
        for trained, found in zip((True, False), samples, strict=True)
        for row in found
    ]
    asked = [_plain(row) for found in samples for row in found]
    names = [
        f"{kind} row {numbers[_plain(row)]}"
        for kind, numbers, found in zip(
            ("training", "control"), map(_numbers, (seen, unseen)), samples, strict=True
        )
        for row in found
    ]
    return Items.of(rows, asked, f"{limits.train} and {control}", names=names)


def _numbers(rows: Sequence[Row]) -> dict[str, int]:
    """Return the number of the first row of each text, from 1."""
    numbers: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        numbers.setdefault(_plain(row), number)
    return numbers


def _whole_rows(recipe: GateRecipe, task: Task, source: str) -> Sequence[Row]:
    rows = rows_of(recipe, task, source).rows
    for number, row in enumerate(rows, start=1):
        if "text" not in row and not answer_text(row).strip():
            raise DataError(
                f"{source}, row {number} has no answer that could be learnt by heart. Give rows "
                "with a completion, or leave out the check memorisation."
            )
    return rows


def distinct(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without those that repeat an earlier one, but for spaces and case."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(_plain(row), row)
    return list(first.values())


def shared_rows(training: Sequence[Row], control: Sequence[Row]) -> list[int]:
    """Return the indices of control rows that are training rows too, but for spaces and case.

    >>> shared_rows([{"text": "One  row"}], [{"text": "another"}, {"text": "one row "}])
    [1]
    """
    known = {_plain(row) for row in training}
    return [index for index, row in enumerate(control) if _plain(row) in known]


def _plain(row: Row) -> str:
    return " ".join(f"{prompt_text(row)} {answer_text(row)}".split()).casefold()


def shared_error(control: Sequence[Row], shared: Sequence[int], source: str) -> DataError:
    """Return the error that tells of control rows that are training rows too, for raising."""
    first = ", ".join(
        f"row {index + 1} ({prompt_text(control[index])[:40]!r})" for index in shared[:_SHOWN]
    )
    more = f", and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
    return DataError(
        f"{source}: {len(shared)} of {len(control)} control rows are training rows too: "
        f"{first}{more}. A control must hold rows that the adapter was not trained on; leave these "
        "out."
    )


def _readings(
    recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> list[Reading]:
    from plop_lora.evaluation.memorisation import completed_verbatim

    found = completed_verbatim(
        prepared,
        [row["row"] for row in rows],
        batch_size=batch_size,
        prefix_tokens=recipe.gate.memorisation.prefix_tokens,
        suffix_tokens=recipe.gate.memorisation.suffix_tokens,
    )
    return [Reading({VERBATIM: value}) for value in found]


def _settings(recipe: GateRecipe, task: Task) -> Mapping[str, object]:
    limits = recipe.gate.memorisation
    return {"prefix_tokens": limits.prefix_tokens, "suffix_tokens": limits.suffix_tokens}


TRAINING = Suite(name="training", items=_items, measure=_readings, settings=_settings)
"""Rows of the training and of a control, completed verbatim or not."""


# --------------------------------------------------------------------------- canaries


def _canaries(recipe: GateRecipe, task: Task) -> Items:
    """Return the planted canaries.

    Raises:
        DataError: The file cannot be read, or a row of it is no canary.
        UsageError: The recipe names no file, or there are too few secrets of a form.
    """
    limits = recipe.gate.memorisation
    if limits.canaries is None:
        raise UsageError(
            "The check canaries needs the canaries that were planted in the training data. Make "
            "some with plop gate --canaries 20 -o canaries.jsonl before the training, and name the "
            "file with gate.memorisation.canaries."
        )
    items = rows_of(recipe, task, limits.canaries)
    for number, row in enumerate(items.rows, start=1):
        try:
            Canary.of(row).candidates(limits.candidates)
        except DataError as error:
            raise DataError(f"{limits.canaries}, row {number}: {error}") from error
    return replace(items, names=tuple(f"canary {n}" for n in range(1, len(items.rows) + 1)))


def _exposures(
    recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> list[Reading]:
    from plop_lora.evaluation.memorisation import canary_exposures

    found = canary_exposures(
        prepared,
        [Canary.of(row) for row in rows],
        max_length=recipe.training.max_length,
        batch_size=recipe.evaluation.batch_size,
        candidates=recipe.gate.memorisation.candidates,
    )
    return [Reading({EXPOSURE: value}) for value in found]


CANARIES = Suite(
    name="canaries",
    items=_canaries,
    measure=_exposures,
    settings=lambda recipe, task: {"candidates": recipe.gate.memorisation.candidates},
)
"""Planted canaries, and how much the model prefers their secrets to others."""
