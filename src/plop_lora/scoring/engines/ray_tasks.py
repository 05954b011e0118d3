"""`--engine ray`: shards of the batches as tasks on a Ray cluster, or on a local one.

Ray schedules the tasks and runs those of a lost worker again. A worker loads the model once and
keeps it for its next shard. A task takes a whole GPU, or all the cores of a machine without one,
so that there is one copy of the model on each, and a matrix product uses every core.
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
"""How often a shard is run again after the loss of its worker."""


def measure_on_ray(
    job: MeasurementSettings,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    *,
    advance: Callable[[int], None] = lambda rows: None,
) -> Measured:
    """Measure the batches on the connected Ray cluster; the result is that of one process.

    Args:
        job: how each worker loads the model and measures.
        sites: those of this process, to be sure that the workers measure the same ones.
        batches: one task each.
        advance: called with the number of sequences after each batch.

    Raises:
        ProcessError: a worker is lost again and again.
        ModelError: a worker sees another model.
        PlopError: whatever measuring may raise, as one process would.
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
    """Measure one batch in a worker; return the names of the sites with it.

    Args:
        job: how the model is loaded and measured.
        batch: what is measured.
        names: of the sites that the process with the texts wants, which has tried what can learn
            and how fused weights are cut.
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
    """Run `function` on each of the arguments; yield index and result as they come.

    Raises:
        ProcessError: a task's worker is lost more than `retries` times.
        PlopError: what a task raised.
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
