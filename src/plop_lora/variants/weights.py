"""Variants of the weights, made on a copy: the user's model is never written to.

Quantisation is simulated: weights are rounded to the nearest of the levels that so many bits have,
with one scale for each row, and computed with in the model's own dtype. Kernels that compute with
packed weights round in blocks and also activations, so their scores differ a little from these.

Shape letters: E expert, O out, I in.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from plop_lora.models.capacity import available_memory, device_memory
from plop_lora.models.devices import home_of
from plop_lora.scoring.sites.find import Site
from plop_lora.scoring.sites.operators import DenseOperator
from plop_lora.scoring.sites.stacked_experts import stack_of
from plop_lora.variants.unavailable import UnavailableError

Change = Callable[[torch.Tensor], torch.Tensor]
PRUNED_SHARE = 0.5


def check_copy(model: nn.Module) -> None:
    """Refuse to copy a model whose weights are not in memory, or that would not fit twice.

    Raises:
        UnavailableError: The weights stay on disk, or the memory left is smaller than the model.
    """
    if any(tensor.is_meta for tensor in model.parameters()):
        raise UnavailableError("the weights are read from disk block by block, and are not changed")
    needed = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    home = home_of(model)
    free = available_memory() if home.type == "cpu" else device_memory(home)
    if free is not None and needed > free:
        raise UnavailableError(
            f"a copy of the weights takes {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of "
            "memory are free"
        )


def copied(model: nn.Module, sites: Sequence[Site]) -> tuple[nn.Module, tuple[Site, ...]]:
    """Return a copy of a model, and its sites."""
    known: dict[int, object] = {}
    twin = copy.deepcopy(model, known)
    return twin, tuple(
        dataclasses.replace(
            site,
            module=copy.deepcopy(site.module, known),
            operator=copy.deepcopy(site.operator, known),
        )
        for site in sites
    )


def check_writable_weights(sites: Sequence[Site]) -> None:
    """Refuse weights that cannot be rounded or pruned.

    Raises:
        UnavailableError: A weight is quantised already, or spread over processes.
    """
    for site in sites:
        if next(_matrices(site), None) is None:
            raise UnavailableError(
                f"the weight of {site.name} is quantised already, or is spread over processes"
            )


def change_weights(sites: Sequence[Site], change: Change) -> None:
    """Change the weight of each site in place, once for each host; the sites are those of a copy.

    Args:
        sites: Sites of the copy.
        change: Function from a matrix [O, I] in float32 to the new one.
    """
    done: set[str] = set()
    with torch.no_grad():
        for site in sites:
            if site.host.name in done:
                continue
            done.add(site.host.name)
            for weight_OI in _matrices(site):
                weight_OI.copy_(change(weight_OI.float()))


def _matrices(site: Site) -> Iterator[torch.Tensor]:
    """Yield the weight of a site as [O, I], one for each expert; nothing for a packed one."""
    if site.operator is None:
        stack = stack_of(site.module)
        if stack is not None:
            yield from stack.weights_EOI(site.host.name.rpartition(".")[2]).detach().unbind(0)
    elif isinstance(site.operator, DenseOperator):
        yield site.operator.weight_OI().detach()


def rounded_to(bits: int) -> Change:
    """Return a function that rounds each row to the nearest of `2 ** bits - 1` levels around 0."""
    levels = 2 ** (bits - 1) - 1

    def change(weight_OI: torch.Tensor) -> torch.Tensor:
        scale_O1 = weight_OI.abs().amax(dim=1, keepdim=True) / levels
        safe_O1 = torch.where(scale_O1 > 0, scale_O1, torch.ones_like(scale_O1))
        rounded_OI: torch.Tensor = (weight_OI / safe_O1).round() * scale_O1
        return rounded_OI

    return change


def pruned(weight_OI: torch.Tensor) -> torch.Tensor:
    """Return a matrix in which the smaller half of the entries is zero."""
    count = int(PRUNED_SHARE * weight_OI.numel())
    if not count:
        return weight_OI
    limit = weight_OI.abs().flatten().kthvalue(count).values
    return torch.where(weight_OI.abs() <= limit, torch.zeros_like(weight_OI), weight_OI)


def merge(model: nn.Module, sites: Sequence[Site], adapter: Path, name: str) -> None:
    """Merge a trained adapter into a copy of its base.

    Args:
        model: The copy.
        sites: Sites of the copy, whose modules stay in place.
        adapter: Folder of the adapter.
        name: Name of the base, for errors.

    Raises:
        AdapterError: PEFT cannot load the adapter on this base.
        UnavailableError: The adapter changes none of the scored weights.
    """
    from peft import PeftModel

    from plop_lora.training.adapters import loading_adapter

    before = [_fingerprint(site) for site in sites]
    with loading_adapter(adapter, name):
        PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    if [_fingerprint(site) for site in sites] == before:
        raise UnavailableError("the adapter changes none of the scored weights")


def _fingerprint(site: Site) -> list[float]:
    return [float(weight_OI.double().square().sum()) for weight_OI in _matrices(site)]
