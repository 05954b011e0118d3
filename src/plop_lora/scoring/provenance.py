"""The provenance of a score: its data, versions, device, settings, time and memory."""

from __future__ import annotations

import datetime
import platform
from collections import Counter
from importlib import metadata

import torch
from torch import nn

from plop_lora._version import __version__
from plop_lora.data.tokens import fingerprint
from plop_lora.models.devices import home_of
from plop_lora.models.memory import peak_memory
from plop_lora.records import Provenance
from plop_lora.scoring.measurement.collect import Measured

_VERSIONED = ("torch", "transformers", "numpy")


def provenance_of(
    source: str,
    measured: Measured,
    model: nn.Module,
    *,
    seed: int,
    denominator: str,
    settings: dict[str, object],
    elapsed: float,
) -> Provenance:
    """Return the provenance of a measurement of `model` on `source`."""
    device, dtype = _kind(model)
    return Provenance(
        data=source,
        data_fingerprint=fingerprint(measured.names),
        plop_version=__version__,
        versions={"python": platform.python_version()}
        | {package: metadata.version(package) for package in _VERSIONED},
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        seed=seed,
        denominator=denominator,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        elapsed_seconds=round(elapsed, 3),
        peak_memory_bytes=peak_memory(str(device)),
        settings=settings,
    )


def _kind(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device of a model and the floating dtype of most of its parameters.

    Packed quantised weights are stored as integers, which are not the dtype of the computation:
    their layers compute in the dtype of the parameters that are not packed, or in the dtype that
    the configuration names.
    """
    sizes: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.element_size() > 1:
            sizes[parameter.dtype] += parameter.numel()
    if sizes:
        return home_of(model), sizes.most_common(1)[0][0]
    declared = getattr(getattr(model, "config", None), "dtype", None)
    first = next(model.parameters()).dtype
    return home_of(model), declared if isinstance(declared, torch.dtype) else first
