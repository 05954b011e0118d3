"""What shows that a trial can have learnt nothing, whatever its metric says.

Two arms that have learnt nothing are alike, and an arm that is alike would count as no worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EQUAL_REWARDS, CUT_COMPLETIONS = "frac_reward_zero_std", "completions/clipped_ratio"
"""TRL's names, in the rows of its curve, of shares that are 1 where nothing can be learnt."""

TOLERATED = 0.05
"""Share of the training rows that may lose something without a word."""


def unmoved(model: PreTrainedModel) -> tuple[str, ...]:
    """Say so where no step has changed an adapter.

    Adapters begin with B at 0, but for initialisations that take a part of the base weights; those
    never have a B of 0.
    """
    adapters = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    if adapters and not any(bool(weight.any()) for weight in adapters):
        return ("B is 0 in every adapter, so no step has changed the model",)
    return ()


def unrewarded(curve: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """Say so where the rewards or the completions of every step could teach nothing.

    Args:
        curve: what the trainer logged.
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
    """Say so where more training rows than `TOLERATED` were not seen, or not to their end.

    Args:
        rows: all of them.
        dropped: those without a token to train on.
        cut: those that lost their end.
        most: tokens of a row.
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
