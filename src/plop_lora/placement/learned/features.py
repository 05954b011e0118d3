"""The features of module types and of placements, by which gains are predicted. Pure; no torch.

A feature has to mean the same in every model. Indicators therefore count by their rank among the
types of the model, from -1 for the type that the indicator puts last to 1 for the first; shapes by
the logarithm of outputs over inputs. A placement has the mean of its types, and how many of the
types it takes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from plop_lora.indicators import INDICATORS, NFN, Indicator, OfRecords
from plop_lora.models.architectures import HOLDS_QUERY_AND_VALUE, PROJECTIONS
from plop_lora.placement.groups import Group, groups_of
from plop_lora.records import HistoryType, Scores

Known = tuple[Indicator, Mapping[str, float]]
"""An indicator, and its value by module type; types whose weights it could not read are absent."""

NUMBER = "number of types"
SHAPE, ATTENTION, SHARE = "outputs over inputs", "attention", "parameter-share"
FEATURES = (NFN, SHARE, SHAPE, ATTENTION, NUMBER)
"""The features that every record of scores gives; further indicators stand before the last."""
_PARTS = {
    "query": re.compile(r"(q|query)(_proj|_lin)?"),
    "key": re.compile(r"(k|key)(_proj|_lin)?"),
    "gate": re.compile(r"gate(_proj)?|w1|linear_gate"),
}
"""Projections that `PROJECTIONS` does not name, because no constant strategy takes them."""
_GATE_AND_UP = re.compile(r"gate_up(_proj)?")


def features_of(further: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of the features, with those of further indicators.

    >>> features_of(["kappa"])[-2:]
    ('kappa', 'number of types')
    """
    return (*FEATURES[:-1], *further, NUMBER)


def history_types(
    groups: Iterable[Group],
    further: Mapping[str, tuple[Indicator, Mapping[str, float]]] | None = None,
) -> tuple[HistoryType, ...]:
    """Return what is known of the module types of a model.

    Args:
        groups: Module types, of which those that are never proposed are left out.
        further: Further indicators by name.
    """
    rows = []
    for group in sorted(groups, key=lambda group: group.type):
        if not group.eligible:
            continue
        modules = sum(member.modules for member in group.members)
        rows.append(
            HistoryType(
                type=group.type,
                part=part_of(group),
                attention=group.role == "attention",
                nfn=sum(member.nfn * member.modules for member in group.members) / modules,
                in_features=fmean(host.in_features for host in group.hosts),
                out_features=fmean(host.out_features for host in group.hosts),
                parameters=sum(member.parameters for member in group.members),
                further={
                    name: -row.first(values[group.type])
                    for name, (row, values) in (further or {}).items()
                    if group.type in values
                },
            )
        )
    return tuple(rows)


def further_indicators(scores: Scores, names: Iterable[str]) -> dict[str, Known]:
    """Return the indicators of a record of scores; those that it does not hold are absent."""
    held = {row.indicator for row in scores.indicators}
    rows = [INDICATORS[name] for name in names if name in INDICATORS]
    return {
        row.name: (row, {group.type: group.value for group in groups_of(scores, row)})
        for row in rows
        if row.name in held or isinstance(row.measure, OfRecords)
    }


def part_of(group: Group) -> str:
    """Return what a type does in a block, or its own name where that is not known.

    Stacked experts, and projections that are fused, are parts of their own.
    """
    part = part_named(group.type, group.role)
    return f"experts: {part}" if any(host.copies > 1 for host in group.hosts) else part


def part_named(type_name: str, role: str) -> str:
    """Return what a type does by its name, and by whether it is of the attention or the MLP.

    >>> part_named("attention.output.dense", "attention"), part_named("output.dense", "mlp")
    ('output', 'down')
    >>> part_named("self_attn.qkv_proj", "attention"), part_named("mixer.in_proj", "other")
    ('query, key and value', 'mixer.in_proj')
    """
    names = type_name.split(".")
    ends = [".".join(names[start:]) for start in range(len(names))]
    if role == "attention":
        if HOLDS_QUERY_AND_VALUE.fullmatch(names[-1]):
            return "query, key and value"
        patterns = {part: _PARTS[part] for part in ("query", "key")}
        patterns |= {part: PROJECTIONS[part] for part in ("value", "output")}
    elif role == "mlp":
        if _GATE_AND_UP.fullmatch(names[-1]):
            return "gate and up"
        patterns = {"gate": _PARTS["gate"]}
        patterns |= {part: PROJECTIONS[part] for part in ("up", "down")}
    else:
        return type_name
    for part, pattern in patterns.items():
        if any(pattern.fullmatch(end) for end in ends):
            return part
    return type_name


def type_values(types: Sequence[HistoryType], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return feature → type → value, of all features but the number of types.

    Raises:
        KeyError: A type lacks a further indicator.
    """
    total = sum(row.parameters for row in types)
    raw = {
        NFN: [-row.nfn for row in types],
        SHARE: [row.parameters / total for row in types],
        **{name: [row.further[name] for row in types] for name in names if name not in FEATURES},
    }
    columns = {name: ranked(values) for name, values in raw.items()}
    columns[SHAPE] = [math.log2(row.out_features / row.in_features) for row in types]
    columns[ATTENTION] = [float(row.attention) for row in types]
    return {
        name: dict(zip((row.type for row in types), columns[name], strict=True))
        for name in names
        if name != NUMBER
    }


def ranked(values: Sequence[float]) -> list[float]:
    """Return ranks between -1 for the lowest and 1 for the highest; equal values share a rank.

    >>> ranked([0.3, 0.1, 0.2]), ranked([5.0, 5.0]), ranked([1.0])
    ([1.0, -1.0, 0.0], [0.0, 0.0], [0.0])
    """
    most = len(values) - 1
    return [
        sum((other < value) - (other > value) for other in values) / most if most else 0.0
        for value in values
    ]


def placement_features(
    types: Sequence[HistoryType], placements: Sequence[Sequence[str]], names: Sequence[str]
) -> list[list[float]]:
    """Return a row of features for each placement.

    Args:
        types: Module types of the model.
        placements: Module types of each placement, at least one.
        names: Names of the features, in the order of the columns.
    """
    values = type_values(types, names)
    most = math.log2(len(types)) or 1.0
    return [
        [
            math.log2(len(chosen)) / most
            if name == NUMBER
            else fmean(values[name][type_name] for type_name in chosen)
            for name in names
        ]
        for chosen in placements
    ]
