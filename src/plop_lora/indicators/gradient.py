"""The norm of the gradient of the loss with respect to each weight. Imports torch lazily."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from plop_lora.errors import ModelError
from plop_lora.indicators.kinds import Inputs
from plop_lora.records import Host

if TYPE_CHECKING:
    import torch
    from torch import nn


def gradient_norms(
    model: nn.Module, batches: Sequence[Inputs], hosts: Sequence[Host], rank: int = 16
) -> dict[str, float]:
    """Return the Frobenius norm of the gradient of each weight on the first batch.

    Each gradient is freed as soon as its norm is computed, so only one is in memory at a time. A
    stack of experts counts as one weight.

    Raises:
        ModelError: The model returns no loss for the batch, or no weight can have a gradient.
    """
    weights = _weights(model, hosts)
    if not weights:
        raise ModelError(
            "No weight of this model can have a gradient (quantised or offloaded). Leave out the "
            "arm 'gradient', or load the model in float32 or bfloat16 on one device."
        )
    norms: dict[str, float] = {}

    def record(name: str) -> Callable[[torch.Tensor], None]:
        def measure_and_free(weight: torch.Tensor) -> None:
            if weight.grad is not None:
                norms[name] = float(weight.grad.float().norm())
                weight.grad = None

        return measure_and_free

    with _only_trainable(model, weights.values()), contextlib.ExitStack() as hooks:
        for name, weight in weights.items():
            # torch has no types for this hook.
            handle = weight.register_post_accumulate_grad_hook(record(name))  # type: ignore[no-untyped-call]
            hooks.callback(handle.remove)
        loss = getattr(model(**batches[0]), "loss", None)
        if loss is None:
            raise ModelError(
                f"{type(model).__name__} gives no loss, so there is no gradient: load it with "
                "the head of its task, or leave out the arm 'gradient'."
            )
        loss.backward()
    return norms


def _weights(model: nn.Module, hosts: Sequence[Host]) -> dict[str, nn.Parameter]:
    """Return the weights of the hosts, modules or parameters, that can have a gradient."""
    parameters = dict(model.named_parameters())
    found = {}
    for host in hosts:
        weight = parameters.get(host.name if host.is_parameter else f"{host.name}.weight")
        if weight is None or not weight.is_floating_point() or weight.device.type == "meta":
            continue
        found[host.name] = weight
    return found


@contextlib.contextmanager
def _only_trainable(model: nn.Module, weights: Any) -> Iterator[None]:
    """Enable gradients for the given weights only, in eval mode; restore the model afterwards."""
    import torch

    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    kept = {parameter: parameter.grad for parameter in before}
    training = model.training
    try:
        for parameter in before:
            parameter.requires_grad_(False)
            parameter.grad = None
        for weight in weights:
            weight.requires_grad_(True)
        model.eval()
        with torch.enable_grad():
            yield
    finally:
        model.train(training)
        for parameter, required in before.items():
            parameter.requires_grad_(required)
            parameter.grad = kept[parameter]
