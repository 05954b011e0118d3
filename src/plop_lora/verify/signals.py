"""Arms whose types follow from a signal that is measured on the training rows first.

What was measured is kept in the folder of the run: a second measurement may differ in its last
digits, and with them a placement, whose finished trials would then be repeated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from plop_lora.errors import RecordError
from plop_lora.files import atomic_file
from plop_lora.records import TrialCost
from plop_lora.verify.arms import Arm
from plop_lora.verify.plan import Study, arm_names, build_arms

FILE = "signals.json"


@dataclass(frozen=True)
class Measured:
    """Arms that were made from signals, for these seeds, and what measuring took."""

    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    costs: tuple[TrialCost, ...]


def needing_signals(names: Sequence[str]) -> list[str]:
    """Return the arms whose types are not known before a signal is measured."""
    from plop_lora.verify.selectors import SIGNALS

    return [name for name in names if name in SIGNALS]


def with_signals(known: Study, folder: Path) -> tuple[Study, tuple[TrialCost, ...]]:
    """Add the arms that need a signal to a study that has the others; return what that took.

    Args:
        known: the study with the arms that need none.
        folder: of the run, where signals are kept.

    Raises:
        RecordError: the file of the signals is damaged.
        OutputError: it cannot be written.
    """
    names, _ = arm_names(known.recipe)
    wanted = needing_signals(names)
    if not wanted:
        return known, ()
    measured = _kept(folder, wanted, known.seeds) or _measure(known, wanted, folder)
    every = {arm.name: arm for arm in (*known.arms, *measured.arms)}
    return dataclasses.replace(known, arms=tuple(every[name] for name in names)), measured.costs


def _measure(known: Study, wanted: Sequence[str], folder: Path) -> Measured:
    from plop_lora.verify.selectors import measure_signals

    recipe = known.recipe
    signals = measure_signals(
        wanted, known.model, known.splits.train, task=recipe.task, training=recipe.training
    )
    arms = build_arms(wanted, known.scores, recipe, known.budget, signals)
    measured = Measured(known.seeds, arms, tuple(signal.cost for signal in signals.values()))
    with atomic_file(folder / FILE) as file:
        file.write(TypeAdapter(Measured).dump_json(measured).decode())
    return measured


def _kept(folder: Path, wanted: Sequence[str], seeds: Sequence[int]) -> Measured | None:
    """Return what the folder has, if it is of just these arms and seeds."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        measured = TypeAdapter(Measured).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise RecordError(
            f"{path} is damaged ({first}). Remove it; the signals are then measured anew."
        ) from error
    same = [arm.name for arm in measured.arms] == list(wanted) and measured.seeds == tuple(seeds)
    return measured if same else None
