"""Intervals and comparisons: over sequences for scores, over seeds and rows for finetunes."""

from plop_lora.statistics.estimates import (
    CONFIDENCE,
    Difference,
    Estimate,
    indicator_estimate,
    kendall_tau,
    paired_difference,
    ratio_estimate,
    sequential_margin,
    type_estimate,
    unpaired_difference,
)
from plop_lora.statistics.moderated import SeedVariances, moderated_variances
from plop_lora.statistics.paired import (
    Components,
    Interval,
    components,
    detectable,
    holm,
    items_needed,
    paired_bootstrap,
    paired_t,
    seeds_needed,
)

__all__ = [
    "CONFIDENCE",
    "Components",
    "Difference",
    "Estimate",
    "Interval",
    "SeedVariances",
    "components",
    "detectable",
    "holm",
    "indicator_estimate",
    "items_needed",
    "kendall_tau",
    "moderated_variances",
    "paired_bootstrap",
    "paired_difference",
    "paired_t",
    "ratio_estimate",
    "seeds_needed",
    "sequential_margin",
    "type_estimate",
    "unpaired_difference",
]
