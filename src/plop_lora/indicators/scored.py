"""Indicators that a record of scores holds, or that follow from it. Imports torch lazily.

Shape letters: N rows (tokens), O out, I in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from plop_lora.indicators.kinds import FeatureRows
from plop_lora.records import Scores

if TYPE_CHECKING:
    import torch


def nfn(rows: FeatureRows) -> torch.Tensor:
    """Return ||W z|| / (||z|| E||W u||) of each row, whose mean is 1 if z is random noise."""
    return rows.output_norms_N / (rows.input_norms_N * rows.expected_norm)


def response_gain(rows: FeatureRows) -> torch.Tensor:
    """Return ||W z|| / ||z|| of each row: NFN without the division by E||W u||."""
    return rows.output_norms_N / rows.input_norms_N


def effective_rank(weight_OI: torch.Tensor, seed: int) -> torch.Tensor:
    """Return (Σσ²)² / Σσ⁴ of a weight, the participation ratio of its squared singular values.

    It lies between 1 and the smaller side, which it reaches if all singular values are equal.
    Σσ⁴ of a wide weight is estimated from a few seeded probes, as for NFN, so that no singular
    value has to be computed. A weight of zeros has rank 0.

    Source: Roy, Vetterli, "The effective rank", EUSIPCO 2007, which takes the entropy of the
    singular values; the participation ratio is the same idea without a decomposition.
    """
    from plop_lora.indicators.expected_norms import frobenius_square, sum_of_fourth_powers

    square = frobenius_square(weight_OI)
    ratio = square.square() / sum_of_fourth_powers(weight_OI, seed)
    # The ratio of a weight that is all zero would be 0 / 0.
    return ratio.where(square != 0, square)


def depth(scores: Scores) -> Sequence[float | None]:
    """Return for each site its layer divided by the last one, from 0 to 1; None outside the layers.

    The types whose sites stand deepest come first. It tells types apart only where they are not in
    the same layers. Source: a baseline without data and weights. Memory: nothing.
    """
    last = max((site.layer for site in scores.sites if site.layer is not None), default=0)
    return [None if site.layer is None else site.layer / max(last, 1) for site in scores.sites]


def parameter_share(scores: Scores) -> Sequence[float]:
    """Return for each site the share of its host type in the parameters of the eligible types."""
    sizes: dict[str, int] = defaultdict(int)
    for row in scores.types:
        sizes[row.host_type] += row.parameters
    total = sum(row.parameters for row in scores.types if row.eligible) or 1
    shares = {row.type: sizes[row.host_type] / total for row in scores.types}
    return [shares[site.type] for site in scores.sites]
