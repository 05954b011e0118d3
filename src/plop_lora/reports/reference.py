"""The line of a table that says how much of a ranking comes from the user's texts."""

from __future__ import annotations

from plop_lora.records import Agreement, ReferenceChoice

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def reference_line(reference: ReferenceChoice) -> str:
    """Say whether the choice would be the same without the user's data, and what they explain."""
    number = len(reference.chosen)
    if reference.same_choice:
        word = NUMBERS[number] if number < len(NUMBERS) else str(number)
        which = f"{word} types are" if number != 1 else "type is"
        return (
            f"The same {which} lowest on {reference.name}: this is a property of the model more "
            f"than of the data.{_share(reference.agreement)}"
        )
    lowest = f"On {reference.name} the lowest are {', '.join(reference.chosen)}: "
    if reference.near_tie and reference.margin is not None:
        why = (
            f"the types exchanged differ by {reference.margin:.3f} NFN, within the tolerance, so "
            "this is no effect of the data"
        )
    else:
        why = "the choice depends on the data"
    return f"{lowest}{why}.{_share(reference.agreement)}"


def _share(agreement: Agreement | None) -> str:
    """Say how much of the ranking of the weights comes from the user's texts."""
    if agreement is None:
        return ""
    low, high = agreement.share_interval
    bounds = "" if low is None or high is None else f" ({low:.1%}–{high:.1%})"
    types = "" if agreement.of_types is None else f"; of the types {agreement.of_types:.3f}"
    return (
        f" Your texts explain {agreement.share:.1%}{bounds} of the ranking of "
        f"{agreement.weights:,} weights (rank correlation "
        f"{agreement.correlation:.3f}{types})."
    )
