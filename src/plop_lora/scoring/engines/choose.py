"""Choose the engine of a measurement (in memory, streamed or Ray), and run it in rounds."""

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
from plop_lora.models.gguf import check_engine, path_of, read_header
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
"""Bytes reserved for activations, the library itself and other processes."""


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """A model and the function that measures it.

    Attributes:
        model: The loaded model, or its skeleton if the weights stay on disk.
        measure: Function `measure(sites, batches, advance=..., warmup_batch=...)`, which may be
            called once per round.
        one_round: Whether every call reads the weights again, so that all batches should be
            measured in one round.
        new: Names of the weights that the checkpoint lacks, such as those of a new head, which
            are initialised at random.
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
    """Load a model and return its engine.

    Args:
        model: Hub id, local folder, or a loaded module.
        job: Settings of the measurement.
        engine: Name of the engine, one of `ENGINES`.
        ray_address: Address of a Ray cluster, for the engine `ray`.
        processes: Processes that share the measurement.
        progress: Whether transformers draws its progress bar while loading.

    Raises:
        UsageError: The engine is unknown, or cannot be used with these arguments.
        ModelError: The model does not exist or cannot be loaded.
    """
    _check(engine, model, ray_address, processes)
    check_engine(engine, job.origin.gguf)
    notes: tuple[str, ...] = ()
    if isinstance(model, nn.Module):
        found = Loaded(unwrap(model))
    else:
        with explained(model, "model", job.origin):
            refuse_adapter(model, **job.origin.files())
        home = processes.device(job.device)
        # Resolved here, once: the workers of a cluster must use the same dtype, as sums are merged.
        job = dataclasses.replace(job, dtype=dtype_for(model, home, job.dtype, job.origin))
        if engine == "stream" or (engine == "auto" and not _fits(model, home, job)):
            streaming = _streaming(model, home, job)
            if isinstance(streaming, Engine):
                return streaming
            notes = (streaming,)
        found = load_weights(
            model, device=home, dtype=job.dtype, progress=progress, origin=job.origin
        )
        unwrap(found.model)  # refuses an adapter that transformers has loaded with the weights
    notes, loaded = (*notes, *found.notes), found.model
    if engine == "ray":
        measure = functools.partial(_on_ray, job, ray_address)
    else:
        measure = functools.partial(memory.measure, loaded, **_measured_of(job, loaded))
    noted = functools.partial(_noted, notes, measure)
    return Engine(loaded, noted, one_round=engine == "ray", new=found.new)


def _measured_of(job: MeasurementSettings, model: nn.Module) -> dict[str, Any]:
    """Return the options of an engine: the indicators, and the cache of expected norms."""
    return {"indicators": job.indicators, "expected_norms": open_cache(job, model)}


def _streaming(name: str, device: str, job: MeasurementSettings) -> Engine | str:
    """Return the engine that streams a model, or a note why the model cannot be streamed."""
    if job.origin.gguf is not None:
        return "the dequantised weights may not fit into memory, and a GGUF file cannot be streamed"
    # Imported here because it uses parts of transformers that the other engines do not need.
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
    """Return whether a model on disk fits in the free memory; true if that is not known.

    Args:
        name: A local folder or a hub id.
        device: Device the model would run on.
        dtype: Dtype its weights would have, or `auto`.
        origin: Revision of the model, and access token.
        free_bytes: Free bytes of each memory that has to hold the weights, None for an unknown
            amount. By default, those of the host and of the device are determined.
    """
    check_dtype(dtype)
    target = device_named(device)
    needed = _weight_bytes(model_name(name, gguf=origin.gguf), dtype, origin)
    if needed is None:
        return True
    if free_bytes is None:
        free_bytes = (available_memory(), device_memory(target))
    return all(free is None or needed + SPARE <= free for free in free_bytes)


def _weight_bytes(name: str, dtype: str, origin: Origin) -> int | None:
    with explained(name, "model", origin):
        if origin.gguf is not None:
            dense: torch.dtype = torch.float32 if dtype == "auto" else getattr(torch, dtype)
            return read_header(path_of(name, origin)).elements * dense.itemsize
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
    """Measure in rounds until `enough` returns true or no batch is left, the same on all processes.

    Args:
        engine: Engine that measures.
        sites: Sites to measure.
        given: The batches, and the numbers of sequences after which scoring may stop.
        processes: Processes that share the batches.
        controls: Batches that are measured together with those of the first round.
        enough: Called after each round with everything measured so far; true ends the
            measurement. None measures all batches.
        advance: Called after each batch with its number of sequences.
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
    """Measure on a cluster; its workers do not run the longest text first."""
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
