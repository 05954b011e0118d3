"""Find the sites of a loaded model and name their types.

A site is a linear operator that could carry an adapter. Its type is (component, role, leaf), read
from where the module stands: blocks are the outermost `ModuleList`s, the type is the path inside
the block without numbers, and the printed name is the shortest ending of that path that no other
type shares. Nothing here knows an architecture by name.

Covers `nn.Linear` with its subclasses and transformers' `Conv1D`. Experts, quantised weights and
everything else with a matrix inside a block is listed as present, not measured.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from plop_lora.errors import ModelError, UsageError, nearest
from plop_lora.records import NotMeasured

NOT_SUPPORTED = "present, not measured: no operator for this kind of weight yet"
NEVER_RAN = "never ran on this data"
LEFT_OUT = "left out by --include or --exclude"
OUTSIDE = "outside the blocks; name it with --include to score it"
UNASSIGNABLE = "its input rows cannot be assigned to sequences"
_TOWERS = frozenset({"vision", "audio"})
_STATE_MIXERS = ("mamba", "ssm", "recurrent", "deltanet", "rglru")


class Operator(Protocol):
    """What the measurement needs from a site's module, whatever holds the weight."""

    def weight_OI(self) -> torch.Tensor:
        """Return the weight as [out, in]."""

    def bias_O(self) -> torch.Tensor | None:
        """Return the bias, or None."""


@dataclass(frozen=True, slots=True)
class LinearOperator:
    """`nn.Linear` and its subclasses."""

    module: nn.Linear

    def weight_OI(self) -> torch.Tensor:
        """Return the weight as [out, in]."""
        return self.module.weight

    def bias_O(self) -> torch.Tensor | None:
        """Return the bias, or None."""
        return self.module.bias


@dataclass(frozen=True, slots=True)
class Conv1DOperator:
    """GPT-2's `Conv1D`, whose weight is stored [in, out]."""

    module: Any

    def weight_OI(self) -> torch.Tensor:
        """Return the weight as [out, in]."""
        weight: torch.Tensor = self.module.weight
        return weight.T

    def bias_O(self) -> torch.Tensor | None:
        """Return the bias, or None."""
        bias: torch.Tensor | None = self.module.bias
        return bias


def operator_of(module: nn.Module) -> Operator | None:
    """Return how to read a module's weight, or None if it is no kind that can be measured.

    A `Linear` subclass that packs its weight (quantised: integer, or not two-dimensional as
    declared) is not measured rather than misread.
    """
    if isinstance(module, nn.Linear):
        declared = (module.out_features, module.in_features)
        plain = module.weight.is_floating_point() and tuple(module.weight.shape) == declared
        return LinearOperator(module) if plain else None
    if isinstance(module, Conv1D):
        return Conv1DOperator(module)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A module that will be measured, with its place in the model."""

    name: str
    type: str
    role: str
    eligible: bool
    in_block: bool
    layer: int | None
    module: nn.Module
    operator: Operator

    @property
    def parameters(self) -> int:
        """Number of entries of the weight."""
        return self.operator.weight_OI().numel()


@dataclass(frozen=True, slots=True)
class SiteMap:
    """All sites of a model, what is present but cannot be measured, and the block parameters."""

    sites: tuple[Site, ...]
    not_measured: tuple[NotMeasured, ...]
    block_parameters: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a weight stands: component, layer, and the path inside the block without numbers."""

    component: str
    layer: int | None
    path: tuple[str, ...]
    in_block: bool


def find_sites(
    model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> SiteMap:
    """Find what can be measured in a model.

    Args:
        model: any module; names in the result are relative to it.
        include: shell patterns over module names or type names; without one, all sites inside
            the blocks, with some only those that match, wherever they stand.
        exclude: shell patterns of sites to leave out.

    Returns:
        Sites in the order of `named_modules`; weights shared by several modules appear once.

    Raises:
        UsageError: an include or exclude pattern that matches nothing.
        ModelError: no measurable site at all.
    """
    locate = _locator(model)
    weights = _matrices(model)
    places = {name: locate(name) for name, _, _ in weights}
    printed = _printed_types(places)
    sites: list[Site] = []
    missing: list[NotMeasured] = []
    for name, module, size in weights:
        operator = operator_of(module)
        place = places[name]
        if operator is None:
            if place.in_block:
                missing.append(NotMeasured(name, printed[name], size, NOT_SUPPORTED))
            continue
        eligible = place.in_block and place.component not in _TOWERS
        sites.append(
            Site(
                name=name,
                type=printed[name],
                role=_role(model, name, place),
                eligible=eligible,
                in_block=place.in_block,
                layer=place.layer,
                module=module,
                operator=operator,
            )
        )
    if not sites:
        raise ModelError(
            f"{type(model).__name__} has no measurable site: no nn.Linear and no Conv1D with a "
            "floating-point weight. Load the model unquantised, or pass the inner model."
        )
    kept = _select(sites, include, exclude)
    for site in sites:
        if site not in kept:
            reason = LEFT_OUT if site.in_block else OUTSIDE
            missing.append(NotMeasured(site.name, site.type, site.parameters, reason))
    blocks = sum(size for name, _, size in weights if places[name].in_block)
    return SiteMap(tuple(kept), tuple(missing), blocks)


def _select(sites: list[Site], include: Sequence[str], exclude: Sequence[str]) -> list[Site]:
    kept = [site for site in sites if site.in_block]
    if include:
        kept = [site for site in sites if _matches(site, include)]
    for pattern in (*include, *exclude):
        if not any(_matches(site, [pattern]) for site in sites):
            types = list(dict.fromkeys(site.type for site in sites))
            raise UsageError(
                f"The pattern {pattern!r} matches no module.{nearest(pattern, types)} "
                f"Module types here: {', '.join(types)}; full names such as {sites[0].name!r} "
                "and shell patterns such as '*attn*' work as well."
            )
    kept = [site for site in kept if not _matches(site, exclude)]
    if not kept:
        raise UsageError("--include and --exclude together leave no module to score.")
    return kept


def _matches(site: Site, patterns: Iterable[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(site.name, pattern) or fnmatch.fnmatchcase(site.type, pattern)
        for pattern in patterns
    )


def _matrices(model: nn.Module) -> list[tuple[str, nn.Module, int]]:
    """List modules that own a matrix, with its size; shared weights go to their first name.

    Embeddings, norms and convolutions over images are no LoRA hosts and are passed over, unless
    they stand inside a block with a matrix of their own (experts, packed weights).
    """
    seen: set[int] = set()
    found: list[tuple[str, nn.Module, int]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.modules.conv._ConvNd):
            seen.update(id(p) for p in module.parameters(recurse=False))
            if isinstance(module, nn.Embedding):
                continue
        own = dict(module.named_parameters(recurse=False))
        if operator_of(module) is not None:
            own = {"weight": own["weight"]} if "weight" in own else {}
        matrices = [p for p in own.values() if p.ndim >= 2 and id(p) not in seen]
        seen.update(id(p) for p in matrices)
        if matrices:
            found.append((name, module, sum(p.numel() for p in matrices)))
    return found


# --------------------------------------------------------------------------- places and names


def _locator(model: nn.Module) -> Callable[[str], _Place]:
    """Return what finds the place of a module name in the model's blocks."""
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(True for _ in module.parameters())
    ]
    outermost = [n for n in lists if not any(n.startswith(f"{other}.") for other in lists)]
    components = _component_names(model, outermost)

    def locate(name: str) -> _Place:
        for block_list in outermost:
            if name.startswith(f"{block_list}."):
                layer, *path = name[len(block_list) + 1 :].split(".")
                words = tuple(part for part in path if not part.isdigit()) or (block_list,)
                return _Place(components[block_list], int(layer), words, True)
        words = tuple(part for part in name.split(".") if not part.isdigit()) or (name,)
        return _Place("", None, words, not outermost)

    return locate


def _component_names(model: nn.Module, block_lists: list[str]) -> dict[str, str]:
    """Name the part of the model that each list of blocks belongs to.

    The name is that of the sub-configuration its owner was built from (`text` is printed `lm`),
    else the first word of the path in which the lists differ. One list needs no name.
    """
    if len(block_lists) <= 1:
        return dict.fromkeys(block_lists, "")
    names = {}
    for block_list in block_lists:
        sub_config = _sub_config(model, block_list)
        words = block_list.split(".")
        others = [other.split(".") for other in block_lists if other != block_list]
        differing = [w for i, w in enumerate(words) if any(o[i : i + 1] != [w] for o in others)]
        names[block_list] = sub_config or differing[0]
    return names


def _sub_config(model: nn.Module, path: str) -> str | None:
    config: Any = getattr(model, "config", None)
    sub_configs = getattr(type(config), "sub_configs", {})
    owners = [model.get_submodule(path[:end]) for end in _prefix_ends(path)]
    for owner in reversed(owners):
        for key in sub_configs:
            own: Any = getattr(owner, "config", None)
            if own is not None and own is getattr(config, key, None):
                word = key.removesuffix("_config")
                return "lm" if word == "text" else word
    return None


def _prefix_ends(path: str) -> list[int]:
    return [i for i, letter in enumerate(path) if letter == "."] + [len(path)]


def _printed_types(places: dict[str, _Place]) -> dict[str, str]:
    """Return the printed type of each name: component, then the shortest unambiguous ending."""
    paths = {place.path for place in places.values()}
    endings = Counter(
        path[start:] for path in paths for start in range(len(path))
    )  # how many types share an ending
    components = {place.component for place in places.values() if place.in_block}
    printed = {}
    for name, place in places.items():
        path = place.path
        shortest = next(
            (path[s:] for s in reversed(range(len(path))) if endings[path[s:]] == 1), path
        )
        words = shortest
        if len(components) > 1 and place.component:
            words = (place.component, *shortest)
        printed[name] = ".".join(words)
    return printed


def _role(model: nn.Module, name: str, place: _Place) -> str:
    """Tell attention, mlp and other apart, from the names and classes above a module."""
    if not place.in_block:
        return "other"
    words = [word.lower() for word in place.path[:-1]]
    depth = len(place.path)
    parts = name.split(".")
    for end in range(max(1, len(parts) - depth), len(parts)):
        owner = model.get_submodule(".".join(parts[:end]))
        if end > len(parts) - depth:
            words.append(type(owner).__name__.lower())
    if any("attn" in word or "attention" in word for word in words):
        return "attention"
    return "other" if any(mark in word for word in words for mark in _STATE_MIXERS) else "mlp"
