"""NFN on the user's texts against NFN on general text, for any sites of a record. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from plop_lora.errors import UsageError
from plop_lora.records import Measurements, Scores
from plop_lora.statistics import Estimate, log_ratio_difference, sums_and_counts


def contrast(scores: Scores, site_indices: Sequence[int]) -> Estimate | None:
    """Return the mean over sites of log NFN on the user's texts minus log NFN on general text.

    What a weight has in common on all texts, which is most of its NFN, cancels site by site. Below
    0 the weight responds less to these texts than to general text, relative to noise.

    Args:
        scores: A record that holds the measurements of the general text.
        site_indices: Indices of `Scores.sites`; at least one. Sites without a token of the general
            text, such as experts that were not chosen, are left out.

    Returns:
        The estimate over both samples of texts, or None if no site has a value.

    Raises:
        UsageError: The record does not hold the measurements.
    """
    other = reference_measurements(scores)
    seen = [index for index in site_indices if any(other.counts[other.count_row[index]])]
    # Noise of the norm 0 has no NFN, and a product that is all zero has no logarithm.
    seen = [i for i in seen if any(other.sums[i]) and any(scores.measurements.sums[i])]
    if not seen:
        return None
    return log_ratio_difference(
        sums_and_counts(scores.measurements, seen), sums_and_counts(other, seen)
    )


def reference_measurements(scores: Scores) -> Measurements:
    """Return the measurements of the general text that a record holds.

    Raises:
        UsageError: It holds none; the message says how to make one that does.
    """
    for reference in scores.references:
        if reference.measurements is not None:
            return reference.measurements
    raise UsageError(
        "These scores hold no measurement of general text to contrast your texts with. Score again "
        "without --no-reference: plop score MODEL --data DATA -o scores.json. Records of earlier "
        "versions hold none, nor do those of batches that are not texts (a note of the record "
        "says so)."
    )
