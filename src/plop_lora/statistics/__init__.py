"""Intervals and comparisons: over sequences for scores, over seeds and rows for finetunes."""

from plop_lora.statistics.choices import kendall_taus, lowest, percentile_interval
from plop_lora.statistics.confidence_sequences import one_sided_quantile, two_sided_quantile
from plop_lora.statistics.covariates import Adjusted, adjusted
from plop_lora.statistics.estimates import (
    CONFIDENCE,
    POWER,
    Difference,
    Estimate,
    Welch,
    at_most,
    indicator_estimate,
    kendall_tau,
    log_ratio_difference,
    mean_estimate,
    paired_difference,
    ratio_estimate,
    sequential_margin,
    sums_and_counts,
    type_estimate,
    unpaired_difference,
    welch,
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
from plop_lora.statistics.ranks import RankCorrelation, rank_correlation
from plop_lora.statistics.sample_ratio import chi_square_p, sequential_split_p
from plop_lora.statistics.sequential import looks, nominal_levels

__all__ = [
    "CONFIDENCE",
    "POWER",
    "Adjusted",
    "ArmVariances",
    "Bounds",
    "Components",
    "CorrectedDifference",
    "Difference",
    "Estimate",
    "Interval",
    "JudgeAccuracy",
    "RankCorrelation",
    "SeedVariance",
    "SeedVariances",
    "Welch",
    "adjusted",
    "arm_variances",
    "at_most",
    "chi_square_p",
    "components",
    "exact_interval",
    "holm",
    "indicator_estimate",
    "kendall_tau",
    "kendall_taus",
    "log_ratio_difference",
    "looks",
    "lowest",
    "mean_estimate",
    "nominal_levels",
    "one_sided_quantile",
    "paired_difference",
    "paired_interval",
    "paired_share_difference",
    "percentile_interval",
    "rank_correlation",
    "ratio_estimate",
    "seed_variances",
    "sequential_margin",
    "sequential_split_p",
    "sums_and_counts",
    "two_sided_quantile",
    "type_estimate",
    "unpaired_difference",
    "welch",
]
