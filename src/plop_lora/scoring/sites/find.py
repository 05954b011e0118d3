"""Find the sites of a loaded model: the weights to measure, and those that are not measured.

A site is a linear operator that could carry an adapter, or a slice of one. No architecture is known
by name here: the place of a weight comes from the module tree, slices from the module that owns
them, and experts from the attributes that describe their layout.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from plop_lora.errors import ModelError, UsageError, nearest
from plop_lora.records import LEFT_OUT, Host, NotMeasured
from plop_lora.scoring.sites.fused import FusedPart, parts_of
from plop_lora.scoring.sites.module_paths import ModulePath, locator, printed_types, role_of
from plop_lora.scoring.sites.operators import (
    DenseOperator,
    EmbeddingOperator,
    OpaqueOperator,
    Operator,
    operator_of,
)
from plop_lora.scoring.sites.sharded import check_sharded, is_sharded
from plop_lora.scoring.sites.sources import bare_weights, records_no_graph
from plop_lora.scoring.sites.stacked_experts import stack_of

NOT_SUPPORTED = "present, not measured: no operator for this kind of weight yet"
NEVER_RAN = "never ran on this data"
ZERO_INPUT = "its input was zero on this data, which has no direction"
ALL_ZERO = "its weight is all zero, so it has no NFN"
UNASSIGNABLE = "its input rows cannot be assigned to sequences"
NO_TOKENS = "its input rows are not the tokens of a text"
NO_PRODUCT = "its output is not the product of its weight and its input"
OUTSIDE = "outside the blocks"
TOWER = "vision or audio tower"
ROUTER = "router"
EMBEDDING = "embedding"
CONVOLUTION = "convolution"
BYPASSED = "its model takes the bare weight in training, so that an adapter would not run"
NO_GRADIENT = "no gradient reaches it"
BY_RULE = (OUTSIDE, TOWER, ROUTER, EMBEDDING, CONVOLUTION, BYPASSED, NO_GRADIENT)
"""Reasons why a weight is never proposed, and scored only if --include names it."""


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A weight to measure, or a part of one, with its place in the model.

    Attributes:
        role: `attention`, `mlp` or `other`.
        layer: Index of the block, or None outside the blocks.
        host: Weight that would carry the adapter.
        rule: Reason why it is never proposed (one of `BY_RULE`), or None.
        operator: Operator that reads the module; None for stacked experts (`experts.py`).
        part: Slice of a fused weight, or None for the whole weight.
    """

    name: str
    type: str
    role: str
    layer: int | None
    host: Host
    rule: str | None
    module: nn.Module
    operator: Operator | None
    part: FusedPart | None = None

    @property
    def eligible(self) -> bool:
        """Whether a placement may propose the site."""
        return self.rule is None

    @property
    def out_features(self) -> int:
        """Number of rows of the weight that belong to the site."""
        return self.host.out_features if self.part is None else self.part.rows

    @property
    def parameters(self) -> int:
        """Number of entries of the site's weight, over all experts."""
        return self.host.copies * self.host.in_features * self.out_features


@dataclass(frozen=True, slots=True)
class SiteMap:
    """All sites of a model.

    Attributes:
        sites: Weights to measure.
        not_measured: Weights that are not measured, with the reason.
        block_parameters: Parameters of the block matrices that a placement could choose.
        notes: Notes on unusual properties of the types.
    """

    sites: tuple[Site, ...]
    not_measured: tuple[NotMeasured, ...]
    block_parameters: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Weight:
    """A module that owns matrices, with their total number of parameters."""

    name: str
    module: nn.Module
    parameters: int


def find_sites(
    model: nn.Module, *, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> SiteMap:
    """Find what can be measured in a model.

    Args:
        model: Any module; names in the result are relative to it.
        include: Shell patterns over module names or types, which select sites inside or outside
            the blocks. By default, all sites that a placement may choose are selected.
        exclude: Shell patterns of sites to leave out.

    Returns:
        The sites in the order of `named_modules`; a weight shared by several modules appears once.

    Raises:
        UsageError: An include or exclude pattern matches nothing.
        ModelError: The model has no site that can be measured.
    """
    weights = _matrices(model)
    places = _places(model, weights)
    stacks = {name for name in places if name not in {weight.name for weight in weights}}
    printed = printed_types(places, stacks)
    routed = _routed(model, weights)
    sites: list[Site] = []
    missing: list[NotMeasured] = []
    for weight in weights:
        found = list(_sites_of(model, weight, places, printed, routed))
        sites += found
        if not found:
            missing.append(_without_operator(weight, places[weight.name], printed[weight.name]))
    if all(site.rule == EMBEDDING for site in sites):
        raise ModelError(
            f"{type(model).__name__} has no measurable site: no linear layer, no Conv1D and no "
            "quantised layer. Pass the inner model."
        )
    _refuse_tied(model, sites, include)
    kept = set(_select(sites, include, exclude))
    check_sharded(site.name for site in sites if site in kept and _mixes(site))
    missing += [_left_out(site) for site in sites if site not in kept]
    blocks = sum(site.parameters for site in sites if site.eligible)
    blocks += sum(entry.parameters for entry in missing if entry.reason == NOT_SUPPORTED)
    shown = tuple(site for site in sites if site in kept)
    return SiteMap(shown, tuple(missing), blocks, tuple(_absent_values(model, shown)))


def refine(
    found: SiteMap,
    stuck: Container[nn.Module],
    whole: Container[str],
    *,
    keep: bool = False,
) -> SiteMap:
    """Update the sites with the results of the checks on the running model.

    Args:
        found: Sites from `find_sites`.
        stuck: Modules that no gradient reaches.
        whole: Names of hosts whose assumed slices are wrong, and which get one score.
        keep: Whether sites that cannot learn are still scored; they are never proposed.
    """
    sites: dict[str, Site] = {}
    for site in found.sites:
        one = site
        if site.host.name in whole:
            one = replace(site, name=site.host.name, type=site.host.type, part=None)
        if one.eligible and one.module in stuck:
            one = replace(one, rule=NO_GRADIENT)
        sites[one.name] = one
    gone = [site for site in sites.values() if site.rule == NO_GRADIENT]
    blocks = sum(site.parameters for site in sites.values() if site.eligible)
    blocks += found.block_parameters - sum(s.parameters for s in found.sites if s.eligible)
    kept = tuple(site for site in sites.values() if keep or site not in gone)
    left = () if keep else tuple(_left_out(site) for site in gone)
    return SiteMap(kept, (*found.not_measured, *left), blocks, found.notes)


def _matrices(model: nn.Module) -> list[_Weight]:
    """List the modules that own a matrix; a shared weight is listed under its first name."""
    seen: set[int] = set()
    found: list[_Weight] = []
    for name, module in model.named_modules():
        size = 0
        for parameter in _own_matrices(module):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                size += parameter.numel()
        operator = operator_of(module)
        computed = isinstance(operator, DenseOperator) and "weight" not in module._parameters
        if (computed or isinstance(operator, OpaqueOperator)) and id(module) not in seen:
            seen.add(id(module))
            assert operator is not None
            size = operator.in_features * operator.out_features
        if size and name:
            found.append(_Weight(name, module, size))
    return found


def _own_matrices(module: nn.Module) -> list[nn.Parameter]:
    """List the matrices that a module holds as parameters.

    A weight that is a buffer, or is computed from others (pruned, weight-normed, parametrized),
    belongs to the module whose attribute `weight` it is.
    """
    if isinstance(module, ParametrizationList):
        return []
    stack = stack_of(module)
    if stack is not None:
        return [getattr(module, leaf) for leaf in stack.parameters]
    own = dict(module.named_parameters(recurse=False))
    if isinstance(operator_of(module), DenseOperator):
        return [own["weight"]] if "weight" in own else []
    return [p for p in own.values() if sum(side > 1 for side in p.shape) >= 2]


def _places(model: nn.Module, weights: Sequence[_Weight]) -> dict[str, ModulePath]:
    """Locate every weight; stacked experts are located by their parameters."""
    locate = locator(model)
    names: list[str] = []
    for weight in weights:
        stack = stack_of(weight.module)
        leaves = [""] if stack is None else [f".{leaf}" for leaf in stack.parameters]
        names += [weight.name + leaf for leaf in leaves]
    return {name: locate(name) for name in names}


def _routed(model: nn.Module, weights: Sequence[_Weight]) -> dict[str, int]:
    """Return the number of experts of each module that owns a stack or a list of experts."""
    routed: dict[str, int] = {}
    for weight in weights:
        stack = stack_of(weight.module)
        copies = stack.copies if stack is not None else _stacked(weight.module)
        if copies is not None:
            routed[weight.name.rpartition(".")[0]] = copies
    lists = {name: one for name, one in model.named_modules() if isinstance(one, nn.ModuleList)}
    for name, entries in lists.items():
        owner = name.rpartition(".")[0]
        inside = any(owner.startswith(f"{other}.") for other in lists)
        if inside and len(entries) > 1 and len(set(map(type, entries))) == 1:
            routed.setdefault(owner, len(entries))
    return routed


def _stacked(module: nn.Module) -> int | None:
    """Return how many matrices a 3-D parameter of a module holds, or None without one."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return None
    sizes = (p.shape for p in module.parameters(recurse=False))
    return next((shape[0] for shape in sizes if len(shape) == 3 and min(shape) > 1), None)


def _sites_of(
    model: nn.Module,
    weight: _Weight,
    places: dict[str, ModulePath],
    printed: dict[str, str],
    routed: dict[str, int],
) -> Iterator[Site]:
    stack = stack_of(weight.module)
    operator = operator_of(weight.module)
    if stack is not None:
        for leaf in stack.parameters:
            name = f"{weight.name}.{leaf}"
            host = stack.host(leaf, name, printed[name], places[name].layer)
            rule = TOWER if places[name].in_tower else None
            parts = stack.parts(leaf)
            yield from _split(model, weight, host, places[name], operator, parts, rule)
    elif operator is not None:
        place = places[weight.name]
        host = Host(
            weight.name,
            printed[weight.name],
            place.layer,
            operator.in_features,
            operator.out_features,
        )
        owner, _, leaf = weight.name.rpartition(".")
        parts = parts_of(model.get_submodule(owner), leaf, operator.out_features)
        rule = _rule(weight, operator, place, routed)
        rule = rule or _unlearnable(model, weight.name, place)
        yield from _split(model, weight, host, place, operator, parts, rule)


def _split(
    model: nn.Module,
    weight: _Weight,
    host: Host,
    place: ModulePath,
    operator: Operator | None,
    parts: tuple[FusedPart, ...],
    rule: str | None,
) -> Iterator[Site]:
    """Yield one site for a host, or one for each of its parts."""
    role = role_of(model, host.name, place)
    for part in parts or (None,):
        suffix = "" if part is None else f"[{part.name}]"
        yield Site(
            name=host.name + suffix,
            type=host.type + suffix,
            role=role,
            layer=place.layer,
            host=host,
            rule=rule,
            module=weight.module,
            operator=operator,
            part=part,
        )


def _rule(
    weight: _Weight, operator: Operator, place: ModulePath, routed: dict[str, int]
) -> str | None:
    """Return why a weight is never proposed, or None."""
    if isinstance(operator, EmbeddingOperator):
        return EMBEDDING
    if place.in_tower:
        return TOWER
    if not place.in_block:
        return OUTSIDE
    return ROUTER if _is_router(weight.name, operator.out_features, routed) else None


def _unlearnable(model: nn.Module, name: str, place: ModulePath) -> str | None:
    """Return why a weight cannot learn according to the code of its classes, or None."""
    owner, _, leaf = name.rpartition(".")
    parts = owner.split(".")
    above = (model.get_submodule(".".join(parts[:end])) for end in range(len(parts), 0, -1))
    # The path inside the block is as long as the list of modules up to the block itself.
    kinds: list[type] = [type(one) for one, _ in zip(above, place.path, strict=False)]
    if kinds and leaf in bare_weights(kinds[0]):
        return BYPASSED
    return NO_GRADIENT if any(records_no_graph(kind) for kind in kinds) else None


def _is_router(name: str, out_features: int, routed: dict[str, int]) -> bool:
    """Return whether a weight beside experts is their router, or a gate with a single output."""
    return any(
        name.startswith(f"{owner}.") and out_features in (1, copies)
        for owner, copies in routed.items()
    )


def _without_operator(weight: _Weight, place: ModulePath, type_name: str) -> NotMeasured:
    reason = NOT_SUPPORTED
    if isinstance(weight.module, nn.modules.conv._ConvNd):
        reason = CONVOLUTION
    elif not place.in_block:
        reason = OUTSIDE
    elif place.in_tower:
        reason = TOWER
    return NotMeasured(weight.name, type_name, weight.parameters, reason, reason in BY_RULE)


def _absent_values(model: nn.Module, sites: Sequence[Site]) -> Iterator[str]:
    """Yield a note on layers whose attention has None in place of a `v_proj` (Gemma 4)."""
    keys = [site for site in sites if site.name.rpartition(".")[2] == "k_proj"]
    owners = [model.get_submodule(site.name.rpartition(".")[0]) for site in keys]
    without = [
        str(site.layer)
        for site, owner in zip(keys, owners, strict=True)
        if getattr(owner, "v_proj", owner) is None
    ]
    if without:
        yield (
            f"the layers {', '.join(without)} have no v_proj: the output of k_proj serves as value "
            "there, so that an adapter on k_proj changes both"
        )


def _left_out(site: Site) -> NotMeasured:
    rule = site.rule
    return NotMeasured(site.name, site.type, site.parameters, rule or LEFT_OUT, rule is not None)


def _select(sites: list[Site], include: Sequence[str], exclude: Sequence[str]) -> list[Site]:
    kept = [site for site in sites if site.eligible]
    if not kept and not include:
        kept = [site for site in sites if site.rule == TOWER]
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
    if not kept and not (include or exclude):
        raise UsageError(
            "No weight here is one that a placement may propose: all are never proposed, such as "
            f"{sites[0].name} ({sites[0].rule}). Name what to score all the same with --include."
        )
    if not kept:
        raise UsageError("--include and --exclude together leave no module to score.")
    return kept


def _refuse_tied(model: nn.Module, sites: Sequence[Site], include: Sequence[str]) -> None:
    """Refuse a pattern that matches only a module with a tied weight, such as an output head.

    Raises:
        UsageError: There is such a pattern; the message names both modules.
    """
    owners: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        module = name.rpartition(".")[0]
        owner = owners.setdefault(id(parameter), module)
        for pattern in include if owner != module else ():
            names = (module, module.rpartition(".")[2])
            named = any(fnmatch.fnmatchcase(text, _literal(pattern)) for text in names)
            if named and not any(_matches(site, [pattern]) for site in sites):
                raise UsageError(
                    f"{module} shares its weight with {owner} (tied), so it has no score of its "
                    f"own. Leave {pattern!r} out: PEFT would adapt the output alone, and merging "
                    "that adapter would change both."
                )


def _mixes(site: Site) -> bool:
    """Return whether a site is one of several in a weight that is sharded over processes."""
    several = site.part is not None or site.operator is None
    return several and is_sharded(site.module)


def _matches(site: Site, patterns: Iterable[str]) -> bool:
    """Return whether a pattern matches the name or type of a site or of its host."""
    names = {site.name, site.type, site.host.name, site.host.type}
    return any(fnmatch.fnmatchcase(name, _literal(p)) for name in names for p in patterns)


def _literal(pattern: str) -> str:
    """Escape brackets, as in `qkv_proj[q]`, so that they do not denote a set of letters."""
    return pattern.replace("[", "[[]")
