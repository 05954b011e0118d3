"""Trials on this machine: a pool of commands, one per GPU, or one per two cores without a GPU.

A single thread starts, watches and stops all of them, so no locks are needed, and a command that
dies with its parent's thread lives as long as the run. Imports torch only to count GPUs of AMD.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from plop_lora.recipe import Runner
from plop_lora.records import TrialResult
from plop_lora.training.runners.events import FINISHED, RUNNING, Event, Watch
from plop_lora.training.runners.trial_process import (
    CLAIMED_SECONDS,
    POLL_SECONDS,
    PROCESSOR,
    Hardware,
    Running,
    TrialCommand,
    claim,
    deferred_signals,
)
from plop_lora.training.trial import find_result

CORES_A_TRIAL = 2
VISIBLE, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: its identifier for CUDA (a number or a UUID) and its name."""

    identifier: str
    name: str


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """A slot for one trial at a time: its environment variables and its hardware."""

    variables: Mapping[str, str]
    hardware: Hardware


def run_locally(
    jobs: Sequence[TrialCommand], runner: Runner, watch: Watch
) -> dict[Path, TrialResult]:
    """Run all jobs, as many at a time as there are slots. No process is left when it ends.

    Returns:
        The results by the folder of the job.

    Raises:
        OutputError: A folder cannot be written.
    """
    free = list(reversed(places(jobs, runner)))
    pool = _Pool({job.folder: job for job in jobs}, free, watch)
    with deferred_signals() as check:
        try:
            while pool.waiting or pool.running:
                check()
                pool.fill()
                pool.collect(check)
                time.sleep(POLL_SECONDS)
        finally:
            pool.stop()
    return pool.results


@dataclass
class _Pool:
    """The waiting jobs, the free slots, and the running trials with their slots and claims."""

    waiting: dict[Path, TrialCommand]
    free: list[WorkerSlot]
    watch: Watch
    running: list[tuple[Running, WorkerSlot, IO[str]]] = field(default_factory=list)
    results: dict[Path, TrialResult] = field(default_factory=dict)
    ask_again: float = 0.0
    """The time of the next check of trials that another run has claimed."""

    def fill(self) -> None:
        """Start jobs in the free slots, except those that another run has claimed."""
        if time.monotonic() < self.ask_again:
            return
        for job in tuple(self.waiting.values()):
            if not self.free:
                return
            if (claimed := claim(job)) is None:
                self.ask_again = time.monotonic() + CLAIMED_SECONDS
                continue
            del self.waiting[job.folder]
            if (result := find_result(job.folder, job.spec)) is not None:
                claimed.close()
                self._finish(job, result)
                continue
            place = self.free.pop()
            trial = Running(job, claimed, os.environ | place.variables, place.hardware)
            self.running.append((trial, place, claimed))
            self.watch(Event(job.spec, job.folder, RUNNING))

    def collect(self, check: Callable[[], None]) -> None:
        """Collect the results of trials that have ended, and free their slots."""
        for entry in tuple(self.running):
            trial, place, claimed = entry
            if (result := trial.poll(check)) is not None:
                self.running.remove(entry)
                self.free.append(place)
                claimed.close()
                self._finish(trial.job, result)

    def _finish(self, job: TrialCommand, result: TrialResult) -> None:
        self.results[job.folder] = result
        self.watch(Event(job.spec, job.folder, FINISHED, result))

    def stop(self) -> None:
        """Stop all running trials at the same time."""
        for trial, _, _ in self.running:
            trial.ask_to_stop()
        for trial, _, claimed in self.running:
            trial.stop()
            claimed.close()


def places(jobs: Sequence[TrialCommand], runner: Runner) -> tuple[WorkerSlot, ...]:
    """Return a slot for each trial that may run at the same time, at most one per job.

    If there are more workers than GPUs, they share the GPUs in turn. The cores are divided evenly
    as threads unless the user has set `OMP_NUM_THREADS`, because more threads than cores make
    matrix products slower.
    """
    wanted = any(not job.spec.training.device.startswith("cpu") for job in jobs)
    gpus = visible_gpus() if wanted else ()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    workers = runner.workers or len(gpus) or max(1, cores // CORES_A_TRIAL)
    workers = min(workers, len(jobs))
    threads = {} if THREADS in os.environ else {THREADS: str(max(1, cores // workers))}
    if not gpus:
        return (WorkerSlot(threads, PROCESSOR),) * workers
    chosen = (gpus[index % len(gpus)] for index in range(workers))
    return tuple(
        WorkerSlot(threads | {VISIBLE: gpu.identifier}, Hardware(gpu.name, accelerator=True))
        for gpu in chosen
    )


def visible_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that a process started here may use, in the order of CUDA.

    `CUDA_VISIBLE_DEVICES` has the meaning that CUDA gives it: entries after a negative number are
    ignored.
    """
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return _counted_by_torch() if Path("/dev/kfd").exists() else ()
    return choose_gpus(listing, os.environ.get(VISIBLE))


def choose_gpus(listing: str, visible: str | None) -> tuple[Gpu, ...]:
    r"""Return the GPUs in the output of `nvidia-smi -L` that `CUDA_VISIBLE_DEVICES` selects.

    >>> listing = "GPU 0: H100 (UUID: GPU-1a)\nGPU 1: H100 (UUID: GPU-2b)\n"
    >>> [gpu.identifier for gpu in choose_gpus(listing, None)], choose_gpus(listing, "")
    (['0', '1'], ())
    >>> choose_gpus(listing, "GPU-2b,-1,0")
    (Gpu(identifier='GPU-2b', name='H100'),)
    """
    found = re.findall(r"^GPU (\d+): (.+) \(UUID: (.+)\)\s*$", listing, re.MULTILINE)
    if visible is None:
        return tuple(Gpu(number, name) for number, name, _ in found)
    gpus: list[Gpu] = []
    for word in filter(None, (part.strip() for part in visible.split(","))):
        if word.startswith("-"):
            break
        names = [name for number, name, uuid in found if word == number or uuid.startswith(word)]
        gpus.append(Gpu(word, names[0] if names else "GPU"))
    return tuple(gpus) if found else ()


def _counted_by_torch() -> tuple[Gpu, ...]:
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get(VISIBLE) or ",".join(str(number) for number in range(count))
    words = visible.split(",")[:count]
    return tuple(Gpu(word, torch.cuda.get_device_name(n)) for n, word in enumerate(words))
