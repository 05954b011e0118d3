"""Trials on a Ray cluster: each is one task that runs the trial's command.

The folder of the trials, the model and the Python of this process must have the same paths on every
machine, as on shared storage. A trial whose worker or machine is lost is queued again; one that Ray
ended to save memory is queued once more, with half the batch.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from plop_lora.errors import UsageError, require
from plop_lora.ray_cluster import check_cluster, connected
from plop_lora.recipe import Runner
from plop_lora.records import TrialResult
from plop_lora.training.folder import LOG
from plop_lora.training.runners.events import FINISHED, RUNNING, Event, Watch
from plop_lora.training.runners.local import CORES_A_TRIAL, visible_gpus
from plop_lora.training.runners.trial_process import (
    CLAIMED_SECONDS,
    POLL_SECONDS,
    PROCESSOR,
    Hardware,
    Running,
    TrialCommand,
    claim,
    deferred_signals,
    failure,
)
from plop_lora.training.trial import find_result

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.remote_function import RemoteFunction

RETRIES = 3
"""The number of times that a trial is run again after the loss of its worker."""
_WATCH_SECONDS = 0.5


def run_on_ray(
    jobs: Sequence[TrialCommand], runner: Runner, watch: Watch
) -> dict[Path, TrialResult]:
    """Run all jobs on the cluster. No trial keeps running when it ends.

    Returns:
        The results by the folder of the job.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: No cluster answers at the address, or no machine has as many GPUs as requested
            for a trial.
    """
    ray = require("ray")
    check_cluster(runner.address)
    with connected(runner.address):
        share = share_of_a_machine([n["Resources"] for n in ray.nodes() if n["Alive"]], runner.gpus)
        # Ray itself would repeatedly restart a trial that was too large, with the same size.
        task = ray.remote(run_here).options(max_retries=0, **share)
        queue = _Queue(ray, task, deque((job, None) for job in jobs), watch)
        with deferred_signals() as check:
            try:
                while queue.waiting or queue.flying:
                    check()
                    queue.submit(runner.workers or len(jobs))
                    queue.collect()
            finally:
                queue.cancel()
    return queue.results


def share_of_a_machine(
    machines: Sequence[dict[str, float]], gpus: float | None
) -> dict[str, float]:
    """Return the resources that Ray reserves for a trial, from those of each machine.

    >>> share_of_a_machine([{"CPU": 8, "GPU": 2}], None), share_of_a_machine([{"CPU": 8}], None)
    ({'num_gpus': 1, 'num_cpus': 1}, {'num_gpus': 0, 'num_cpus': 2})

    Raises:
        UsageError: No machine has that many GPUs.
    """
    most = max((machine.get("GPU", 0) for machine in machines), default=0)
    wanted = (1 if most else 0) if gpus is None else gpus
    if wanted > most or (wanted > 1 and wanted != int(wanted)):
        raise UsageError(
            f"runner.gpus {wanted:g} is not possible: the largest machine of this Ray cluster has "
            f"{most:g}. Give a share of one GPU or a whole number up to that."
        )
    if wanted:
        return {"num_gpus": wanted, "num_cpus": 1}
    cores = min((machine["CPU"] for machine in machines if machine.get("CPU")), default=1)
    return {"num_gpus": 0, "num_cpus": min(CORES_A_TRIAL, cores)}


@dataclass
class _Queue:
    """The waiting jobs with the batch size of their next attempt, and the running tasks."""

    ray: ModuleType
    task: RemoteFunction
    waiting: deque[tuple[TrialCommand, int | None]]
    watch: Watch
    flying: dict[ObjectRef, tuple[TrialCommand, int | None]] = field(default_factory=dict)
    results: dict[Path, TrialResult] = field(default_factory=dict)
    lost: Counter[Path] = field(default_factory=Counter)
    sizes: dict[Path, int] = field(default_factory=dict)
    """The states of the logs of trials that have not started."""
    begun: dict[Path, float] = field(default_factory=dict)

    def submit(self, most: int) -> None:
        """Submit tasks to Ray, at most `most` at a time."""
        while self.waiting and len(self.flying) < most:
            job, batch_size = self.waiting.popleft()
            if job.folder not in self.begun:
                self.sizes[job.folder] = _size(job)
            self.flying[self.task.remote(job, batch_size)] = job, batch_size

    def collect(self) -> None:
        """Wait briefly, collect finished tasks, and report trials that have started their log."""
        ready, _ = self.ray.wait(list(self.flying), num_returns=1, timeout=_WATCH_SECONDS)
        for job, _ in self.flying.values():
            if job.folder in self.sizes and _size(job) > self.sizes[job.folder]:
                self._begin(job)
        for reference in ready:
            job, batch_size = self.flying.pop(reference)
            try:
                result = self.ray.get(reference)
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except self.ray.exceptions.RayError as error:
                self._lose(job, batch_size, error)
            else:
                self._finish(job, result)

    def _begin(self, job: TrialCommand) -> None:
        if self.sizes.pop(job.folder, None) is not None:
            self.begun[job.folder] = time.monotonic()
            self.watch(Event(job.spec, job.folder, RUNNING))

    def _lose(self, job: TrialCommand, batch_size: int | None, error: Exception) -> None:
        """Queue a lost trial again, or report that it failed."""
        whole = job.spec.training.batch_size
        if isinstance(error, self.ray.exceptions.OutOfMemoryError) and batch_size is None:
            batch_size = max(1, whole // 2)
        self.lost[job.folder] += 1
        if self.lost[job.folder] <= RETRIES:
            self.waiting.append((job, batch_size))
            return
        cause = f"its Ray worker was lost {RETRIES + 1} times: {str(error).splitlines()[0]}"
        seconds = time.monotonic() - self.begun.get(job.folder, time.monotonic())
        self._finish(job, failure(job, cause, batch_size or whole, seconds, PROCESSOR))

    def _finish(self, job: TrialCommand, result: TrialResult) -> None:
        self._begin(job)
        self.results[job.folder] = result
        self.watch(Event(job.spec, job.folder, FINISHED, result))

    def cancel(self) -> None:
        """Stop the workers of running tasks; on Linux their trials end with them."""
        for reference in self.flying:
            self.ray.cancel(reference, force=True)


def _size(job: TrialCommand) -> int:
    try:
        return (job.folder / LOG).stat().st_size
    except OSError:
        return 0


def run_here(job: TrialCommand, batch_size: int | None) -> TrialResult:
    """Run one trial in this worker, unless an earlier worker has finished it."""
    while (claimed := claim(job)) is None:
        time.sleep(CLAIMED_SECONDS)
    with claimed:
        if (found := find_result(job.folder, job.spec)) is not None:
            return found
        gpus = visible_gpus()
        hardware = Hardware(gpus[0].name, True, len(gpus)) if gpus else PROCESSOR
        running = Running(job, claimed, os.environ, hardware, batch_size=batch_size)
        try:
            while (result := running.poll(_never)) is None:
                time.sleep(POLL_SECONDS)
            return result
        finally:
            running.stop()


def _never() -> None:
    """Do nothing: Ray stops a worker without a signal that could be checked."""
