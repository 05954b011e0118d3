"""PEFT's EVA: LoRA ranks by the explained variance of the inputs. Imports torch and peft lazily.

Shape letters: B batch, T token.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from plop_lora.errors import MeasurementError, ModelError
from plop_lora.indicators.kappatune import at_home
from plop_lora.indicators.kinds import IGNORED, Inputs
from plop_lora.records import Host

if TYPE_CHECKING:
    from torch import nn

RHO = 2.0
"""Maximum rank of a weight as a multiple of the mean rank; PEFT's default."""


def eva_ranks(
    model: nn.Module,
    batches: Sequence[Inputs],
    hosts: Sequence[Host],
    rank: int = 16,
    *,
    max_forwards: int = 200,
) -> dict[str, float]:
    """Return the LoRA ranks that PEFT's EVA gives, from the explained variance of the inputs.

    A weight that EVA gives rank 0 is absent. The mean rank is lowered if a batch has too few
    tokens, or a weight too few inputs, for the number of components that EVA compares.

    Args:
        model: The loaded model, whose state is restored afterwards.
        batches: Inputs, which are repeated until EVA has converged.
        hosts: Weights that may carry an adapter.
        rank: Mean LoRA rank that EVA distributes over the weights.
        max_forwards: Maximum number of forward passes.

    Raises:
        ModelError: EVA supports none of the hosts, or not the inputs of this architecture.
        MeasurementError: EVA has not converged after `max_forwards` batches.
    """
    from peft import EvaConfig, LoraConfig
    from peft.tuners.lora.eva import get_eva_state_dict

    at_home(model, "eva")
    kinds = _eva_kinds()
    modules = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    names = [host.name for host in hosts if host.name in modules]
    if not names:
        raise ModelError(
            "PEFT's EVA reads torch.nn.Linear and Conv1D, and this model's weights are neither. "
            "Leave out the arm 'eva'."
        )
    batches = [_for_eva(batch) for batch in batches]
    tokens = min(int(_counted(batch).sum()) for batch in batches)
    inputs = min(host.in_features for host in hosts if host.name in modules)
    mean_rank = max(1, min(rank, int(min(tokens, inputs) / RHO)))
    config = LoraConfig(
        r=mean_rank,
        target_modules=names,
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=RHO),
    )
    training = model.training
    with _peft_quiet():
        try:
            found = get_eva_state_dict(
                model,
                list(batches),
                config,
                forward_fn=_bounded_forward(max_forwards),
                show_progress_bar=False,
            )
        except (ValueError, TypeError, IndexError, RuntimeError) as error:
            raise ModelError(
                f"PEFT's EVA cannot read {type(model).__name__}: {error}. Leave out the arm 'eva'."
            ) from error
        finally:
            _remove_eva_hooks(model)
            model.train(training)
    return {name: float(len(components)) for name, components in found.items() if len(components)}


def _eva_kinds() -> tuple[type, ...]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return nn.Linear, Conv1D


def _for_eva(batch: Inputs) -> Inputs:
    """Remove labels that are classes, because EVA assumes one label per token."""
    of_tokens = "labels" in batch and batch["labels"].shape == batch["attention_mask"].shape
    return dict(batch) if of_tokens else {k: v for k, v in batch.items() if k != "labels"}


def _counted(batch: Inputs) -> Any:
    """Return which tokens EVA counts: those with a label, or without labels all but padding."""
    mask_BT = batch["attention_mask"].bool()
    return mask_BT & (batch["labels"] != IGNORED) if "labels" in batch else mask_BT


def _bounded_forward(max_forwards: int) -> Callable[[nn.Module, Inputs], object]:
    """Return a forward with a limited number of calls, because EVA would repeat batches forever."""
    calls = 0

    def forward(model: nn.Module, inputs: Inputs) -> Any:
        nonlocal calls
        calls += 1
        if calls > max_forwards:
            raise MeasurementError(
                f"PEFT's EVA has not converged after {max_forwards} batches. Give it larger "
                "batches or a lower rank, or leave out the arm 'eva'."
            )
        return model(**{key: value for key, value in inputs.items() if key != "labels"})

    return forward


def _remove_eva_hooks(model: nn.Module) -> None:
    """Remove the hooks that EVA leaves in place if it fails."""
    from peft.tuners.lora.eva import HashHook, SVDHook

    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, HashHook | SVDHook):
                del module._forward_hooks[key]


@contextlib.contextmanager
def _peft_quiet() -> Iterator[None]:
    """Redirect PEFT's output to stderr, because stdout is for data, and suppress its warnings."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
