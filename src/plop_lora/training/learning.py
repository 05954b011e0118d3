"""Signs that a trial cannot have learned anything, whatever its metric says.

Two arms that have learned nothing are equal, and an equal arm would count as non-inferior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EQUAL_REWARDS, CUT_COMPLETIONS = "frac_reward_zero_std", "completions/clipped_ratio"
"""TRL's names of logged shares that are 1 if a step can teach nothing."""

TOLERATED = 0.05
"""The share of the training rows that may be dropped or truncated without a note."""


def unmoved(model: PreTrainedModel) -> tuple[str, ...]:
    """Return a sign if no step has changed an adapter.

    B starts at 0, except for initialisations that use the base weights, whose B is never 0.
    """
    adapters = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    if adapters and not any(bool(weight.any()) for weight in adapters):
        return ("B is 0 in every adapter, so no step has changed the model",)
    return ()


def unrewarded(curve: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """Return signs that the rewards or the completions of every step could teach nothing.

    Args:
        curve: Rows that the trainer logged.
    """
    found = []
    if _always_one(curve, EQUAL_REWARDS):
        found.append(
            "the rewards of every group are equal in every step, so no completion is preferred to "
            "another"
        )
    if _always_one(curve, CUT_COMPLETIONS):
        found.append("every completion is cut at completion_length, so none has an end")
    return tuple(found)


def not_whole(rows: int, dropped: int, cut: int, most: int) -> tuple[str, ...]:
    """Return signs that more than a share of `TOLERATED` of the rows was dropped or truncated.

    Args:
        rows: Number of training rows.
        dropped: Number of rows without a token to train on.
        cut: Number of rows that were truncated.
        most: Largest number of tokens of a row.
    """
    found = ((dropped, "have no completion and were left out"), (cut, "lose their end"))
    return tuple(
        f"{number:,} of {rows:,} training rows ({number / rows:.0%}) {what} at max_length {most}"
        for number, what in found
        if number > TOLERATED * rows
    )


def _always_one(curve: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row[name] for row in curve if row.get(name) is not None]
    return bool(values) and min(values) >= 1
