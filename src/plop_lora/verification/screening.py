"""Rivals that are hopeless on the selection rows, before any deciding trial. Pure; no torch.

A rival that learns less than half of what the shortlist learns, in trials of the same length, is
not worth the seeds of a confirmation. It is screened out, named and counted; no claim is made
about it. The rows of the ladder are not those that decide, so nothing is looked at twice.
"""

from __future__ import annotations

from plop_lora.study.rates import SURE_ERRORS, Rung, mean_and_error
from plop_lora.verification.ladder import Ladder
from plop_lora.verification.settled import FAR_BEHIND

_HOPELESS = (
    "screened out on the selection rows: at its best rate it learned {gain:.3g}, where {shortlist} "
    "learned {best:.3g} in trials of the same length"
)


def hopeless(ladder: Ladder, margin: float, *, shortlist: str, kept: str) -> dict[str, str]:
    """Return the rivals that are screened out, each with the reason.

    Args:
        ladder: its trials, finished.
        margin: loss of the criterion that is accepted.
        shortlist: what rivals are compared with.
        kept: the rival that is never screened out.
    """
    first = _best(ladder, shortlist)
    if first is None:
        return {}
    found = {}
    for arm in ladder.design.arms:
        rung = None if arm.name in (shortlist, kept) else _best(ladder, arm.name)
        if rung is not None and _is_hopeless(rung, first, margin):
            found[arm.name] = _HOPELESS.format(gain=rung.gain, shortlist=shortlist, best=first.gain)
    return found


def _best(ladder: Ladder, arm: str) -> Rung | None:
    """Return the best short trial of an arm; all arms have short ones."""
    known = [rung for rung in ladder.rungs(arm, full=False) if rung.value is not None]
    return min(known, key=lambda rung: (rung.value or 0.0, rung.rate), default=None)


def _is_hopeless(rung: Rung, first: Rung, margin: float) -> bool:
    """Whether a rival learned under half as much, and is behind by the margin and three errors."""
    if rung.gain is None or first.gain is None or not first.has_learned:
        return False
    if rung.items_I is None or first.items_I is None or rung.items_I.shape != first.items_I.shape:
        return False
    behind, error = mean_and_error(rung.items_I - first.items_I)
    return rung.gain < FAR_BEHIND * first.gain and behind > max(margin, SURE_ERRORS * error)
