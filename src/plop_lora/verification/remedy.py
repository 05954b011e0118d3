"""How many seeds, or rows, would settle the rivals that stayed open. Pure; no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from plop_lora.records.verification import Look
from plop_lora.statistics import POWER
from plop_lora.study.compare import Paired
from plop_lora.verification.looks import chance_of, planned_looks, with_rows, with_seeds

MOST_MORE_SEEDS = 50
MOST_ROWS = 10**6


def remedy(rivals: Mapping[str, Paired], margin: float) -> str:
    """Say how many seeds, or rows, settle all these rivals with a chance of 80 %.

    Args:
        rivals: those that are open; the one that needs most speaks for all.
        margin: loss in the metric that is accepted.
    """
    most = max(rival.seeds for rival in rivals.values()) + MOST_MORE_SEEDS
    seeds = [
        _fewest(rival, margin, rival.seeds, most, with_seeds, len(rivals))
        for rival in rivals.values()
    ]
    rows = [
        None
        if rival.items is None
        else _fewest(rival, margin, rival.items, MOST_ROWS, with_rows, len(rivals))
        for rival in rivals.values()
    ]
    known_seeds = [count for count in seeds if count is not None]
    known_rows = [count for count in rows if count is not None]
    parts = []
    if len(known_seeds) == len(rivals):
        parts.append(f"about {max(known_seeds)} seeds an arm")
    if len(known_rows) == len(rivals):
        parts.append(f"about {max(known_rows):,} rows to report on")
    names = ", ".join(rivals)
    if not parts:
        by_rows = (
            ""
            if None in (rival.items for rival in rivals.values())
            else (f" and {MOST_ROWS:,} rows")
        )
        return f"{names}: not even {MOST_MORE_SEEDS} seeds more{by_rows} are likely to be enough"
    return f"{names}: {', or '.join(parts)}, in a new run, would separate them in 8 of 10 cases"


def _fewest(
    rival: Paired,
    margin: float,
    now: int,
    most: int,
    grown: Callable[[Paired, int], Paired],
    rivals: int,
) -> int | None:
    """Return the smallest number beyond the present one that is enough, None without one."""

    def enough(count: int) -> bool:
        then = grown(rival, count)
        look: Look = planned_looks(then.seeds, rivals, sequential=False)[0]
        return chance_of(rival, then, margin, look).settled >= POWER

    low, high = now + 1, most
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
