"""What is reached without a finetune: by the model as it was, and by the most frequent class.

A table in which every arm stands at 0.44 looks like a result until 0.44 is known to be what the
untrained model, or one answer for all rows, reaches as well. Pure; no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from plop_lora.records import Reference, TrialResult
from plop_lora.study.compare import Outcome, cause_of, value_of
from plop_lora.study.study import Study
from plop_lora.verification.design import UNTRAINED_MODEL

MAJORITY = "majority class"


def references_of(
    study: Study, metric: str, untrained: TrialResult, seeds: int
) -> tuple[tuple[Reference, Outcome | None], ...]:
    """Return every reference with its outcome, the same for each seed; None without a value.

    Args:
        study: for its splits.
        metric: what decides.
        untrained: the result of the trial that trains nothing.
        seeds: how many the arms have.
    """
    found = [_of_trial(untrained, metric, seeds)]
    if study.task.has_classes:
        found += _majority(study, metric, seeds)
    return tuple(found)


def _of_trial(result: TrialResult, metric: str, seeds: int) -> tuple[Reference, Outcome | None]:
    value = value_of(result, metric)
    reference = Reference(name=UNTRAINED_MODEL, value=value, cause=cause_of(result, metric))
    if value is None:
        return reference, None
    return reference, Outcome((value,) * seeds, (result.items.get(metric) or None,) * seeds)


def _majority(study: Study, metric: str, seeds: int) -> list[tuple[Reference, Outcome | None]]:
    """Give every report row the class that most training rows have."""
    counted = Counter(row["label"] for row in study.splits.train)
    majority = min(counted, key=lambda label: (-counted[label], label))
    hits = tuple(float(row["label"] == majority) for row in study.splits.report)
    name = f"{MAJORITY} ({majority})"
    if metric == "accuracy":
        value = sum(hits) / len(hits)
        return [(Reference(name=name, value=value), Outcome((value,) * seeds, (hits,) * seeds))]
    if metric == "macro-f1":
        classes = {majority, *(row["label"] for row in study.splits.report)}
        value = 2 * sum(hits) / (sum(hits) + len(hits)) / len(classes)
        return [(Reference(name=name, value=value), Outcome((value,) * seeds))]
    return []


def best_reference(
    references: Sequence[tuple[Reference, Outcome | None]], *, higher: bool
) -> tuple[str, Outcome | None]:
    """Return the name and the outcome of the best reference that has one; no name without."""
    known = [
        (reference.value if higher else -reference.value, reference.name, outcome)
        for reference, outcome in references
        if outcome is not None and reference.value is not None
    ]
    if not known:
        return "", None
    _, name, outcome = max(known, key=lambda entry: entry[0])
    return name, outcome
