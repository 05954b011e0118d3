"""The shortest exact description of the placed weights, by name ending or by pattern. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from plop_lora.models.architectures import TOWERS
from plop_lora.records import PlacedSite, Placement

CONVERTED_LEAVES = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""Last parts of target names that PEFT redirects to the experts of a model that stacks them."""


def module_sites(placement: Placement) -> list[PlacedSite]:
    """Return the sites that a trainer addresses as modules."""
    experts = has_experts(placement)
    return [site for site in placement.sites if not _by_parameter(site, experts)]


def parameter_sites(placement: Placement) -> list[PlacedSite]:
    """Return the sites that PEFT must be given as parameters instead of modules.

    Stacked experts are parameters. In a model that has them, PEFT (0.19 and newer) rewrites
    module targets called `down_proj` and the like to the experts, so that dense layers and shared
    experts of that name lose their adapter; naming their weight as a parameter avoids it.
    """
    experts = has_experts(placement)
    return [site for site in placement.sites if _by_parameter(site, experts)]


def matched_names(placement: Placement) -> dict[str, str]:
    """Return the name against which PEFT matches `rank_pattern`, by the name of the site."""
    experts = has_experts(placement)
    return {
        site.name: parameter_name(site) if _by_parameter(site, experts) else site.name
        for site in placement.sites
    }


def _by_parameter(site: PlacedSite, experts: bool) -> bool:
    """Whether PEFT must be given the site as a parameter, in a model with `experts` or without."""
    if site.is_parameter:
        return True
    return experts and site.name.rsplit(".", 1)[-1] in CONVERTED_LEAVES


def has_experts(placement: Placement) -> bool:
    """Whether the model stacks experts in parameters, placed or not."""
    names = [site.name for site in placement.sites if site.is_parameter]
    return bool(names) or any(_is_expert_name(name) for name in placement.untouched)


def is_multimodal(placement: Placement) -> bool:
    """Whether the model has a vision or audio tower, by its configuration."""
    config = placement.model.config or {}
    return any(f"{tower}_config" in config for tower in TOWERS)


def parameter_name(site: PlacedSite) -> str:
    """Return the parameter that holds a site: itself, or the weight of its module."""
    return site.name if site.is_parameter else f"{site.name}.weight"


def target_modules(placement: Placement) -> list[str] | str:
    """Return the value of PEFT's `target_modules`, an empty list if no module is adapted.

    It is a list of name endings if endings match exactly the sites, which is easy to read and
    independent of the prefix that a task head adds. Otherwise it is a list of full names in a model
    with experts, where PEFT reduces a pattern to leaf names, and one regular expression, which PEFT
    matches against the full name, in any other model.
    """
    endings = _module_endings(placement)
    if endings is not None:
        return endings
    names = sorted(site.name for site in module_sites(placement))
    if has_experts(placement):
        return names
    return rf"(?:.*\.)?(?:{'|'.join(layer_patterns(names))})"


def listed_modules(
    placement: Placement, *, hits: Callable[[str, str], bool] | None = None
) -> list[str]:
    """Return the module targets as a list, for trainers that do not support patterns.

    They are name endings if these match exactly the sites, and otherwise full names.

    Args:
        placement: Placement to describe.
        hits: Function that tells whether the trainer matches a name with a target. By default it
            is PEFT's rule for lists, that the name ends in the target.
    """
    endings = _module_endings(placement, hits=hits)
    if endings is not None:
        return endings
    return sorted(site.name for site in module_sites(placement))


def _module_endings(
    placement: Placement, *, hits: Callable[[str, str], bool] | None = None
) -> list[str] | None:
    """Return exact endings of the module sites, or None.

    Beside a tower an ending has two parts: its patch embedding, which no score lists, may be
    called `proj` as well.
    """
    named = [(site.type, site.name) for site in module_sites(placement)]
    others = [*placement.untouched, *(site.name for site in parameter_sites(placement))]
    parts = 2 if is_multimodal(placement) else 1
    return exact_endings(named, others, parts=parts, hits=hits)


def target_parameters(placement: Placement) -> list[str]:
    """Return the value of PEFT's `target_parameters`: name endings, or otherwise full names."""
    sites = parameter_sites(placement)
    named = [(site.type, parameter_name(site)) for site in sites]
    others = [f"{name}.weight" for name in placement.untouched] + list(placement.untouched)
    others += [f"{site.name}.weight" for site in module_sites(placement)]
    endings = exact_endings(named, others)
    return sorted(name for _, name in named) if endings is None else endings


def exact_endings(
    named: Sequence[tuple[str, str]],
    others: Sequence[str],
    *,
    parts: int = 1,
    hits: Callable[[str, str], bool] | None = None,
) -> list[str] | None:
    """Return one ending per type that matches its names and none of `others`, or None.

    Args:
        named: Pairs of type and name.
        others: Names that must not match.
        parts: Least number of dotted parts of an ending.
        hits: Function that tells whether an ending matches a name of `others`; by default whether
            the name ends in it.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for type_name, name in named:
        groups[type_name].append(name)
    taken = frozenset(ending for name in others for ending in endings_of(name)) if not hits else ()

    def is_free(ending: str) -> bool:
        return ending not in taken and not (hits and any(hits(name, ending) for name in others))

    endings = [shared_ending(names, is_free, parts=parts) for names in groups.values()]
    found = {ending for ending in endings if ending is not None}
    return sorted(found) if None not in endings else None


def shared_ending(
    names: Sequence[str], is_free: Callable[[str], bool], *, parts: int = 1
) -> str | None:
    """Return the shortest dotted ending that all names share and that is free, or None.

    Args:
        names: Names, at least one.
        is_free: Function that tells whether an ending matches none of the other names.
        parts: Least number of dotted parts of an ending.
    """
    for ending in list(endings_of(names[0]))[parts - 1 :]:
        if not all(_ends(name, ending) for name in names):
            return None
        if is_free(ending):
            return ending
    return None


def endings_of(name: str) -> Iterator[str]:
    """Yield the dotted endings of a name, the shortest first.

    >>> list(endings_of("a.b.c"))
    ['c', 'b.c', 'a.b.c']
    """
    start = len(name)
    while start >= 0:
        start = name.rfind(".", 0, start)
        yield name[start + 1 :]
        if start < 0:
            return


def layer_patterns(names: Iterable[str]) -> list[str]:
    r"""Fold names that differ in one number into patterns such as `layers\.(?:0|2)\.fc1`."""
    folded: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        match = re.fullmatch(r"(.*?)(\d+)(\..*)", name)
        if match is None:
            folded[name, ""] = []
        else:
            folded[match[1], match[3]].append(match[2])
    patterns = []
    for (head, tail), numbers in folded.items():
        if not numbers:
            patterns.append(re.escape(head))
            continue
        choice = "|".join(sorted(set(numbers), key=int))
        middle = choice if len(numbers) == 1 else f"(?:{choice})"
        patterns.append(f"{re.escape(head)}{middle}{re.escape(tail)}")
    return patterns


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _is_expert_name(name: str) -> bool:
    return re.search(r"(^|\.)experts(\.|$)", name) is not None
