"""Intervals and comparisons: over sequences for scores, over seeds and rows for finetunes."""

from plop_lora.statistics.estimates import (
    CONFIDENCE,
    POWER,
    Difference,
    Estimate,
    at_most,
    indicator_estimate,
    kendall_tau,
    paired_difference,
    ratio_estimate,
    sequential_margin,
    type_estimate,
    unpaired_difference,
)
from plop_lora.statistics.misclassification import (
    Bounds,
    CorrectedDifference,
    JudgeAccuracy,
    exact_interval,
    paired_share_difference,
)
from plop_lora.statistics.moderated import (
    ArmVariances,
    SeedVariance,
    SeedVariances,
    arm_variances,
    seed_variances,
)
from plop_lora.statistics.paired import (
    Components,
    Interval,
    components,
    holm,
    paired_interval,
)
from plop_lora.statistics.sequential import looks, nominal_levels

__all__ = [
    "CONFIDENCE",
    "POWER",
    "ArmVariances",
    "Bounds",
    "Components",
    "CorrectedDifference",
    "Difference",
    "Estimate",
    "Interval",
    "JudgeAccuracy",
    "SeedVariance",
    "SeedVariances",
    "arm_variances",
    "at_most",
    "components",
    "exact_interval",
    "holm",
    "indicator_estimate",
    "kendall_tau",
    "looks",
    "nominal_levels",
    "paired_difference",
    "paired_interval",
    "paired_share_difference",
    "ratio_estimate",
    "seed_variances",
    "sequential_margin",
    "type_estimate",
    "unpaired_difference",
]
