"""What decides a measurement beside its batches, for a worker that measures somewhere else."""

from __future__ import annotations

from dataclasses import dataclass

from plop_lora.models.origin import PLAIN, Origin


@dataclass(frozen=True, slots=True)
class Job:
    """The model and the options; `model` is None for one that was given as a module."""

    model: str | None
    device: str
    dtype: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    baseline: str
    seed: int
    cache: bool
    origin: Origin = PLAIN
