"""Module types that are chosen together because they share a weight. Pure; no torch.

Most host types hold one type of their own name. A fused projection holds several slices, which
are scored apart and adapted together; its value is the mean over all of its slices, as a type's
value is the mean over its modules. The value is that of the indicator by which types are placed,
NFN unless another is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from plop_lora.indicators import INDICATORS, NFN, Indicator
from plop_lora.indicators.estimates import Estimator, estimator
from plop_lora.records import Host, Scores, TypeScore
from plop_lora.statistics import Estimate


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A host type, the unit that a strategy chooses.

    `alone` holds the value of each member by itself.
    """

    type: str
    estimate: Estimate
    role: str
    eligible: bool
    members: tuple[TypeScore, ...]
    hosts: tuple[Host, ...]
    alone: tuple[float, ...]

    @property
    def value(self) -> float:
        """Mean of the indicator over the sites of all members."""
        return self.estimate.value


def groups_of(scores: Scores, indicator: Indicator = INDICATORS[NFN]) -> list[Group]:
    """Return the host types of a record in the indicator's order.

    Ties are broken by name. Types without a value of the indicator are left out.

    Raises:
        UsageError: The record does not hold the indicator.
    """
    members: dict[str, list[TypeScore]] = defaultdict(list)
    for row in scores.types:
        members[row.host_type].append(row)
    hosts: dict[str, list[Host]] = defaultdict(list)
    for host in scores.hosts:
        hosts[host.type].append(host)
    values = _Values(scores, estimator(scores, indicator))
    groups = []
    for host_type, rows in members.items():
        alone = [values.of({row.type}) for row in rows]
        whole = values.of({row.type for row in rows})
        if whole is None or None in alone:
            continue
        groups.append(
            Group(
                type=host_type,
                estimate=whole,
                role=rows[0].role,
                eligible=all(row.eligible for row in rows),
                members=tuple(rows),
                hosts=tuple(hosts[host_type]),
                alone=tuple(one.value for one in alone if one is not None),
            )
        )
    return sorted(groups, key=lambda group: (indicator.first(group.value), group.type))


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """The estimates of an indicator for types of a record."""

    scores: Scores
    estimate: Estimator

    def of(self, types: set[str]) -> Estimate | None:
        """Return the mean over the sites of some types."""
        sites = enumerate(self.scores.sites)
        return self.estimate([index for index, site in sites if site.type in types])


def first_alone(rivals: list[Group], chosen: list[Group], indicator: Indicator) -> set[str]:
    """Return the types that would be chosen if slices could be chosen alone, of equal number."""
    alone = sorted(
        (indicator.first(value), member.type)
        for group in rivals
        for member, value in zip(group.members, group.alone, strict=True)
    )
    return {name for _, name in alone[: sum(len(group.members) for group in chosen)]}


def forced_members(group: Group, first: set[str]) -> tuple[str, ...]:
    """Return the slices of a chosen weight that would not be chosen alone."""
    return tuple(m.type for m in group.members if len(group.members) > 1 and m.type not in first)


def held_back(group: Group, first: set[str]) -> tuple[str, ...]:
    """Return the slices of a weight outside the choice that would be chosen alone."""
    return tuple(m.type for m in group.members if len(group.members) > 1 and m.type in first)
