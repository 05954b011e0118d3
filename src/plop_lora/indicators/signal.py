"""Measure an indicator on the model to be trained, with its time and memory.

Such an indicator supports weights of modules or stacks of experts, in floating point and on one
device. A weight that it does not support has no value, which is not the same as a low one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plop_lora.errors import DataError, MeasurementError, ModelError, UsageError, nearest
from plop_lora.indicators.kinds import Inputs, OfModels
from plop_lora.indicators.registry import INDICATORS
from plop_lora.models.memory import peak_memory, reset_peak_memory
from plop_lora.records import Host

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Signal:
    """The values of an indicator, and what it cost to measure them.

    Attributes:
        name: Name of the indicator.
        values: Value of each host by name; a host that the indicator does not support is absent.
        are_ranks: Whether the values are LoRA ranks rather than an order.
        seconds: Wall time in seconds.
        peak_memory: Peak memory in bytes: of the accelerator if the model is on one, else of the
            process since its start.
        notes: Notes on the hosts without a value.
    """

    name: str
    values: Mapping[str, float]
    are_ranks: bool
    seconds: float
    peak_memory: int
    notes: tuple[str, ...] = ()


def measure_signal(
    name: str,
    model: nn.Module,
    batches: Sequence[Inputs],
    hosts: Sequence[Host],
    *,
    rank: int = 16,
) -> Signal:
    """Measure an indicator on a loaded model, with its time and memory.

    Args:
        name: Name of an indicator that is measured on a model.
        model: Loaded model with its weights on one device, whose state is restored afterwards.
        batches: Batches from `batches_of`. `gradient` uses the first, `eva` repeats all until it
            has converged, `kappa` uses none.
        hosts: Weights that may carry an adapter (`Scores.hosts`).
        rank: Mean LoRA rank that `eva` distributes over the weights.

    Raises:
        UsageError: There is no such indicator, or it is one that `score` records.
        DataError: The indicator needs a batch, and there is none.
        ModelError: The indicator does not support this model or any of the hosts.
        MeasurementError: A value is not finite, or EVA does not converge.
    """
    measure = _of_models(name)
    if measure.takes_batches and not batches:
        needs = INDICATORS[name].needs
        raise DataError(f"The indicator {name!r} needs {needs}, and there is no batch.")
    prefix = _prefix(model, hosts)
    there = [dataclasses.replace(host, name=prefix + host.name) for host in hosts]
    device = str(next(iter(model.parameters())).device)
    start = time.perf_counter()
    reset_peak_memory(device)
    found = measure.per_host(model, batches, there, rank)
    values = {name.removeprefix(prefix): value for name, value in found.items()}
    seen = {host.name: values[host.name] for host in hosts if host.name in values}
    _check(name, seen)
    unseen = [host.type for host in hosts if host.name not in seen]
    return Signal(
        name=name,
        values=seen,
        are_ranks=measure.are_ranks,
        seconds=time.perf_counter() - start,
        peak_memory=peak_memory(device),
        notes=_unseen_note(name, unseen, measure.are_ranks),
    )


def _of_models(name: str) -> OfModels:
    rows = {key: row.measure for key, row in INDICATORS.items()}
    measured = {key: kind for key, kind in rows.items() if isinstance(kind, OfModels)}
    if name not in measured:
        raise UsageError(
            f"There is no indicator {name!r} that is measured on a loaded model."
            f"{nearest(name, measured)} Allowed: {', '.join(measured)}."
        )
    return measured[name]


def _prefix(model: nn.Module, hosts: Sequence[Host]) -> str:
    """Return the prefix of the hosts' names in a model that has a head around the scored body."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    names = {name for name, _ in model.named_modules()} | {n for n, _ in model.named_parameters()}
    inside = any(host.name in names for host in hosts)
    return "" if inside or not any(prefix + host.name in names for host in hosts) else prefix


def _check(name: str, values: Mapping[str, float]) -> None:
    if not values:
        raise ModelError(
            f"The indicator {name!r} sees none of the weights that could carry an adapter. "
            f"Leave out the arm {name!r}."
        )
    wrong = [host for host, value in values.items() if not abs(value) < float("inf")]
    if wrong:
        raise MeasurementError(
            f"The indicator {name!r} gives {wrong[0]} the value {values[wrong[0]]}. Is the loss "
            "finite in this dtype? Load the model in float32 or bfloat16."
        )


def _unseen_note(name: str, unseen: Sequence[str], are_ranks: bool) -> tuple[str, ...]:
    if not unseen:
        return ()
    types = ", ".join(dict.fromkeys(unseen))
    what = "no rank" if are_ranks else "no signal"
    return (f"{name}: {what} for {len(unseen)} weights ({types})",)
