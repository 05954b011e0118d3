"""What the arms cost outside the task: the loss on general text, and time and memory. No torch.

Every confirming trial is judged on the same texts as the untrained model, so the rise of the loss
is paired by text, and so is its difference between two arms. Every text counts the same, whatever
its number of tokens: a tokenizer that cuts one language into many pieces would otherwise let that
language decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from plop_lora.records import TrialResult
from plop_lora.records.trial import GENERAL_LOSS
from plop_lora.records.verification import Forgetting, GeneralText
from plop_lora.statistics import Interval
from plop_lora.study.compare import Outcome, compare_to_reference, value_of


def general_of(untrained: TrialResult, source: str) -> GeneralText | None:
    """Return the general text on which the untrained model was judged, None where it was not.

    Args:
        untrained: The trial that trains nothing.
        source: What the texts are called.
    """
    loss = value_of(untrained, GENERAL_LOSS)
    if loss is None:
        return None
    tokens = untrained.general_tokens
    return GeneralText(source=source, texts=len(tokens), tokens=sum(tokens), loss=loss)


def forgetting_of(
    outcomes: Mapping[str, Outcome], untrained: TrialResult, shortlist: str
) -> dict[str, Forgetting]:
    """Return what each arm has forgotten; an arm without a loss on general text is not in it.

    Args:
        outcomes: Loss on general text by arm, with the same seeds in each.
        untrained: The trial that trains nothing, judged on the same texts.
        shortlist: Name of the arm that the others are compared with.

    Raises:
        MeasurementError: The trials were judged on other numbers of texts.
    """
    base = value_of(untrained, GENERAL_LOSS)
    outcomes = {arm: outcome for arm, outcome in outcomes.items() if outcome.mean is not None}
    if base is None or not outcomes:
        return {}
    seeds = max(len(outcome.values_S) for outcome in outcomes.values())
    items = untrained.items.get(GENERAL_LOSS) or None
    before = Outcome((base,) * seeds, (items,) * seeds)
    rises = compare_to_reference(outcomes, before, higher=True)
    rivals = {arm: outcome for arm, outcome in outcomes.items() if arm != shortlist}
    first = outcomes.get(shortlist)
    versus = {} if first is None else compare_to_reference(rivals, first, higher=False)
    return {
        arm: _forgetting(
            (outcome.mean or 0.0) - base,
            rises[arm].interval.reversed() if arm in rises else None,
            versus[arm].interval if arm in versus else None,
        )
        for arm, outcome in outcomes.items()
    }


def _forgetting(rise: float, interval: Interval | None, versus: Interval | None) -> Forgetting:
    return Forgetting(
        rise=rise,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        difference=None if versus is None else versus.value,
        difference_low=None if versus is None else versus.low,
        difference_high=None if versus is None else versus.high,
    )


def time_and_memory(results: Sequence[TrialResult]) -> tuple[float | None, int | None]:
    """Return the mean seconds and the mean peak memory in bytes of the trials that finished."""
    costs = [result.cost for result in results if result.done]
    if not costs:
        return None, None
    peaks = [cost.peak_memory for cost in costs if cost.peak_memory]
    return fmean(cost.wall_seconds for cost in costs), round(fmean(peaks)) if peaks else None
