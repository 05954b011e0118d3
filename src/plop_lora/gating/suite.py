"""The definition of a suite: items, and how both sides are measured on them. No torch.

Several checks may read the values of one suite, which is measured once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.gating.items import Items
from plop_lora.recipe import GateRecipe
from plop_lora.training.task import Task


@dataclass(frozen=True, slots=True)
class Reading:
    """What one side shows on one item.

    Attributes:
        values: Value of each quantity; None where it could not be judged.
        answer: The generated answer; None where nothing is generated.
    """

    values: Mapping[str, float | None]
    answer: str | None = None


Answers = Sequence[tuple[str, str]]
"""The answers of base and adapter to every item."""
Sides = tuple[Reading, Reading]
"""The readings of base and adapter on one item."""
Measure = Callable[[GateRecipe, Prepared, Sequence[Row], int], Sequence[Reading]]
"""Function from the recipe, a model, rows and a batch size to the reading of every row."""


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """How readings come about without a model.

    Attributes:
        readings: Function from the recipe, the rows and what both sides answered to the readings
            of every row.
        answers_of: Suite whose answers are read, and with whose items those of this suite begin;
            None where the rows hold all that is needed.
    """

    readings: Callable[[GateRecipe, Sequence[Row], Answers], Sequence[Sides]]
    answers_of: Suite | None = None


def _nothing(recipe: GateRecipe, task: Task) -> Mapping[str, object]:
    return {}


def _never(recipe: GateRecipe, task: Task) -> bool:
    return False


def _no_demands(recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row]) -> None:
    """Demand nothing."""


def _ready(recipe: GateRecipe) -> None:
    """Need nothing."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Suite:
    """A set of items, and how both sides are measured on them.

    Attributes:
        name: Name in evidence.
        items: Function that reads the items, and rejects those that cannot be measured.
        measure: Function that measures one side on some items, by the loaded model or from what is
            known. It may import torch.
        repeats: Function that says whether the base is measured twice for the noise floor.
        settings: Function that returns the settings on which its values depend, beside those that
            all suites share.
        ready: Function that rejects what it cannot work with, such as a server that does not
            answer, before a model is loaded.
        demands: Function that rejects items that the loaded model cannot be measured on.
    """

    name: str
    items: Callable[[GateRecipe, Task], Items]
    measure: Measure | Derived
    repeats: Callable[[GateRecipe, Task], bool] = field(default=_never)
    settings: Callable[[GateRecipe, Task], Mapping[str, object]] = field(default=_nothing)
    ready: Callable[[GateRecipe], None] = field(default=_ready)
    demands: Callable[[GateRecipe, Prepared, Sequence[Row]], None] = field(default=_no_demands)
