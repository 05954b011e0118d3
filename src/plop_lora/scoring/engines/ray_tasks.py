"""`--engine ray`: every batch is a task on a Ray cluster, or on a local one.

Ray schedules the tasks and reruns those of a lost worker. A worker loads the model once and keeps
it for its next batch. A task takes a whole GPU, or all cores of a machine in a cluster without
GPUs, so that each holds one copy of the model, and a matrix product uses every core.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from plop_lora.data.batches import Batch
from plop_lora.errors import ModelError, PlopError, ProcessError, require
from plop_lora.models.loading import load_model, quiet_loading
from plop_lora.models.unwrapping import unwrap
from plop_lora.scoring.engines.in_memory import measure
from plop_lora.scoring.measurement.collect import Measured, merge
from plop_lora.scoring.measurement.expected_norm_cache import ExpectedNormCache, open_cache
from plop_lora.scoring.measurement.settings import MeasurementSettings
from plop_lora.scoring.sites.find import Site, SiteMap, find_sites, refine

if TYPE_CHECKING:
    from ray import ObjectRef

RETRIES = 3
"""Number of times that a task is rerun after its worker was lost."""


def measure_on_ray(
    job: MeasurementSettings,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    *,
    advance: Callable[[int], None] = lambda rows: None,
) -> Measured:
    """Measure the batches on the connected Ray cluster, with the same result as one process.

    Args:
        job: Settings with which each worker loads the model and measures.
        sites: Sites of this process, which are compared with those of the workers.
        batches: Batches, each of which is one task.
        advance: Called after each batch with its number of sequences.

    Raises:
        ProcessError: The worker of a task was lost more than `RETRIES` times.
        ModelError: A worker finds other sites than this process.
        PlopError: An error of the measurement, as in one process.
    """
    names = tuple(site.name for site in sites)
    pieces: list[Measured | None] = [None] * len(batches)
    tasks = [(job, batch, names) for batch in batches]
    for index, (found, measured) in run_tasks(measure_shard, tasks):
        if found != names:
            raise ModelError(
                f"A Ray worker finds other modules in {job.model} than this process. Every "
                "machine needs the same model and the same version of transformers."
            )
        pieces[index] = measured
        advance(len(batches[index].names))
    whole = merge([piece for piece in pieces if piece is not None])
    return dataclasses.replace(whole, engine="ray")


def measure_shard(
    job: MeasurementSettings, batch: Batch, names: tuple[str, ...]
) -> tuple[tuple[str, ...], Measured]:
    """Measure one batch in a worker, and return the names of its sites with the measurement.

    Args:
        job: Settings with which the model is loaded and measured.
        batch: Batch to measure.
        names: Names of the sites that the calling process selected, after checking which can
            learn and how fused weights are sliced.
    """
    model, found, expected_norms = _loaded(job)
    wanted = frozenset(names)
    whole = wanted & {site.host.name for site in found.sites if site.part is not None}
    sites = [site for site in refine(found, (), whole).sites if site.name in wanted]
    measured = measure(
        model, sites, [batch], indicators=job.indicators, expected_norms=expected_norms
    )
    return tuple(site.name for site in sites), measured


@functools.lru_cache(maxsize=1)
def _loaded(job: MeasurementSettings) -> tuple[nn.Module, SiteMap, ExpectedNormCache]:
    assert job.model is not None
    quiet_loading()
    model = unwrap(load_model(job.model, device=job.device, dtype=job.dtype, origin=job.origin))
    found = find_sites(model, include=job.include, exclude=job.exclude)
    return model, found, open_cache(job, model)


def run_tasks(
    function: Callable[..., object],
    arguments: Sequence[tuple[object, ...]],
    *,
    retries: int = RETRIES,
) -> Iterator[tuple[int, Any]]:
    """Run `function` on each of the arguments, and yield index and result as tasks complete.

    Raises:
        ProcessError: The worker of a task was lost more than `retries` times.
        PlopError: A task raised this error.
    """
    ray = require("ray")
    task = ray.remote(function).options(max_retries=retries, **_share_of_a_machine(ray))
    index_of = {task.remote(*given): index for index, given in enumerate(arguments)}
    waiting = list(index_of)
    try:
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield index_of[ready[0]], _result(ray, ready[0], retries)
    finally:
        for reference in waiting:
            ray.cancel(reference)


def _result(ray: ModuleType, reference: ObjectRef, retries: int) -> object:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PlopError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise ProcessError(
            f"A Ray worker was lost {retries + 1} times on the same shard: "
            f"{str(error).splitlines()[0]} A smaller --batch-size needs less memory."
        ) from error


def _share_of_a_machine(ray: ModuleType) -> dict[str, float]:
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(resource.get("GPU") for resource in resources):
        return {"num_gpus": 1}
    return {"num_cpus": min(r["CPU"] for r in resources if r.get("CPU"))}
