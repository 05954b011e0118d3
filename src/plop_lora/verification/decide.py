"""The verdict of a verification, from the outcomes of all arms. Pure; no torch.

A rival is *better* where it beats the shortlist by more than the margin, at a one-sided p below
0.05 after Holm over all rivals: naming one of many as better needs the correction. The shortlist
is *confirmed* where its one-sided 95 % bound lies above minus the margin against every rival.
That needs no correction, since all of them must hold (an intersection-union test). Displayed
intervals are two-sided 95 %, one comparison each; the one-sided bound that decides is beside them.

p-values and intervals use seed variances that are moderated over all arms, since Holm's correction
is about the family. The bound uses the seeds of its two arms alone: it must hold for each rival,
and for a rival that is noisier than the others a moderated one is exceeded about twice too often.
A rival that is worse at a p below 0.05 after Bonferroni needs no bound.

Arms that have learned nothing are alike as well. So where the shortlist is not better than what
is reached without a finetune, being alike is not called non-inferior, and nothing is confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from plop_lora.errors import MeasurementError, UsageError
from plop_lora.records.verification import BEATEN, CONFIRMED, INCONCLUSIVE, ArmVerdict, Verdict
from plop_lora.statistics import holm, items_needed, seeds_needed
from plop_lora.study.compare import DRAWS, Outcome, Paired, compare_to_reference

SHORTLIST, NON_INFERIOR, BETTER, WORSE, UNSEPARATED, FAILED, UNSETTLED = ArmVerdict
RISK = 0.05
_MOST_MORE_SEEDS = 50
_MOST_ITEMS = 10**6


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """One arm against the shortlist.

    `difference` is shortlist minus rival over the seeds that both finished, above 0 where the
    shortlist is better whatever the direction of the metric, with its 95 % interval; None for the
    shortlist itself and where nothing can be said. `p` is two-sided, after Holm. `freedom` is the
    degrees of freedom of each arm's seed variance in the interval and in p. `verdict` is
    `shortlist`, `non-inferior` (the shortlist is, to this rival), `worse` (the rival is),
    `better than shortlist`, `cannot separate`, `not settled` (in doubt, so no claim is made) or
    `failed` (no seed finished).
    """

    arm: str
    mean: float | None
    seeds: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    verdict: ArmVerdict = UNSEPARATED
    bound: float | None = None
    freedom: float | None = None


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
    doubts: Doubts | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Decision:
    """Say whether the shortlist holds against its rivals.

    Args:
        outcomes: arm → outcome, with the same seeds in the same order in each.
        shortlist: which of them is to be proved.
        margin: loss in the metric that is accepted, 0 or more.
        higher: whether a higher value of the metric is better.
        doubts: what forbids a claim: arms with lost trials, and the level of no finetune.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        `beaten`, or else `confirmed` where every rival was compared and none can be better by
        more than the margin, or else `cannot separate`. A rival without a result prevents
        `confirmed` and is named in `more`.

    Raises:
        UsageError: no such shortlist, no rival, or a margin below 0.
        MeasurementError: arms with different numbers of seeds or items, or a value that is not
            finite.
    """
    _check(outcomes, shortlist, margin)
    rivals = {arm: outcome for arm, outcome in outcomes.items() if arm != shortlist}
    compare = partial(
        compare_to_reference, reference=outcomes[shortlist], higher=higher, draws=draws, seed=seed
    )
    paired = compare(rivals)
    doubts = doubts or Doubts()
    untrained = {} if doubts.reference is None else {"": doubts.reference}
    learned = all(map(_is_above, compare(untrained).values()))
    verdicts = _allowed(_verdicts(paired, margin), shortlist, doubts, learned)
    adjusted = dict(zip(paired, holm([p.interval.p for p in paired.values()]), strict=True))
    comparisons = tuple(
        _comparison(arm, outcomes[arm], paired.get(arm), adjusted.get(arm), verdicts.get(arm))
        if arm != shortlist
        else _shortlist(arm, outcomes[arm])
        for arm in outcomes
    )
    better = [arm for arm in paired if verdicts[arm] == BETTER]
    open_arms = [row for row in comparisons if row.verdict in (UNSEPARATED, FAILED, UNSETTLED)]
    verdict = BEATEN if better else INCONCLUSIVE if open_arms or not learned else CONFIRMED
    return Decision(
        verdict=verdict,
        better=min(better, key=lambda arm: (paired[arm].interval.value, arm), default=None),
        more=None
        if verdict == CONFIRMED
        else _more(open_arms, paired, shortlist, margin, doubts, learned),
        comparisons=comparisons,
    )


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


def _verdicts(paired: Mapping[str, Paired], margin: float) -> dict[str, ArmVerdict]:
    """Judge the rivals that could be compared."""
    beaten = holm([rival.interval.p_below(-margin) for rival in paired.values()])
    different = holm([rival.interval.p for rival in paired.values()])
    verdicts: dict[str, ArmVerdict] = {}
    for (arm, rival), p_beaten, p in zip(paired.items(), beaten, different, strict=True):
        if p_beaten < RISK:
            verdicts[arm] = BETTER
        elif _is_within(rival, margin, len(paired)):
            verdicts[arm] = WORSE if p < RISK and rival.interval.value > 0 else NON_INFERIOR
        else:
            verdicts[arm] = UNSEPARATED
    return verdicts


def _is_within(rival: Paired, margin: float, rivals: int) -> bool:
    """Whether the shortlist is at most the margin behind a rival, or shown to be ahead of it.

    Ahead is by Bonferroni: Holm leaves the largest p uncorrected, and a noisy rival alone would
    pass that too often.
    """
    ahead = rival.interval.value > 0 and rival.interval.p * rivals < RISK
    return ahead or rival.alone.lower_bound(1 - RISK) >= -margin


def _is_above(reference: Paired) -> bool:
    """Whether the shortlist is better than what is reached without a finetune.

    With fewer than two seeds that is not known, and nothing else is claimed either.
    """
    return reference.alone.lower_bound(1 - RISK) > 0


def _allowed(
    verdicts: Mapping[str, ArmVerdict], shortlist: str, doubts: Doubts, learned: bool
) -> dict[str, ArmVerdict]:
    """Take back what must not be claimed: of arms in doubt, and of arms that have not learned."""

    def allowed(arm: str, verdict: ArmVerdict) -> ArmVerdict:
        if arm in doubts.arms:
            return UNSETTLED
        if shortlist in doubts.arms or (verdict == NON_INFERIOR and not learned):
            return UNSEPARATED
        return verdict

    return {arm: allowed(arm, verdict) for arm, verdict in verdicts.items()}


def _shortlist(arm: str, outcome: Outcome) -> ArmComparison:
    seeds = _finished(outcome)
    return ArmComparison(arm, outcome.mean, seeds, verdict=SHORTLIST if seeds else FAILED)


def _comparison(
    arm: str, outcome: Outcome, paired: Paired | None, p: float | None, verdict: ArmVerdict | None
) -> ArmComparison:
    if paired is None or verdict is None:
        verdict = UNSEPARATED if _finished(outcome) else FAILED
        return ArmComparison(arm, outcome.mean, _finished(outcome), verdict=verdict)
    bare = ArmComparison(arm, outcome.mean, paired.seeds, p=p, verdict=verdict)
    found = paired.interval
    return replace(
        bare,
        difference=found.value,
        low=found.low,
        high=found.high,
        bound=paired.alone.lower_bound(1 - RISK),
        freedom=paired.freedom,
    )


def _finished(outcome: Outcome) -> int:
    return sum(value is not None for value in outcome.values_S)


# --------------------------------------------------------------------------- what would separate


def _more(
    open_arms: Sequence[ArmComparison],
    paired: Mapping[str, Paired],
    shortlist: str,
    margin: float,
    doubts: Doubts,
    learned: bool,
) -> str | None:
    """Say what is missing: results, seeds, or rows; the rival that needs most speaks for all."""
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
    few = [row.arm for row in open_arms if row.verdict == UNSEPARATED and row.arm not in paired]
    if few and shortlist not in failed:
        parts.append(f"fewer than two seeds finished in both {shortlist} and {', '.join(few)}")
    unseparated = {row.arm: paired[row.arm] for row in open_arms if row.arm in paired}
    if unseparated:
        parts.append(_remedy(unseparated, margin))
    return "; ".join(parts) or None


def _remedy(rivals: Mapping[str, Paired], margin: float) -> str:
    """Say how many seeds, or rows, separate all these rivals if their differences stay."""
    first = next(iter(rivals.values()))
    most = first.seeds + _MOST_MORE_SEEDS
    seeds = {arm: _seeds_for(rival, margin, most) for arm, rival in rivals.items()}
    hardest = max(rivals, key=lambda arm: (seeds[arm] or math.inf, arm))
    needed = seeds[hardest]
    names = ", ".join(rivals)
    if needed is None:
        text = f"{names}: more than {_MOST_MORE_SEEDS} seeds more would be needed"
    else:
        text = f"{names}: about {max(1, needed - rivals[hardest].seeds)} more seeds would separate"
    rows = [_rows_for(rival, margin) for rival in rivals.values()]
    known = [count for count in rows if count is not None]
    if first.items is not None and len(known) == len(rows):
        text += f", or about {max(*known, first.items + 1):,} rows instead of {first.items:,}"
    return f"{text} (power 0.8, if the differences stay as they are)"


def _seeds_for(rival: Paired, margin: float, most: int) -> int | None:
    parts = rival.parts
    return seeds_needed(
        rival.interval.value + margin, rival.items, parts.seed_sd, parts.item_sd, 1 - 2 * RISK,
        noise_sd=parts.noise_sd, most=most,
    )  # fmt: skip


def _rows_for(rival: Paired, margin: float) -> int | None:
    parts = rival.parts
    return items_needed(
        rival.interval.value + margin, rival.seeds, parts.seed_sd, parts.item_sd, 1 - 2 * RISK,
        noise_sd=parts.noise_sd, most=_MOST_ITEMS,
    )  # fmt: skip
