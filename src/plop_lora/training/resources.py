"""The resources that a trial used: time by part, devices, memory and versions.

Imports torch only when a device is queried. Peak memory without an accelerator is that of the
process since its start, or since its fork. Every trial has a process of its own, so it is that of
the trial; the pages that a fork shares with the process it came from count in full.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from plop_lora._version import __version__
from plop_lora.launcher import process_count
from plop_lora.models.memory import peak_memory, reset_peak_memory
from plop_lora.records import TrialCost

TRAIN, EVALUATE = "train", "evaluate"
_CPU_MODEL = Path("/proc/cpuinfo")


class Meter:
    """Measures seconds by part of the work, and the wall time since its creation."""

    def __init__(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to the named part, however the block ends."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - started

    def cost(self, device: str, tokens: int) -> TrialCost:
        """Return the cost so far, whose parts `TrialCost` describes.

        Args:
            device: Device of the model, by torch's name.
            tokens: Number of tokens in training.
        """
        kind, name, peak = _hardware(device)
        return TrialCost(
            wall_seconds=round(time.perf_counter() - self._started, 3),
            train_seconds=round(self._seconds[TRAIN], 3),
            evaluate_seconds=round(self._seconds[EVALUATE], 3),
            devices=process_count(),
            device=name,
            accelerator=kind != "cpu",
            peak_memory=peak,
            tokens=tokens,
        )


@contextlib.contextmanager
def measured(device: str) -> Iterator[Meter]:
    """Yield a meter and reset the peak memory, if the device allows that."""
    reset_peak_memory(device)
    yield Meter()


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of plop-lora and of those packages that are installed."""
    found = {"plop_lora": __version__}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _hardware(device: str) -> tuple[str, str, int]:
    """Return the kind of a device, the name of the hardware, and the peak memory in bytes."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        import torch

        return kind, torch.cuda.get_device_name(device), peak_memory(device)
    name = _processor() if kind == "cpu" else kind
    return kind, name, peak_memory()


def _processor() -> str:
    """Return the name of the processor, or of its architecture if the name is unknown."""
    with contextlib.suppress(OSError):
        for line in _CPU_MODEL.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"
