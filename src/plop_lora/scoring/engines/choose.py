"""What measures: the model in memory, one streamed from disk, or a Ray cluster; in which rounds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from plop_lora.data.batches import Batch
from plop_lora.errors import UsageError
from plop_lora.models.capacity import available_memory, device_memory
from plop_lora.models.folders import model_name
from plop_lora.models.loading import (
    device_named,
    dtype_for,
    explained,
    load_weights,
)
from plop_lora.models.origin import PLAIN, Origin
from plop_lora.models.unwrapping import unwrap
from plop_lora.models.weights import Loaded, refuse_adapter
from plop_lora.options import ENGINES, check_dtype, check_word
from plop_lora.ray_cluster import check_cluster, connected
from plop_lora.scoring.engines import in_memory as memory
from plop_lora.scoring.engines.processes import Processes
from plop_lora.scoring.engines.ray_tasks import measure_on_ray
from plop_lora.scoring.engines.streaming.shards import Shards, shard_files
from plop_lora.scoring.inputs import ScoringInputs
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.measurement.expected_norm_cache import open_cache
from plop_lora.scoring.measurement.settings import MeasurementSettings
from plop_lora.scoring.sites.find import Site

SPARE = 1 << 30
"""Bytes that activations, the library itself and others need beside the weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """A model and what measures it.

    Attributes:
        model: loaded, or its skeleton where others load it.
        measure: `measure(sites, batches, advance=..., warmup_batch=...)`, for one round after
            another.
        one_round: every call pays for the weights again, so that all batches go in one.
        new: names of weights that the checkpoint lacks: those of a head, random numbers.
    """

    model: nn.Module
    measure: Callable[..., Measured]
    one_round: bool = False
    new: tuple[str, ...] = ()


def engine_for(
    model: str | nn.Module,
    job: MeasurementSettings,
    *,
    engine: str,
    ray_address: str | None,
    processes: Processes,
    progress: bool,
) -> Engine:
    """Load a model and return what measures it.

    Args:
        model: a name, or a loaded module.
        job: device, dtype and what decides the expected norms.
        engine: one of `ENGINES`.
        ray_address: of a cluster.
        processes: those that measure together.
        progress: let transformers draw its bar.

    Raises:
        UsageError: an unknown engine, or one that cannot work here.
        ModelError: no such model.
    """
    _check(engine, model, ray_address, processes)
    notes: tuple[str, ...] = ()
    if isinstance(model, nn.Module):
        found = Loaded(unwrap(model))
    else:
        with explained(model, "model", job.origin):
            refuse_adapter(model, **job.origin.files())
        home = processes.device(job.device)
        # Said once and here, for the workers of a cluster too: their sums are added up.
        job = dataclasses.replace(job, dtype=dtype_for(model, home, job.dtype, job.origin))
        if engine == "stream" or (engine == "auto" and not _fits(model, home, job)):
            streaming = _streaming(model, home, job)
            if isinstance(streaming, Engine):
                return streaming
            notes = (streaming,)
        found = load_weights(
            model, device=home, dtype=job.dtype, progress=progress, origin=job.origin
        )
        unwrap(found.model)  # transformers puts an adapter beside the weights on the model
    notes, loaded = (*notes, *found.notes), found.model
    if engine == "ray":
        measure = functools.partial(_on_ray, job, ray_address)
    else:
        measure = functools.partial(memory.measure, loaded, **_measured_of(job, loaded))
    noted = functools.partial(_noted, notes, measure)
    return Engine(loaded, noted, one_round=engine == "ray", new=found.new)


def _measured_of(job: MeasurementSettings, model: nn.Module) -> dict[str, Any]:
    """Return what an engine needs beside the batches: what is measured, and what is known."""
    return {"indicators": job.indicators, "expected_norms": open_cache(job, model)}


def _streaming(name: str, device: str, job: MeasurementSettings) -> Engine | str:
    """Return the engine that streams a model, or the note that says why it cannot."""
    # Here and not above: it leans on parts of transformers that the other engines do without.
    from plop_lora.scoring.engines.streaming import engine as stream
    from plop_lora.scoring.engines.streaming.checkpoint import Checkpoint
    from plop_lora.scoring.engines.streaming.skeleton import UnstreamableError

    check_dtype(job.dtype)
    name = model_name(name)
    try:
        with explained(name, "model", job.origin):
            checkpoint = Checkpoint(
                name, device=device_named(device), dtype=job.dtype, origin=job.origin
            )
    except UnstreamableError as reason:
        return stream.loaded_whole(reason)
    options = _measured_of(job, checkpoint.model)
    measure = functools.partial(stream.measure, checkpoint, **options)
    noted = functools.partial(_noted, checkpoint.notes, measure)
    return Engine(checkpoint.model, noted, one_round=True, new=checkpoint.new)


def _noted(
    notes: tuple[str, ...], measure: Callable[..., Measured], *arguments: object, **options: object
) -> Measured:
    measured = measure(*arguments, **options)
    return dataclasses.replace(measured, notes=(*notes, *measured.notes))


def _fits(name: str, device: str, job: MeasurementSettings) -> bool:
    return fits(name, device, job.dtype, job.origin)


def fits(
    name: str,
    device: str,
    dtype: str,
    origin: Origin = PLAIN,
    *,
    free_bytes: Sequence[int | None] | None = None,
) -> bool:
    """Whether a model on disk fits in the memory that is left; yes where nobody can tell.

    Args:
        name: A local folder or a hub id.
        device: Where the model would run.
        dtype: What its weights would be held in.
        origin: Which revision it is, and with whose token it is read.
        free_bytes: The bytes that are left in every memory that has to hold it, None where that
            is not known. By default the process and the device are asked.
    """
    check_dtype(dtype)
    target = device_named(device)
    needed = _weight_bytes(model_name(name), dtype, origin)
    if needed is None:
        return True
    if free_bytes is None:
        free_bytes = (available_memory(), device_memory(target))
    return all(free is None or needed + SPARE <= free for free in free_bytes)


def _weight_bytes(name: str, dtype: str, origin: Origin) -> int | None:
    with explained(name, "model", origin):
        files = shard_files(name, origin)
    if files is None:
        return None
    shards = Shards(files)
    if dtype == "auto":
        return shards.size
    width: int = getattr(torch, dtype).itemsize
    sizes = ((shards[key].size, shards[key].dtype) for key in shards)
    return sum(size * width // stored.itemsize for size, stored in sizes)


def measure_in_rounds(
    engine: Engine,
    sites: Sequence[Site],
    given: ScoringInputs,
    processes: Processes,
    *,
    controls: Sequence[Batch] = (),
    enough: Callable[[Measured], bool] | None,
    advance: Callable[[int], None],
) -> Measured:
    """Measure until it is enough, or everything; all processes come to the same end.

    Args:
        engine: what measures.
        sites: what is measured.
        given: the batches and where one may look.
        processes: those that share the batches.
        controls: Batches that go with those of the first round.
        enough: asked after each round of everything so far; None measures everything.
        advance: called with the number of sequences after each batch.
    """
    together = enough is None or engine.one_round
    rounds = [list(given.batches)] if together else given.rounds()
    rounds[:1] = [[*first, *controls] for first in rounds[:1]]
    warmups = iter([given.warmup_batch])

    def run(batches: Sequence[Batch]) -> Measured:
        return engine.measure(sites, batches, advance=advance, warmup_batch=next(warmups, None))

    if enough is None:
        return processes.measure(rounds, run)
    return processes.measure(rounds, run, enough)


def _on_ray(
    job: MeasurementSettings,
    address: str | None,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    *,
    advance: Callable[[int], None],
    warmup_batch: Batch | None = None,
) -> Measured:
    """Measure on a cluster, whose workers meet the longest text when its turn comes."""
    with connected(address):
        return measure_on_ray(job, sites, batches, advance=advance)


def _check(engine: str, model: Any, ray_address: str | None, processes: Processes) -> None:
    check_word("engine", engine, ENGINES)
    if engine == "stream" and isinstance(model, nn.Module):
        raise UsageError(
            "A loaded model is in memory already; to stream it, give its name or folder."
        )
    if engine == "ray" and isinstance(model, nn.Module):
        raise UsageError("--engine ray loads the model in every worker; give its name or folder.")
    if engine == "ray" and processes.count > 1:
        raise UsageError("--engine ray starts its own workers; run it without torchrun.")
    if engine != "ray" and ray_address is not None:
        raise UsageError("--ray-address needs --engine ray.")
    if engine == "ray":
        check_cluster(ray_address)
