"""When scoring stops: the rule of `placement.stopping`, applied to what an engine has measured.

Scoring runs in rounds and evaluates a `StopRule` after each. A round ends only where the sequences
so far are a random sample of all, never in the middle of a chunk, whose batches are sorted by
length.

Shape letters: S sites, N sequences.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from plop_lora.errors import UsageError
from plop_lora.options import ADAPTIVE, FIXED
from plop_lora.placement.stopping import LEAST, StopDecision, StopSettings, examine
from plop_lora.recipe import USUAL_TOP
from plop_lora.records import GroupCount, Stopping
from plop_lora.scoring.assemble import by_site, usable_sites
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.sites.find import Site
from plop_lora.statistics import Estimate, ratio_estimate


def check_top(top: int, sites: Sequence[Site]) -> None:
    """Refuse to choose more types than the model has; the default number is always accepted.

    Raises:
        UsageError: There are fewer types than `top`; the message gives their number.
    """
    odd = {site.host.type for site in sites if not site.eligible}
    types = sorted({site.host.type for site in sites} - odd)
    if top > max(len(types), USUAL_TOP):
        raise UsageError(
            f"--top {top} is not possible: {len(types)} module types are scored here that a "
            f"placement can choose ({', '.join(types)}). Give 1 to {len(types)}."
        )


def chunk_ends(total: int) -> tuple[int, ...]:
    """Return the numbers of sequences after which the rule is evaluated.

    They are 8 apart at first, and later about a quarter of the sequences so far.

    >>> chunk_ends(200)
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 120, 144, 176, 200)
    """
    ends: list[int] = []
    seen = 0
    while seen < total:
        seen = min(total, seen + 8 * max(1, seen // 32))
        ends.append(seen)
    return tuple(ends)


@dataclass(frozen=True, slots=True, eq=False)
class StopRule:
    """Rule that decides whether the sequences measured so far are enough.

    Attributes:
        sites: The measured sites, in the order of the measurement.
        settings: Number of types to choose, tolerance and confidence.
    """

    sites: Sequence[Site]
    settings: StopSettings

    def __call__(self, measured: Measured) -> bool:
        """Return whether the measurement decides the choice."""
        return len(measured.names) >= LEAST and self.decide(measured).decided

    def decide(self, measured: Measured) -> StopDecision:
        """Return the current choice, with its ties and undecided pairs."""
        return examine(group_estimates(self.sites, measured), self.settings)


def group_estimates(sites: Sequence[Site], measured: Measured) -> dict[str, Estimate]:
    """Return the estimate of every group that a placement may choose.

    As in `placement.groups`, a group is a host type, and it may be chosen if all of its sites may.
    """
    sums_SN, counts_SN = by_site(measured)
    members: dict[str, list[int]] = defaultdict(list)
    for index in usable_sites(counts_SN, measured):
        members[sites[index].host.type].append(index)
    return {
        host_type: ratio_estimate(sums_SN[indices], counts_SN[indices])
        for host_type, indices in members.items()
        if all(sites[index].eligible for index in indices)
    }


def stopping_of(
    stop_rule: StopRule, stop: str, measured: Measured, available: int, groups: Sequence[str | None]
) -> Stopping:
    """Return the entry of the record that says why and when scoring stopped.

    Args:
        stop_rule: Rule that was evaluated during the run.
        stop: Stopping mode, `adaptive` or `fixed`.
        measured: The complete measurement.
        available: Number of sequences that could have been scored.
        groups: Group of each of them, in the order of scoring.
    """
    used = len(measured.names)
    decision = stop_rule.decide(measured) if stop == ADAPTIVE else StopDecision((), decided=False)
    return Stopping(
        mode=stop,
        reason=_reason(stop, decision),
        decided=decision.decided,
        used=used,
        available=available,
        top=stop_rule.settings.top,
        tolerance=stop_rule.settings.tolerance,
        confidence=stop_rule.settings.confidence,
        ties=decision.ties,
        undecided=decision.undecided,
        groups=_group_counts(groups, used),
    )


def _reason(stop: str, decision: StopDecision) -> str:
    if stop == FIXED:
        return "all sequences were asked for"
    if decision.decided:
        return "the choice is decided"
    if decision.undecided:
        return "all sequences are used"
    return "too few sequences to decide" if decision.leaves_out else "no type to leave out"


def _group_counts(groups: Sequence[str | None], used: int) -> tuple[GroupCount, ...]:
    drawn = Counter(group for group in groups if group is not None)
    scored = Counter(groups[:used])
    return tuple(GroupCount(group, scored[group], drawn[group]) for group in sorted(drawn))
