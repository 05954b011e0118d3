"""What a check of a server takes, an adapter with its names, and what it gives. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from plop_lora.exports.adapters import ranks_and_scalings
from plop_lora.exports.names import matched_names
from plop_lora.exports.patterns import check_patterns
from plop_lora.exports.target import check_placed
from plop_lora.exports.trainers.peft import peft_fields
from plop_lora.records import Host, PlacedSite, Placement

Severity = Literal["rejected", "ignored", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a server does not do as PEFT does.

    Attributes:
        severity: `rejected` (the server refuses the adapter), `ignored` (it serves something
            else without a word), `note` (it works if you do what `todo` says).
        what: What it is, and what the server makes of it.
        modules: Names or targets it concerns; empty where it concerns all.
        todo: What to do about it.
    """

    severity: Severity
    what: str
    modules: tuple[str, ...]
    todo: str

    def __str__(self) -> str:
        """Return one line, with at most three of the modules."""
        more = f" and {len(self.modules) - 3} more" if len(self.modules) > 3 else ""
        where = f" ({', '.join(self.modules[:3])}{more})" if self.modules else ""
        return f"{self.severity}: {self.what}{where}. {self.todo}."


TOWER = re.compile(
    r"(^|\.)(visual|vision\w*|image\w*|audio\w*|\w*projector|connector|merger)(\.|$)"
)


def rejections(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings that make a server refuse the adapter."""
    return tuple(finding for finding in findings if finding.severity == "rejected")


@dataclass(frozen=True, slots=True)
class Subject:
    """A configuration with the names it concerns: of weights where known, else its targets.

    `ranks` has (rank, scaling) by name; a pattern stands for itself where no name is known. Of a
    placement, `types` has the types of all known weights, and `others` the rest of the model.
    """

    config: Mapping[str, Any]
    names: tuple[str, ...]
    ranks: Mapping[str, tuple[int, float]]
    model_type: str = ""
    trained: bool = True
    added_tokens: bool = False
    types: Mapping[str, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()

    def modules(self) -> list[str]:
        """Return the adapted modules, without patterns, stacked experts and towers."""
        stacks = self.experts()
        known = (name for name in self.names if "*" not in name and "(" not in name)
        plain = (name.removesuffix(".weight") for name in known if not inside(name, stacks))
        return [name for name in plain if not TOWER.search(name)]

    def experts(self) -> dict[str, set[str]]:
        """Return the stacks of experts with the parameters that are adapted in each."""
        found: dict[str, set[str]] = {}
        for name in self.names:
            stack, _, parameter = name.rpartition(".")
            if stack.rpartition(".")[2] == "experts":
                found.setdefault(stack, set()).add(parameter)
        return found


def subject_of(
    source: Placement | Mapping[str, Any], modules: tuple[str, ...], added_tokens: bool
) -> Subject:
    """Return what is linted.

    Args:
        source: A placement, or the content of a trained adapter's `adapter_config.json`.
        modules: Names of the adapted weights, where they are known.
        added_tokens: The adapter's folder holds an `added_tokens.json`.
    """
    if isinstance(source, Placement):
        check_placed(source)
        known: tuple[Host | PlacedSite, ...] = (*source.hosts, *source.sites)
        matched = matched_names(source)
        ranks = {matched[site.name]: (site.rank, source.scaling) for site in source.sites}
        model_type = str((source.model.config or {}).get("model_type", ""))
        return Subject(
            peft_fields(source), tuple(ranks), ranks, model_type, trained=False,
            types={entry.name: entry.type for entry in known},
            others=frozenset((*source.untouched, *(host.name for host in source.hosts))),
        )  # fmt: skip
    targets = source.get("target_modules") or ()
    listed = (targets,) if isinstance(targets, str) else tuple(targets)
    names = modules or (*listed, *(source.get("target_parameters") or ()))
    keys = dict.fromkeys(names)
    if not modules:
        keys |= source.get("rank_pattern") or {}
        keys |= source.get("alpha_pattern") or {}
    check_patterns(source, keys, "The adapter's configuration")
    ranks = ranks_and_scalings(source, keys)
    return Subject(source, names, ranks, added_tokens=added_tokens)


def inside(name: str, stacks: Container[str]) -> bool:
    """Whether a weight stands somewhere in one of the stacks."""
    return any(name[: dot.start()] in stacks for dot in re.finditer(r"\.", name))
