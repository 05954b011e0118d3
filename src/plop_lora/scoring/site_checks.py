"""Check the sites of a model before measuring them: which can learn, and how they are sliced.

One short text runs through the model with the autograd graph recorded, and a long one if some
modules take no part in the short one. A weight that no gradient reaches from the output (an indexer
that runs without a graph, a top-k selection) cannot be trained and is never proposed. The graph is
only traversed and its saved tensors are dropped, so the check needs the memory of a forward pass.

The slices of a fused projection are tested on the module that owns it: with the rows of v set to
zero, the output of its attention must not depend on the other rows. If it does, the assumed layout
is wrong, and the weight gets one score. A layout that cannot be tested is assumed to be right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from plop_lora.data.batches import Batch
from plop_lora.models.devices import home_of, sent
from plop_lora.scoring.engines.in_memory import body_of, evaluating
from plop_lora.scoring.measurement.padding import width_of
from plop_lora.scoring.sites.find import Site, SiteMap, refine

_SILENT = "v"
"""Slice that makes the other slices of its weight irrelevant when it is zero. The slices of an MLP
are not tested: gpt-oss and others multiply by up + 1, which is not zero when up is."""
_TOLERANCE = 1e-3
"""Difference that rounding can explain, relative to the largest entry."""
_RESULTS = ("last_hidden_state", "logits")
"""Outputs from which a loss is computed; if a model has neither, all of its outputs are used."""

NOT_TRIED = (
    "what can learn, and how fused weights are cut, was read from the model's code and not tried, "
    "since its weights were not in memory"
)

Call = tuple[tuple[Any, ...], dict[str, Any]]


def check_sites(
    model: nn.Module, found: SiteMap, batches: Sequence[Batch], *, asked: bool = False
) -> tuple[SiteMap, tuple[str, ...]]:
    """Return the sites after the checks, and notes for the record.

    Args:
        model: The loaded model. A skeleton without weights is not checked.
        found: The sites from `find_sites(model)`.
        batches: The batches that will be measured, of which a short text is run.
        asked: Whether --include names the sites. Sites that cannot learn are then still scored.
    """
    if not batches:
        return found, ()
    if any(tensor.is_meta for tensor in model.parameters()):
        return found, (NOT_TRIED,)
    shortest, longest = _shortest_and_longest(batches)
    try:
        with evaluating(model), torch.inference_mode(False):
            reached, calls = _run(model, found.sites, shortest.inputs)
            if not all(reached.values()) and width_of(longest) > width_of(shortest):
                # Modules that compress many tokens (DeepSeek-V4) do nothing on a short text.
                further, _ = _run(model, found.sites, longest.inputs)
                reached = {
                    one: learns or further.get(one, False) for one, learns in reached.items()
                }
            wrong = {
                name
                for name, (site, call) in calls.items()
                if not _silenced(_owner(model, site), site, call)
            }
    except Exception as error:  # if the model cannot run, measuring it raises a clear error
        return found, (f"what can learn was not looked at: {type(error).__name__}",)
    stuck = frozenset(module for module, learns in reached.items() if not learns)
    if len(stuck) == len(reached):
        return found, ("no gradient passes this model at all, so what can learn is not known",)
    return refine(found, stuck, _alike(model, found, wrong), keep=asked), ()


def _shortest_and_longest(batches: Sequence[Batch]) -> tuple[Batch, Batch]:
    """Return one row of the narrowest batch and one of the widest.

    A batch that cannot be split is returned whole.
    """
    ends = (min(batches, key=width_of), max(batches, key=width_of))
    short, long = (
        batch if len(batch.names) > 1 and not batch.can_split() else batch.part(0, 1)
        for batch in ends
    )
    return short, long


# --------------------------------------------------------------------------- gradients


def _run(
    model: nn.Module, sites: Sequence[Site], inputs: Mapping[str, object]
) -> tuple[dict[nn.Module, bool], dict[str, tuple[Site, Call]]]:
    """Run one row of the data through the model.

    Returns:
        Whether a gradient reaches each module, and the calls of the modules that own a fused
        projection, by the name of the projection.
    """
    marks: dict[int, tuple[torch.Tensor, nn.Module]] = {}
    calls: dict[str, tuple[Site, Call]] = {}
    device = home_of(model)
    given = {k: sent(v, device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    with contextlib.ExitStack() as stack:
        for module in {site.module: None for site in sites if site.eligible}:
            stack.enter_context(_marked(module, marks))
        for site in _tried(model, sites):
            stack.enter_context(_caught(model, site, calls))
        stack.enter_context(
            torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda kept: kept)
        )
        stack.enter_context(torch.enable_grad())
        output = stack.enter_context(body_of(model, sites))(**given)
    reached = _leaves(list(_results(output)))
    learns: dict[nn.Module, bool] = {}
    for key, (_, module) in marks.items():
        learns[module] = learns.get(module, False) or key in reached
    return learns, calls


@contextlib.contextmanager
def _marked(module: nn.Module, marks: dict[int, tuple[torch.Tensor, nn.Module]]) -> Iterator[None]:
    """Add a zero that requires a gradient to the output of a module, a new one for every call."""

    def add(value: object) -> Any:
        if isinstance(value, tuple):
            return tuple(add(item) for item in value)
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        mark = torch.zeros((), dtype=value.dtype, device=value.device, requires_grad=True)
        marks[id(mark)] = (mark, module)
        return value + mark

    handle = module.register_forward_hook(lambda one, arguments, output: add(output))
    try:
        yield
    finally:
        handle.remove()


def _results(output: object) -> Iterator[torch.Tensor]:
    """Yield the outputs from which a loss would be computed."""
    if isinstance(output, torch.Tensor):
        if output.requires_grad:
            yield output
    elif isinstance(output, Mapping):
        main = [output[name] for name in _RESULTS if output.get(name) is not None]
        for value in main or output.values():
            yield from _results(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _results(value)


def _leaves(tensors: Sequence[torch.Tensor]) -> set[int]:
    """Return the ids of the leaf tensors of the autograd graph of some tensors."""
    nodes: list[Any] = [tensor.grad_fn for tensor in tensors]
    seen: set[object] = set()
    found: set[int] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        nodes += [following for following, _ in node.next_functions]
    return found


# --------------------------------------------------------------------------- slices


def _tried(model: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """Return the v slice of one weight for each pair of owner class and type."""
    first: dict[tuple[type, str], Site] = {}
    for site in sites:
        if site.part is not None and site.operator is not None and site.part.name == _SILENT:
            first.setdefault((type(_owner(model, site)), site.host.type), site)
    return list(first.values())


def _owner(model: nn.Module, site: Site) -> nn.Module:
    return model.get_submodule(site.host.name.rpartition(".")[0])


@contextlib.contextmanager
def _caught(model: nn.Module, site: Site, calls: dict[str, tuple[Site, Call]]) -> Iterator[None]:
    """Record the arguments with which the owner of a fused projection is called."""

    def keep(module: nn.Module, arguments: tuple[object, ...], options: dict[str, object]) -> None:
        calls[site.host.name] = (site, (_detached(arguments), _detached(options)))

    handle = _owner(model, site).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _detached(value: object) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, tuple | list):
        return type(value)(_detached(item) for item in value)
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    return value


def _silenced(owner: nn.Module, site: Site, call: Call) -> bool:
    """Return whether the output is independent of the other slices while this one is zero."""
    part = site.part
    assert part is not None
    outputs = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)

        def replace(
            module: nn.Module, arguments: object, output: torch.Tensor,
            generator: torch.Generator = generator,
        ) -> torch.Tensor:  # fmt: skip
            drawn = torch.randn(output.shape, generator=generator).to(output)
            part.of_output(drawn).zero_()
            return drawn

        handle = site.module.register_forward_hook(replace)
        try:
            with torch.no_grad():
                result = owner(*_detached(call[0]), **_detached(call[1]))
        finally:
            handle.remove()
        outputs.append(result[0] if isinstance(result, tuple | list) else result)
    first, second = (output.float() for output in outputs)
    scale = float(first.abs().max()) or 1.0
    return bool((first - second).abs().max() <= _TOLERANCE * scale)


def _alike(model: nn.Module, found: SiteMap, wrong: set[str]) -> frozenset[str]:
    """Return the weights with the owner class and type of a weight whose test failed."""
    kinds = {
        (type(_owner(model, site)), site.host.type)
        for site in found.sites
        if site.host.name in wrong
    }
    return frozenset(
        site.host.name
        for site in found.sites
        if site.part is not None
        and site.operator is not None
        and (type(_owner(model, site)), site.host.type) in kinds
    )
