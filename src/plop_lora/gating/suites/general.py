"""The suite of general text, of which the loss is measured. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from plop_lora.evaluation.judged import Prepared, Row
from plop_lora.gating.items import general_items
from plop_lora.gating.suite import Reading, Suite
from plop_lora.recipe import GateRecipe
from plop_lora.records.trial import GENERAL_LOSS


def _general_readings(
    recipe: GateRecipe, prepared: Prepared, rows: Sequence[Row], batch_size: int
) -> list[Reading]:
    from plop_lora.evaluation.losses import general_losses

    found = general_losses(
        prepared, rows, max_length=recipe.training.max_length, batch_size=batch_size
    )
    return [Reading({GENERAL_LOSS: loss.mean}) for loss in found]


GENERAL = Suite(
    name="general",
    items=general_items,
    measure=_general_readings,
    repeats=lambda recipe, task: True,
)
"""General text, bundled or of the user's."""
