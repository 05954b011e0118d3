"""The verdict, and one line of advice that follows from the results. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plop_lora.records import Family, Holding, Outcome, VariantResult
from plop_lora.records.robustness import BOOTSTRAP, STEADY
from plop_lora.variants.judging import Base

MORE_TEXTS = 4
"""Factor of more texts to score where these do not settle the choice."""
_SHOWN = 4
_CURES = {
    Family.TEXTS: "score texts in the form in which they will be trained on",
    Family.MIXTURE: "settle the mixture of the training data first, and score that",
    Family.WEIGHTS: "score the weights as they will be trained, quantised or pruned",
    Family.CHECKPOINT: "score the checkpoint that will be trained",
}
"""What to do about a choice that a variant of a family changes."""


def advised(base: Base, results: Sequence[VariantResult]) -> tuple[Holding, str]:
    """Return the verdict over all variants, and what to do."""
    verdict = _verdict(results)
    parts = [*_held(base, results, verdict), *_enough(results, verdict), *_unrelated(results)]
    return verdict, " ".join(parts)


def _verdict(results: Sequence[VariantResult]) -> Holding:
    """Return whether the choice holds; how few texts are enough is another question."""
    again = {one.outcome for one in results if one.variant == BOOTSTRAP}
    related = {one.outcome for one in results if one.related}
    if again & {Outcome.OPEN, Outcome.OTHER}:
        return Holding.UNSETTLED
    if Outcome.OTHER in related:
        return Holding.CHANGES
    if Outcome.OPEN in related:
        return Holding.UNSETTLED
    return Holding.TIES if Outcome.TIE in again | related else Holding.HOLDS


def _held(base: Base, results: Sequence[VariantResult], verdict: Holding) -> Iterator[str]:
    choice, size = listed(base.chosen), base.sample.size
    related = [one for one in results if one.related]
    judged = [one for one in results if one.judged]
    if len(base.sample.types) == base.top:
        yield f"All {base.top} module types are chosen, so that only their order can change."
    elif verdict is Holding.UNSETTLED:
        worst = min(
            (one for one in judged if one.outcome in (Outcome.OPEN, Outcome.OTHER)),
            key=lambda one: one.unchanged,
        )
        yield (
            f"These {size} texts do not settle the choice of {choice}: under {worst.name}, "
            f"{worst.unchanged:.0%} of the resamples make it. Score more texts, such as "
            f"--samples {MORE_TEXTS * size}."
        )
    elif verdict is Holding.CHANGES:
        changed = [one for one in related if one.outcome is Outcome.OTHER]
        cures = "; ".join(_CURES[family] for family in dict.fromkeys(o.family for o in changed))
        yield f"The choice of {choice} changes under {_names(changed)}: {cures}."
    elif verdict is Holding.TIES:
        ties = [one for one in judged if one.outcome is Outcome.TIE]
        yield (
            f"The choice of {choice} changes under {_names(ties)}, but only among types that tie "
            f"within {base.tolerance:g} NFN: either of them will do."
        )
    elif related:
        yield f"The choice of {choice} holds under {_counted(len(related))} that should not matter."
    elif judged:
        yield f"The choice of {choice} holds on other samples of the texts."


def _counted(count: int) -> str:
    few = {1: "the one variant", 2: "both variants"}
    return few.get(count, f"all {count} variants")


def _enough(results: Sequence[VariantResult], verdict: Holding) -> Iterator[str]:
    """Yield the smallest number of texts from which on samples nearly always make the choice."""
    fewer = [one for one in results if one.variant == "fewer-texts"]
    steady = [
        one
        for place, one in enumerate(fewer)
        if all(later.unchanged >= STEADY for later in fewer[place:])
    ]
    if steady and verdict is not Holding.UNSETTLED:
        yield f"From {steady[0].sequences} texts on, at least {STEADY:.0%} of the samples make it."


def _unrelated(results: Sequence[VariantResult]) -> Iterator[str]:
    """Yield whether texts of no task make the same choice, and what that means."""
    unrelated = [one for one in results if one.family is Family.UNRELATED]
    same = [one for one in unrelated if one.same_choice or one.near_tie]
    others = [one for one in unrelated if one not in same]
    alike = "the same" if all(one.same_choice for one in same) else "the same up to ties"
    if unrelated and not others:
        yield (
            f"The choice is {alike} on {_names(same)}, so that it says much about the model and "
            "little about this task; plop verify tests it on the task."
        )
    elif same:
        yield (
            f"The choice is {alike} on {_names(same)} and another one on {_names(others)}, so "
            "that a part of it comes from the task; plop verify tests what that is worth."
        )
    elif others:
        yield (
            f"The choice is another one on {_names(others)}, so that this one comes from the texts "
            "of the task."
        )


def _names(results: Sequence[VariantResult]) -> str:
    names = [one.name for one in results[:_SHOWN]]
    more = len(results) - len(names)
    return listed([*names, f"{more} more"] if more else names)


def listed(names: Sequence[str]) -> str:
    """Return names with commas and an `and`.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
