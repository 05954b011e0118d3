"""Signals other than NFN that say where adapters should go, each with what it took.

A selector reads a loaded model, and for most a few batches, and gives every weight that could
carry an adapter a number: higher is adapted first. `eva` gives LoRA ranks instead. What PEFT has
is PEFT's own: this file calls it and maps its answer to the weights of the record.

Selectors see weights that are modules or stacks of experts in floating point, at home on one
device; what they cannot see has no signal, which is not the same as a low one.

torch and peft are imported where they are used. Shape letters: B batch, T token.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plop_lora.errors import DataError, MeasurementError, ModelError, UsageError, nearest
from plop_lora.models.memory import peak_memory, reset_peak_memory
from plop_lora.records import Host
from plop_lora.verification.batches import IGNORED, Inputs

if TYPE_CHECKING:
    import torch
    from torch import nn

RHO = 2.0
"""PEFT's default: a weight may get up to twice the mean rank."""
_MOST_FORWARDS = 200


@dataclass(frozen=True, slots=True)
class Signal:
    """What a selector found and what it took.

    Attributes:
        name: of the selector.
        values: host name → value; a host that the selector cannot see is absent.
        are_ranks: whether the values are LoRA ranks rather than an order.
        seconds: wall time.
        peak_memory: bytes, of the accelerator where the model is on one, else the most that the
            process has held so far.
        notes: what was not seen.
    """

    name: str
    values: Mapping[str, float]
    are_ranks: bool
    seconds: float
    peak_memory: int
    notes: tuple[str, ...] = ()


Select = Callable[["nn.Module", Sequence[Inputs], Sequence[Host], int], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Selector:
    """One row of the registry."""

    name: str
    select: Select
    description: str
    source: str
    needs: str
    memory: str
    are_ranks: bool = False


def measure_signal(
    name: str,
    model: nn.Module,
    batches: Sequence[Inputs],
    hosts: Sequence[Host],
    *,
    rank: int = 16,
) -> Signal:
    """Run a selector and take its time.

    Args:
        name: a key of `SELECTORS`.
        model: loaded, with its weights on one device; it comes back as it was.
        batches: from `batches_of`; `gradient` takes the first, `eva` goes round until it has
            converged, `kappa` takes none.
        hosts: the weights that may carry an adapter (`Scores.hosts`).
        rank: mean LoRA rank that `eva` shares out.

    Raises:
        UsageError: no such selector.
        DataError: it needs a batch and there is none.
        ModelError: the selector cannot read this model, or sees none of the hosts.
        MeasurementError: a value that is not finite, or EVA that does not converge.
    """
    if name not in SELECTORS:
        raise UsageError(
            f"There is no selector {name!r}.{nearest(name, SELECTORS)} "
            f"Allowed: {', '.join(SELECTORS)}."
        )
    row = SELECTORS[name]
    if row.needs != "weights" and not batches:
        raise DataError(f"The selector {name!r} needs {row.needs}, and there is no batch.")
    prefix = _prefix(model, hosts)
    there = [dataclasses.replace(host, name=prefix + host.name) for host in hosts]
    device = str(next(iter(model.parameters())).device)
    start = time.perf_counter()
    reset_peak_memory(device)
    found = row.select(model, batches, there, rank)
    values = {name.removeprefix(prefix): value for name, value in found.items()}
    seen = {host.name: values[host.name] for host in hosts if host.name in values}
    _check(name, seen)
    unseen = [host.type for host in hosts if host.name not in seen]
    return Signal(
        name=name,
        values=seen,
        are_ranks=row.are_ranks,
        seconds=time.perf_counter() - start,
        peak_memory=peak_memory(device),
        notes=_unseen_note(name, unseen, row.are_ranks),
    )


# --------------------------------------------------------------------------- gradient


def gradient_norms(
    model: nn.Module, batches: Sequence[Inputs], hosts: Sequence[Host], rank: int = 16
) -> dict[str, float]:
    """Return the Frobenius norm of the loss's gradient in each weight, from the first batch.

    Each gradient is measured and freed as soon as it is there, so that beside the activations
    only one lives at a time. A stack of experts counts as one weight.

    Raises:
        ModelError: the model gives no loss for the batch, or no weight can have a gradient.
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
    """Return the weights of hosts that can have a gradient; a host is a module or a parameter."""
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
    """Let only these weights have gradients, in eval mode, and put everything back."""
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


# --------------------------------------------------------------------------- PEFT's own


def kappa_order(
    model: nn.Module, batches: Sequence[Inputs], hosts: Sequence[Host], rank: int = 16
) -> dict[str, float]:
    """Return where each weight stands in PEFT's order of condition numbers, lowest first.

    PEFT orders modules and stacks of experts apart and takes the same share of both, so the
    value is minus the place in its list over the length of that list: 0 is taken first.

    Raises:
        ModelError: PEFT's selector reads none of the hosts.
    """
    from peft.helpers import KappaTuneSelector

    _at_home(model, "kappa")
    stacks = {host.name for host in hosts if host.is_parameter}
    suffixes = tuple(sorted({"." + name.rsplit(".", 1)[-1] for name in stacks}))
    selector = KappaTuneSelector(
        model,
        # Its default passes over wide projections; this reads all hosts and not the output head.
        max_dim_size_to_analyze=max(max(h.in_features, h.out_features) for h in hosts),
        moe_param_suffixes=suffixes or None,
        show_progress=False,
    )
    modules = {host.name for host in hosts} - stacks
    values: dict[str, float] = {}
    for names, wanted in (
        (selector.get_best_targets(), modules),
        (selector.get_best_target_parameters(), stacks),
    ):
        listed = [name for name in names if name in wanted]
        values |= {name: -order / len(listed) for order, name in enumerate(listed)}
    if not values:
        raise ModelError(
            "PEFT's KappaTune reads torch.nn.Linear and stacks of experts, and this model's "
            "weights are none of them. Leave out the arm 'kappa'."
        )
    return values


def eva_ranks(
    model: nn.Module, batches: Sequence[Inputs], hosts: Sequence[Host], rank: int = 16
) -> dict[str, float]:
    """Return the LoRA ranks that PEFT's EVA gives, from the explained variance of the inputs.

    A weight that EVA gives rank 0 is absent. The mean rank is lowered where a batch has too few
    tokens, or a weight too few inputs, for as many components as EVA compares.

    Raises:
        ModelError: EVA reads none of the hosts, or not the inputs of this architecture.
        MeasurementError: it has not converged after 200 batches, gone round as often as needed.
    """
    from peft import EvaConfig, LoraConfig
    from peft.tuners.lora.eva import get_eva_state_dict

    _at_home(model, "eva")
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
                forward_fn=_bounded_forward(),
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
    """Leave out labels that are classes: EVA takes labels for those of tokens."""
    of_tokens = "labels" in batch and batch["labels"].shape == batch["attention_mask"].shape
    return dict(batch) if of_tokens else {k: v for k, v in batch.items() if k != "labels"}


def _counted(batch: Inputs) -> Any:
    """Return which tokens EVA counts: those with a label, or all that are no padding."""
    mask_BT = batch["attention_mask"].bool()
    return mask_BT & (batch["labels"] != IGNORED) if "labels" in batch else mask_BT


def _bounded_forward() -> Callable[[nn.Module, Inputs], Any]:
    """Return a forward that gives up: EVA itself would go round its batches for ever."""
    calls = 0

    def forward(model: nn.Module, inputs: Inputs) -> Any:
        nonlocal calls
        calls += 1
        if calls > _MOST_FORWARDS:
            raise MeasurementError(
                f"PEFT's EVA has not converged after {_MOST_FORWARDS} batches. Give it larger "
                "batches or a lower rank, or leave out the arm 'eva'."
            )
        return model(**{key: value for key, value in inputs.items() if key != "labels"})

    return forward


def _remove_eva_hooks(model: nn.Module) -> None:
    """Remove what EVA leaves behind where it fails."""
    from peft.tuners.lora.eva import HashHook, SVDHook

    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, HashHook | SVDHook):
                del module._forward_hooks[key]


@contextlib.contextmanager
def _peft_quiet() -> Iterator[None]:
    """Send what PEFT prints to stderr, since stdout is for data, and drop its warnings."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --------------------------------------------------------------------------- helpers


def _prefix(model: nn.Module, hosts: Sequence[Host]) -> str:
    """Return what the names of a scored body lack where the model has a head around it."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    names = {name for name, _ in model.named_modules()} | {n for n, _ in model.named_parameters()}
    inside = any(host.name in names for host in hosts)
    return "" if inside or not any(prefix + host.name in names for host in hosts) else prefix


def _at_home(model: nn.Module, name: str) -> None:
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        raise ModelError(
            f"The selector {name!r} needs every weight at hand, and some are offloaded. Load the "
            f"whole model on one device, or leave out the arm {name!r}."
        )


def _check(name: str, values: Mapping[str, float]) -> None:
    if not values:
        raise ModelError(
            f"The selector {name!r} sees none of the weights that could carry an adapter. "
            f"Leave out the arm {name!r}."
        )
    wrong = [host for host, value in values.items() if not abs(value) < float("inf")]
    if wrong:
        raise MeasurementError(
            f"The selector {name!r} gives {wrong[0]} the value {values[wrong[0]]}. Is the loss "
            "finite in this dtype? Load the model in float32 or bfloat16."
        )


def _unseen_note(name: str, unseen: Sequence[str], are_ranks: bool) -> tuple[str, ...]:
    if not unseen:
        return ()
    types = ", ".join(dict.fromkeys(unseen))
    what = "no rank" if are_ranks else "no signal"
    return (f"{name}: {what} for {len(unseen)} weights ({types})",)


SELECTORS: dict[str, Selector] = {
    row.name: row
    for row in (
        Selector(
            name="gradient",
            select=gradient_norms,
            description="the norm of the loss's gradient in one batch, highest first",
            source="a baseline; gradient-based placement as in GoRA, arXiv 2502.12171",
            needs="a batch with labels",
            memory="a training step's activations and one gradient",
        ),
        Selector(
            name="kappa",
            select=kappa_order,
            description="PEFT's KappaTune: condition number of the weight, lowest first",
            source="KappaTune, arXiv 2506.16289; peft.helpers.KappaTuneSelector",
            needs="weights",
            memory="a float32 copy of one weight",
        ),
        Selector(
            name="eva",
            select=eva_ranks,
            description="PEFT's EVA: ranks by the explained variance of the inputs",
            source="EVA, arXiv 2410.07170; peft.tuners.lora.eva.get_eva_state_dict",
            needs="batches",
            memory="a forward and 2 × rank directions an input",
            are_ranks=True,
        ),
    )
}
"""Name → selector. Direction: higher values are adapted first; `eva` gives ranks."""
