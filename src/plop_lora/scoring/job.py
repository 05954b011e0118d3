"""One measurement as a whole, to be carried out here or by a worker somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from plop_lora.data import Batch
from plop_lora.scoring.cache import open_cache
from plop_lora.scoring.collect import Measured
from plop_lora.scoring.memory import measure
from plop_lora.scoring.sites import Site


@dataclass(frozen=True, slots=True)
class Job:
    """What decides a measurement beside its batches; `model` is None for one given as a module."""

    model: str | None
    device: str
    dtype: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    baseline: str
    seed: int
    cache: bool


def measure_here(
    job: Job,
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    *,
    advance: Callable[[int], None] = lambda rows: None,
) -> Measured:
    """Measure batches in this process, with the gains that its cache knows; see `memory.measure`.

    Args:
        job: what was asked for.
        model: what was loaded for it.
        sites: those of the model.
        batches: at least one.
        advance: called with the number of sequences after each batch.
    """
    gains = open_cache(
        job.model, model, baseline=job.baseline, seed=job.seed, dtype=job.dtype, wanted=job.cache
    )
    return measure(
        model, sites, batches,
        baseline=job.baseline, seed=job.seed, gains=gains, advance=advance,
    )  # fmt: skip
