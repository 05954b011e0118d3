"""Arms: the shortlist and its rivals, each with as many adapter parameters as the budget says.

An arm is a rule that names weights (`ARMS`), or a saved placement. It gives one placement a seed;
only `random`, which draws types anew, differs between seeds. Ranks follow from the budget, and
alpha and all settings are the same (`equal`), so that arms differ in where their parameters stand
and in nothing else.

Pure; no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from plop_lora.errors import UsageError, nearest
from plop_lora.indicators.signal import Signal
from plop_lora.placement import PLOP, groups_of
from plop_lora.records import AdapterSettings, Host, Placement, Scores
from plop_lora.verification.arm_rules import (
    ARMS,
    COMPULSORY,
    DEFAULT_ARMS,
    TYPE,
    ArmRequest,
)
from plop_lora.verification.equal import (
    TOLERANCE,
    Draft,
    alpha_for,
    check_reach,
    draft,
    fitted,
)

SCALING = 2.0
"""alpha / rank of the shortlist at the budget (alpha / sqrt(rank) with rslora)."""


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One contestant.

    Attributes:
        name: of the rule, or of the file.
        placements: one a seed, in the order of the seeds.
        nfn: mean over its types of their NFN, a type counting once as it does in a choice; over
            all seeds. None where a type has no score.
        mismatch: parameters over budget, minus 1, of the seed that misses it most.
        note: what a reader should know.
    """

    name: str
    placements: tuple[Placement, ...]
    nfn: float | None
    mismatch: float
    note: str = ""

    @property
    def parameters(self) -> int:
        """Adapter parameters of the first seed."""
        return self.placements[0].trainable_parameters

    @property
    def types(self) -> tuple[str, ...]:
        """Module types of the first seed, in the order of preference."""
        return tuple(choice.type for choice in self.placements[0].choices)

    @property
    def ranks(self) -> tuple[int, int]:
        """Lowest and highest rank over all seeds."""
        ranks = [site.rank for placement in self.placements for site in placement.sites]
        return min(ranks), max(ranks)


def eligible_hosts(scores: Scores) -> tuple[Host, ...]:
    """Return the weights that an arm may adapt, for `measure_signal`."""
    return tuple(host for group in groups_of(scores) if group.eligible for host in group.hosts)


def signals_for(names: Sequence[str]) -> tuple[str, ...]:
    """Return the indicators that have to be measured on the model for these arms."""
    rules = [ARMS[name] for name in names if name in ARMS]
    return tuple(dict.fromkeys(rule.signal for rule in rules if rule.signal is not None))


def make_arms(
    names: Sequence[str],
    scores: Scores,
    *,
    budget: int,
    seeds: Sequence[int],
    top: int | None = None,
    signals: Mapping[str, Signal] | None = None,
    largest_rank: int | None = None,
    settings: AdapterSettings | None = None,
) -> tuple[Arm, ...]:
    """Make the arms of a verification, the shortlist first.

    Args:
        names: rules in `ARMS` or files of placements; `DEFAULT_ARMS` if empty, of which those
            that find nothing in this model are left out with a note. The shortlist and
            `all-linear`, the strongest published rival, are always among them.
        scores: of the model.
        budget: adapter parameters, that every arm meets within 2 % and none exceeds. All arms have
            the alpha that `SCALING` gives the shortlist there.
        seeds: of the trials, at least one; `random` draws anew for each.
        top: types of `plop`, `plop-inverse`, `random` and the rules by a signal; default 3.
        signals: by indicator, for the rules that need one (`signals_for`).
        largest_rank: a limit on every rank, where the task has one; ranks are even then, and none
            follows a signal.
        settings: of every adapter, whatever a file says.

    Returns:
        The arms. Two with the same weights and ranks are one, under the first name, with a note.
        An arm whose rank 1 costs more than the budget has rank 1, with a note.

    Raises:
        UsageError: an unknown name, a rule that finds nothing, a missing signal, a file of another
            model, or a budget that an arm cannot meet.
        RecordError: a file that is no placement.
    """
    if not seeds:
        raise UsageError("There is no seed. Give at least one: --seeds 5.")
    settings = settings or AdapterSettings()
    wanted = list(dict.fromkeys([PLOP, *(names or DEFAULT_ARMS), COMPULSORY]))
    drafts: list[tuple[list[Draft], str]] = []
    missing: list[str] = []
    for name in wanted:
        taken = [plans[0].name for plans, _ in drafts]
        request = ArmRequest(scores, top, seeds[0], signals or {})
        try:
            plans = _drafts(name, request, seeds, largest_rank, taken)
        except UsageError as error:
            if names or name in (PLOP, COMPULSORY):
                raise
            missing.append(f"no arm {name}: {error}")
            continue
        added = names and name == COMPULSORY and name not in names
        notes = [_ADDED] if added else []
        drafts.append(
            (
                plans,
                "; ".join(
                    [*notes, *_notes(name, plans[0], request, even=largest_rank is not None)]
                ),
            )
        )
    check_reach(
        [plan for plans, _ in drafts for plan in plans], budget, (drafts[0][0][0].name, COMPULSORY)
    )
    alpha = alpha_for(drafts[0][0][0], budget, SCALING, settings)
    nfn = {group.type: group.value for group in groups_of(scores)}
    arms = [
        _arm(plans, note, budget, nfn, [fitted(plan, budget, alpha, settings) for plan in plans])
        for plans, note in drafts
    ]
    arms[0] = dataclasses.replace(arms[0], note=_joined(arms[0].note, *missing))
    return _merged(arms)


# --------------------------------------------------------------------------- one arm


_ADDED = "always among the arms: the strongest published rival"


def _drafts(
    name: str, request: ArmRequest, seeds: Sequence[int], limit: int | None, taken: Sequence[str]
) -> list[Draft]:
    """Return one draft a seed."""
    if name not in ARMS:
        placement = _from_file(name, request.scores)
        label = name if Path(name).stem in (*taken, *ARMS) else Path(name).stem
        plan = draft(label, placement, largest_rank=limit, keep_shares=limit is None)
        return [plan] * len(seeds)
    rule = ARMS[name]
    if rule.signal is not None and rule.signal not in request.signals:
        raise UsageError(
            f"The arm {name!r} needs {rule.needs}, measured on the loaded model. Run it with plop "
            f"verify, or pass signals={{{rule.signal!r}: measure_signal(…)}}."
        )
    if rule.keeps_ranks and limit is not None:
        raise UsageError(
            f"The arm {name!r} gives its weights different ranks, which loses under GRPO (arXiv "
            "2605.07366). Leave it out for this task."
        )
    made = []
    for seed in seeds if rule.varies else seeds[:1]:
        placement = rule.choose(dataclasses.replace(request, seed=seed))
        placement = dataclasses.replace(placement, strategy=name, seed=seed)
        made.append(draft(name, placement, largest_rank=limit, keep_shares=rule.keeps_ranks))
    return made if rule.varies else made * len(seeds)


def _from_file(name: str, scores: Scores) -> Placement:
    """Load a placement and see that it is of the scored model.

    Raises:
        UsageError: neither a rule nor a file, or a placement of another model.
    """
    if not Path(name).is_file():
        raise UsageError(
            f"There is no arm {name!r}, and no such file.{nearest(name, ARMS)} Allowed: "
            f"{', '.join(ARMS)}, {TYPE}NAME with a module type, or the file of a placement."
        )
    placement = Placement.load(name)
    known = {host.name: host.parameters_per_rank for host in scores.hosts}
    others = {entry.weight for entry in scores.coverage.not_measured}
    for site in placement.sites:
        cost = site.parameters // site.rank
        if known.get(site.name, cost if site.name in others else None) != cost:
            raise UsageError(
                f"{name} is a placement of {placement.model.name}: its weight {site.name} "
                f"({cost:,} parameters a rank) is not in the scores, which are of "
                f"{scores.model.name}. Give a placement of that model."
            )
    return placement


def _notes(name: str, plan: Draft, request: ArmRequest, *, even: bool) -> list[str]:
    """Say what becomes of a file, and what a signal did not see."""
    if name in ARMS:
        signal = ARMS[name].signal
        return [] if signal is None else list(request.signals[signal].notes)
    ranks = "even ranks" if even or plan.shares is None else "ranks in the file's proportions"
    return [f"from {name}: its weights at the common budget, alpha and settings, {ranks}"]


def _arm(
    plans: Sequence[Draft],
    note: str,
    budget: int,
    nfn: Mapping[str, float],
    placements: Sequence[Placement],
) -> Arm:
    misses = [placement.trainable_parameters / budget - 1 for placement in placements]
    mismatch = max(misses, key=abs)
    over = ""
    if mismatch > TOLERANCE:
        over = f"rank 1 on its {len(plans[0].costs)} weights costs {mismatch:.1%} more than the "
        over += "budget"
    means = [_mean_nfn(placement, nfn) for placement in placements]
    known = [value for value in means if value is not None]
    return Arm(
        name=plans[0].name,
        placements=tuple(placements),
        nfn=fmean(known) if len(known) == len(means) else None,
        mismatch=mismatch,
        note=_joined(note, over),
    )


def _mean_nfn(placement: Placement, nfn: Mapping[str, float]) -> float | None:
    types = list(dict.fromkeys(site.type for site in placement.sites))
    return fmean(nfn[name] for name in types) if all(name in nfn for name in types) else None


def _merged(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Run arms with the same weights and ranks once, under the name of the first."""
    kept: dict[tuple[frozenset[tuple[str, int]], ...], Arm] = {}
    for arm in arms:
        key = tuple(
            frozenset((site.name, site.rank) for site in placement.sites)
            for placement in arm.placements
        )
        if key in kept:
            text = f"{arm.name} has the same weights and ranks and is not run twice"
            kept[key] = dataclasses.replace(kept[key], note=_joined(kept[key].note, text))
        else:
            kept[key] = arm
    return tuple(kept.values())


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
