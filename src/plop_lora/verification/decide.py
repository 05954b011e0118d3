"""The verdict of a verification at one look, from the outcomes of all arms. Pure; no torch.

The difference of the shortlist and a rival lies between two bounds (`looks.bounds_at`), and the
whole verdict can be read from them. A rival is *better* where the upper one lies below minus the
margin; it is corrected for the number of rivals, since one of many is named. The shortlist is
*confirmed* where the lower one lies above minus the margin against every rival. That needs no
correction, since all of them must hold (an intersection-union test), but it must hold for each
rival, so it uses a cautious seed variance. Above 0 the lower bound is corrected as well: the rival
is *worse*.

Arms that have learned nothing are alike as well. So where the shortlist is not better than what
is reached without a finetune, being alike is not called non-inferior, and nothing is confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from plop_lora.errors import MeasurementError, UsageError
from plop_lora.records.verification import (
    BEATEN,
    CONFIRMED,
    INCONCLUSIVE,
    ArmVerdict,
    Look,
    Verdict,
)
from plop_lora.statistics import holm
from plop_lora.study.compare import Outcome, Paired, compare_to_reference
from plop_lora.verification.looks import RISK, Bounds, bounds_at, planned_looks
from plop_lora.verification.remedy import remedy

(
    SHORTLIST, NON_INFERIOR, BETTER, WORSE, UNSEPARATED, FAILED, UNSETTLED, SCREENED,
) = ArmVerdict  # fmt: skip
OPEN = (UNSEPARATED, FAILED, UNSETTLED)
"""What stands in the way of a confirmation."""
SETTLED = (NON_INFERIOR, BETTER, WORSE)
"""What needs no further seed, whatever becomes of the other arms."""


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """One arm against the shortlist.

    `difference` is shortlist minus rival over the seeds that both finished, above 0 where the
    shortlist is better whatever the direction of the metric; it lies between `low` and `high`, the
    bounds that decide. All three are None for the shortlist itself and where nothing can be said.
    `p` is two-sided, after Holm. `freedom` is the degrees of freedom of the seed variance in `high`
    and in p. `paired` is what they are computed from.
    """

    arm: str
    mean: float | None
    seeds: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    verdict: ArmVerdict = UNSEPARATED
    freedom: float | None = None
    paired: Paired | None = None


@dataclass(frozen=True, slots=True)
class Doubts:
    """What forbids a claim, whatever the numbers say.

    Attributes:
        arms: arm → why its numbers may not be those of its placement.
        reference: what is reached without a finetune, for each seed; None where it is not known.
        reference_name: of it, for the text.
    """

    arms: Mapping[str, str] = field(default_factory=dict)
    reference: Outcome | None = None
    reference_name: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict, the rival that is better, what would separate, and every arm in order."""

    verdict: Verdict
    better: str | None
    more: str | None
    comparisons: tuple[ArmComparison, ...]


def decide(
    outcomes: Mapping[str, Outcome],
    *,
    shortlist: str,
    margin: float,
    higher: bool,
    look: Look | None = None,
    doubts: Doubts | None = None,
    ended: Mapping[str, ArmComparison] | None = None,
) -> Decision:
    """Say whether the shortlist holds against its rivals.

    Args:
        outcomes: arm → outcome, with the same seeds in the same order in each.
        shortlist: which of them is to be proved.
        margin: loss in the metric that is accepted, 0 or more.
        higher: whether a higher value of the metric is better.
        look: which errors may be made; by default those of the only look.
        doubts: what forbids a claim: arms with lost trials, and the level of no finetune.
        ended: rivals that earlier looks have ended; they are not judged again.

    Returns:
        `beaten`, or else `confirmed` where every rival was compared and none can be better by
        more than the margin, or else `cannot separate`. A rival without a result prevents
        `confirmed` and is named in `more`.

    Raises:
        UsageError: no such shortlist, no rival, or a margin below 0.
        MeasurementError: arms with different numbers of seeds or items, or a value that is not
            finite.
    """
    ended = ended or {}
    _check(outcomes, shortlist, margin)
    look = look or _only_look(outcomes)
    doubts = doubts or Doubts()
    rivals = {arm: own for arm, own in outcomes.items() if arm not in (shortlist, *ended)}
    compare = partial(compare_to_reference, reference=outcomes[shortlist], higher=higher)
    paired = compare(rivals, others=[row.paired.own for row in ended.values() if row.paired])
    learned = _has_learned(compare, paired, doubts.reference)
    found = {arm: compared(arm, own, look, margin) for arm, own in paired.items()}
    adjusted = dict(zip(paired, holm([rival.interval.p for rival in paired.values()]), strict=True))
    comparisons = tuple(
        ended.get(arm)
        or (
            _allowed(
                replace(found[arm], mean=own.mean, p=adjusted[arm]), shortlist, doubts, learned
            )
            if arm in found
            else _without(arm, own, shortlist, doubts)
        )
        for arm, own in outcomes.items()
    )
    decision = decision_of(comparisons, learned=learned)
    if decision.verdict == CONFIRMED:
        return decision
    open_arms = [row for row in comparisons if row.verdict in OPEN]
    return replace(decision, more=_more(open_arms, shortlist, margin, doubts, learned))


def compared(arm: str, paired: Paired, look: Look, margin: float) -> ArmComparison:
    """Return what a comparison says of a rival at a look, doubts apart."""
    bounds = bounds_at(paired, look)
    return ArmComparison(
        arm=arm,
        mean=None,
        seeds=paired.seeds,
        difference=paired.interval.value,
        low=bounds.low,
        high=bounds.high,
        verdict=_verdict(bounds, margin),
        freedom=paired.interval.seed_freedom,
        paired=paired,
    )


def decision_of(comparisons: Sequence[ArmComparison], *, learned: bool = True) -> Decision:
    """Return the verdict that follows from those on all arms."""
    better = [row for row in comparisons if row.verdict == BETTER]
    if better:
        best = min(better, key=lambda row: (row.difference or 0.0, row.arm))
        return Decision(BEATEN, best.arm, None, tuple(comparisons))
    is_open = not learned or any(row.verdict in OPEN for row in comparisons)
    return Decision(INCONCLUSIVE if is_open else CONFIRMED, None, None, tuple(comparisons))


def _only_look(outcomes: Mapping[str, Outcome]) -> Look:
    seeds = len(next(iter(outcomes.values())).values_S)
    return planned_looks(seeds, len(outcomes) - 1, sequential=False)[0]


# --------------------------------------------------------------------------- comparisons


def _check(outcomes: Mapping[str, Outcome], shortlist: str, margin: float) -> None:
    if shortlist not in outcomes or len(outcomes) < 2:
        raise UsageError(
            f"There must be the shortlist {shortlist!r} and a rival; there are: "
            f"{', '.join(outcomes) or 'none'}."
        )
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"The margin must be 0 or more, not {margin}. Use 0.01, for one point.")
    seeds = {arm: len(outcome.values_S) for arm, outcome in outcomes.items()}
    if len(set(seeds.values())) > 1:
        raise MeasurementError(f"Every arm needs the same seeds, failed ones included: {seeds}.")
    for arm, outcome in outcomes.items():
        wrong = [v for v in outcome.values_S if v is not None and not math.isfinite(v)]
        if wrong:
            raise MeasurementError(f"The arm {arm!r} has an outcome of {wrong[0]}.")


def _verdict(bounds: Bounds, margin: float) -> ArmVerdict:
    if bounds.high < -margin:
        return BETTER
    if bounds.low > 0:
        return WORSE
    return NON_INFERIOR if bounds.low >= -margin else UNSEPARATED


def _has_learned(
    compare: partial[dict[str, Paired]], rivals: Mapping[str, Paired], reference: Outcome | None
) -> bool:
    """Whether the shortlist is better than what is reached without a finetune.

    What is reached without one has no spread over seeds, so that of all arms is used.
    """
    if reference is None:
        return True
    found = compare({"": reference}, others=[rival.own for rival in rivals.values()])
    return all(own.interval.lower_bound(1 - RISK) > 0 for own in found.values())


def _allowed(row: ArmComparison, shortlist: str, doubts: Doubts, learned: bool) -> ArmComparison:
    """Take back what must not be claimed: of arms in doubt, and of arms that have not learned."""
    if row.arm in doubts.arms:
        return replace(row, verdict=UNSETTLED)
    if shortlist in doubts.arms or (row.verdict == NON_INFERIOR and not learned):
        return replace(row, verdict=UNSEPARATED)
    return row


def _without(arm: str, outcome: Outcome, shortlist: str, doubts: Doubts) -> ArmComparison:
    """Return the line of an arm that is not compared: the shortlist, or one with too few seeds."""
    seeds = _finished(outcome)
    verdict = SHORTLIST if arm == shortlist else UNSETTLED if arm in doubts.arms else UNSEPARATED
    return ArmComparison(arm, outcome.mean, seeds, verdict=verdict if seeds else FAILED)


def _finished(outcome: Outcome) -> int:
    return sum(value is not None for value in outcome.values_S)


# --------------------------------------------------------------------------- what would separate


def _more(
    open_arms: Sequence[ArmComparison],
    shortlist: str,
    margin: float,
    doubts: Doubts,
    learned: bool,
) -> str | None:
    """Say what is missing: results, seeds, or rows."""
    parts = [f"{arm}: {why}" for arm, why in doubts.arms.items()]
    if not learned:
        parts.append(
            f"{shortlist} is not shown to be better than the {doubts.reference_name}, so arms that "
            "are alike say nothing of where adapters go: train on more rows, longer, or at other "
            "rates"
        )
        return "; ".join(parts)
    if shortlist in doubts.arms:
        return "; ".join(parts)
    open_arms = [row for row in open_arms if row.arm not in doubts.arms]
    failed = [row.arm for row in open_arms if row.verdict == FAILED]
    if failed:
        parts.append(f"no result of {', '.join(failed)}: every seed failed; see the causes")
    few = [row.arm for row in open_arms if row.verdict == UNSEPARATED and row.paired is None]
    if few and shortlist not in failed:
        parts.append(f"fewer than two seeds finished in both {shortlist} and {', '.join(few)}")
    unseparated = {row.arm: row.paired for row in open_arms if row.paired}
    if unseparated:
        parts.append(remedy(unseparated, margin))
    return "; ".join(parts) or None
