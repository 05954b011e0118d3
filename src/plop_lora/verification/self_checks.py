"""What shows that a proof has measured something else than its arms. Pure; no torch.

A published study of placements was overturned by its own author, whose metric had not run for
some arms, whose seeds had not reached the trainer, and whose arms had unequal parameters (arXiv
2604.22127). Parameters are counted in every trial and again when its adapter is saved; the rest
shows in the outcomes of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plop_lora.records import TrialResult
from plop_lora.study.rates import LOSS


def constant_metric(results: Sequence[TrialResult], metric: str) -> str | None:
    """Say where a metric has the same value for every row of every trial, None otherwise.

    Args:
        results: The trials that decide, of all arms.
        metric: The metric that decides.
    """
    values = {value for result in results if result.done for value in result.items.get(metric, ())}
    if len(values) != 1:
        return None
    return (
        f"{metric} is {values.pop():g} for every row of every trial, so it measures nothing here: "
        "check the metric and what it reads in an answer"
    )


def equal_seeds(results: Sequence[TrialResult]) -> Mapping[str, str]:
    """Return the arms of which two seeds have the same loss on every row, each with the reason."""
    found: dict[str, str] = {}
    seen: dict[tuple[str, tuple[float, ...]], int] = {}
    for result in results:
        losses = result.items.get(LOSS) if result.done else None
        if not losses or len(losses) < 2:
            continue
        first = seen.setdefault((result.arm, losses), result.seed)
        if first != result.seed:
            found.setdefault(result.arm, _EQUAL.format(first=first, second=result.seed))
    return found


_EQUAL = (
    "its trials with the seeds {first} and {second} have the same loss on every row, so the seed "
    "did not reach the trainer, or nothing was trained"
)
