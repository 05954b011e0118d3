"""The definition of a suite: items, and how one side is measured on them. No torch.

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


Measure = Callable[[GateRecipe, Prepared, Sequence[Row], int], Sequence[Reading]]
"""Function from the recipe, a model, rows and a batch size to the reading of every row."""


def _nothing(recipe: GateRecipe, task: Task) -> Mapping[str, object]:
    return {}


def _no_demands(recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row]) -> None:
    """Demand nothing."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Suite:
    """One row of the registry of suites.

    Attributes:
        name: Name in evidence.
        items: Function that reads the items, and rejects those that cannot be measured.
        measure: Function that measures one side on some items. It may import torch.
        repeats: Function that says whether the base is measured twice for the noise floor.
        settings: Function that returns the settings on which its values depend, beside those that
            all suites share.
        demands: Function that rejects items that the loaded model cannot be measured on.
    """

    name: str
    items: Callable[[GateRecipe, Task], Items]
    measure: Measure
    repeats: Callable[[GateRecipe, Task], bool]
    settings: Callable[[GateRecipe, Task], Mapping[str, object]] = field(default=_nothing)
    demands: Callable[[GateRecipe, Prepared, Sequence[Row]], None] = field(default=_no_demands)
