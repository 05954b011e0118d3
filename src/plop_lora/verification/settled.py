"""Whether an arm ended where its ladder said that it would. Pure; no torch.

A claim about where adapters stand supposes that every arm was trained at a rate that suits it. An
arm that ends at the level of the untrained model, or far behind what its own ladder promised, has
shown nothing but that it was not: it is not settled, and no claim is made about it.

Both are asked by the criterion of the ladder, the held-out loss, as a gain: how far a trial is
below the untrained model on the same rows. The rows of the ladder and those of the report are
different ones, so gains are compared, and not levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from plop_lora.records import TrialResult
from plop_lora.study.rates import ERRORS, Rung, rung_of
from plop_lora.verification.ladder import Ladder

FAR_BEHIND = 0.5
"""The share of the promised gain below which an arm is far behind."""


def unsettled(
    ladder: Ladder, confirm: Sequence[TrialResult], untrained: TrialResult
) -> dict[str, str]:
    """Return the arms that are not settled, each with the reason.

    Args:
        ladder: what every arm was promised by.
        confirm: the trials that decide.
        untrained: the model as it was, on the rows that decide.
    """
    found: dict[str, str] = {}
    for result in confirm:
        rung = rung_of(result, ladder.criterion, untrained)
        chosen = ladder.of(result.arm)
        if result.arm in found or rung.gain is None:
            continue
        if not rung.has_learned and not (chosen and chosen.had_its_chance):
            found[result.arm] = _AT_START.format(seed=result.seed)
        elif chosen and _is_far_behind(rung, chosen.rung):
            found[result.arm] = _BEHIND.format(
                seed=result.seed, gain=rung.gain, promised=chosen.rung.gain
            )
    return found


_AT_START = (
    "its trial with the seed {seed} ended at the level of the untrained model, so its rate is not "
    "shown to suit it: give the ladder other rates, or its trials more rows"
)
_BEHIND = (
    "its trial with the seed {seed} is {gain:.3g} better than the untrained model, where its "
    "ladder promised {promised:.3g}: its rate does not hold on all rows or seeds"
)


def _is_far_behind(found: Rung, promised: Rung) -> bool:
    """Whether the gain is under half of what was promised, by more than the errors of both."""
    if found.gain is None or promised.gain is None or not promised.has_learned:
        return False
    missing = promised.gain - found.gain
    error = math.hypot(found.error, promised.error)
    return found.gain < FAR_BEHIND * promised.gain and missing > ERRORS * error
