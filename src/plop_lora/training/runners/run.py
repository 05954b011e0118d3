"""Run trials: find the finished ones, run the others with a runner, and return all results.

A trial is a command in its own process, so that each starts with a clean device and a crash affects
no other trial. The runner decides where the commands run: `local` in a pool of processes on this
machine, `ray` on a cluster. The folder, the command and the results are the same. The processes of
`local` are forks of one that has imported the libraries already, unless the runner says otherwise.

Several runs may work in one folder: they wait for trials that another run has claimed and use the
results of that run.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from plop_lora.recipe import Runner
from plop_lora.records import TrialResult, TrialSpec
from plop_lora.training.folder import trial_folder
from plop_lora.training.runners.events import FINISHED, WAITING, Event, RunTrials, Watch, ignore
from plop_lora.training.runners.trial_process import STOP_SECONDS, TrialCommand
from plop_lora.training.runners.warm import COMMAND, ForkServer
from plop_lora.training.trial import find_result, write_spec

RunJobs = Callable[[Sequence[TrialCommand], Runner, Watch], dict[Path, TrialResult]]
"""Function from jobs to their results by folder."""


def run_trials(
    specs: Sequence[TrialSpec],
    root: Path,
    runner: Runner,
    *,
    report_to: tuple[str, ...] = (),
    watch: Watch = ignore,
    command: Sequence[str] = COMMAND,
    stop_seconds: float = STOP_SECONDS,
    server: ForkServer | None = None,
) -> tuple[TrialResult, ...]:
    """Run every trial that has no result yet, and return the results in the order of the specs.

    A failed trial has a result as well and does not end the run. If the cause is the machine, the
    result is `mendable` and not kept, so that the next call runs the trial again. A spec that is
    given twice runs once. Ctrl-C or SIGTERM stops all running trials and records none of them, so
    that the same call can resume later.

    Args:
        specs: Specifications of the trials.
        root: Folder with one folder per trial, which holds `spec.json`, `log.txt` and
            `result.json`.
        runner: Where the trials run, and how many at the same time.
        report_to: Names of trackers, which are passed to each trial.
        watch: Function that is called when a trial waits (once each, at the start), runs or is
            finished. A trial that was finished before never runs.
        command: Command line before the path of `spec.json`.
        stop_seconds: Seconds between SIGTERM and SIGKILL when a trial is stopped.
        server: Server that trials on this machine are forked from, if the runner has warm workers;
            see `warm_trials`. By default one for this call.

    Raises:
        UsageError: No cluster answers at the address.
        MissingExtraError: The library of the runner is not installed.
        OutputError: A folder cannot be written.
    """
    run = KINDS[runner.kind]()
    root = root.absolute()
    options = [word for name in report_to for word in ("--report-to", name)]
    jobs: dict[str, TrialCommand] = {}
    for spec in specs:
        if (digest := spec.digest()) in jobs:
            continue
        words = (*command, str(write_spec(root, spec)), *options)
        folder = trial_folder(root, spec)
        jobs[digest] = TrialCommand(spec, folder, words, Path.cwd(), stop_seconds)
        watch(Event(spec, folder, WAITING))
    found: dict[str, TrialResult] = {}
    for digest, job in jobs.items():
        if (result := find_result(job.folder, job.spec)) is not None:
            found[digest] = result
            watch(Event(job.spec, job.folder, FINISHED, result))
    missing = {digest: job for digest, job in jobs.items() if digest not in found}
    with _warmed(tuple(missing.values()), runner, server) as ready:
        results = run(ready, runner, watch) if ready else {}
    found |= {digest: results[job.folder] for digest, job in missing.items()}
    return tuple(found[spec.digest()] for spec in specs)


@contextlib.contextmanager
def warm_trials() -> Iterator[RunTrials]:
    """Yield `run_trials` with one server for all of its calls in the block.

    So the libraries are imported once for the whole of a verification or a search.
    """
    with ForkServer() as server:
        yield functools.partial(run_trials, server=server)


@contextlib.contextmanager
def _warmed(
    jobs: tuple[TrialCommand, ...], runner: Runner, server: ForkServer | None
) -> Iterator[tuple[TrialCommand, ...]]:
    """Yield jobs that are forked from a server, if the runner has warm workers.

    A server for a single trial would save nothing.
    """
    if runner.kind != "local" or not runner.warm_workers or (server is None and len(jobs) < 2):
        yield jobs
        return
    with contextlib.ExitStack() as stack:
        server = server or stack.enter_context(ForkServer())
        yield tuple(replace(job, start=server.start) for job in jobs)


def _local() -> RunJobs:
    from plop_lora.training.runners.local import run_locally

    return run_locally


def _ray() -> RunJobs:
    from plop_lora.training.runners.ray_jobs import run_on_ray

    return run_on_ray


KINDS: dict[str, Callable[[], RunJobs]] = {"local": _local, "ray": _ray}
"""Name of a runner → function that returns the function that runs its jobs."""
