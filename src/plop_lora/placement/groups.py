"""What is decided as one: the types of a host type, with their common score. Pure; no torch.

Most host types hold one type of their own name. A fused projection holds several slices, which
are scored apart and adapted together; its score is the mean over all of its slices, as a type's
score is the mean over its modules.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from plop_lora.records import Host, Scores, TypeScore
from plop_lora.statistics import Estimate, type_estimate


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A host type: what a strategy chooses or leaves."""

    type: str
    estimate: Estimate
    role: str
    eligible: bool
    members: tuple[TypeScore, ...]
    hosts: tuple[Host, ...]

    @property
    def nfn(self) -> float:
        """Mean NFN over the sites of all members."""
        return self.estimate.value


def groups_of(scores: Scores) -> list[Group]:
    """Return the host types of a record, lowest NFN first, ties by name."""
    members: dict[str, list[TypeScore]] = defaultdict(list)
    for row in scores.types:
        members[row.host_type].append(row)
    hosts: dict[str, list[Host]] = defaultdict(list)
    for host in scores.hosts:
        hosts[host.type].append(host)
    groups = [
        Group(
            type=host_type,
            estimate=_estimate(scores, {row.type for row in rows}),
            role=rows[0].role,
            eligible=all(row.eligible for row in rows),
            members=tuple(rows),
            hosts=tuple(hosts[host_type]),
        )
        for host_type, rows in members.items()
    ]
    return sorted(groups, key=lambda group: (group.nfn, group.type))


def _estimate(scores: Scores, types: set[str]) -> Estimate:
    orders = [order for order, site in enumerate(scores.sites) if site.type in types]
    return type_estimate(scores.measurements, orders)


def lowest_alone(rivals: list[Group], chosen: list[Group]) -> set[str]:
    """Return the types that would be chosen if slices could be: as many as the choice holds."""
    alone = sorted((member.nfn, member.type) for group in rivals for member in group.members)
    return {name for _, name in alone[: sum(len(group.members) for group in chosen)]}


def forced_members(group: Group, lowest: set[str]) -> tuple[str, ...]:
    """Return the slices of a chosen weight that are not among the lowest types by themselves."""
    return tuple(m.type for m in group.members if len(group.members) > 1 and m.type not in lowest)


def held_back(group: Group, lowest: set[str]) -> tuple[str, ...]:
    """Return the slices of a weight that was left out which are among the lowest by themselves."""
    return tuple(m.type for m in group.members if len(group.members) > 1 and m.type in lowest)
