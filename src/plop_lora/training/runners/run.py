"""Go through trials: find what is finished, run the rest somewhere, return all results in order.

A trial is a command in a process of its own, so that each begins with a clean device and none can
take the others down. Where the commands run is the runner's affair: `local` is a pool of processes
here, `ray` a cluster. Folder and command are the same, and so are the results.

Several runs may work in one folder: what one has claimed, the others wait for and take as found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from plop_lora.recipe import Runner
from plop_lora.records import TrialResult, TrialSpec
from plop_lora.training.folder import trial_folder
from plop_lora.training.runners.events import FINISHED, WAITING, Event, Watch, ignore
from plop_lora.training.runners.trial_process import STOP_SECONDS, TrialCommand
from plop_lora.training.trial import find_result, write_spec

COMMAND = (sys.executable, "-P", "-m", "plop_lora", "trial")
"""-P: a file `datasets.py` in the working directory must not be what a trial imports."""

RunJobs = Callable[[Sequence[TrialCommand], Runner, Watch], dict[Path, TrialResult]]
"""Jobs to their results, by the folder of each."""


def run_trials(
    specs: Sequence[TrialSpec],
    root: Path,
    runner: Runner,
    *,
    report_to: tuple[str, ...] = (),
    watch: Watch = ignore,
    command: Sequence[str] = COMMAND,
    stop_seconds: float = STOP_SECONDS,
) -> tuple[TrialResult, ...]:
    """Run every trial that has no result yet, and return the results in the order of the specs.

    A trial that fails, or dies, is a result as well and ends nothing; where the machine was to
    blame, that result is `mendable` and not kept, so that the next call tries again. A spec that
    is given twice runs once. Ctrl-C or SIGTERM ends all trials under way and records none of
    them, so the same call later goes on where this one was.

    Args:
        specs: of the trials.
        root: folder that has, or gets, one folder a trial: `spec.json`, `log.txt`, `result.json`.
        runner: where they run, how many at a time.
        report_to: names of trackers, handed to each trial.
        watch: told that a trial waits (once each, at the start), runs, is finished. One that was
            finished before never runs.
        command: words before the path of `spec.json`.
        stop_seconds: Seconds that a trial has to end after SIGTERM, before SIGKILL.

    Raises:
        UsageError: there is no cluster at the address.
        MissingExtraError: the runner's library is not installed.
        OutputError: a folder cannot be written.
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
    results = run(tuple(missing.values()), runner, watch) if missing else {}
    found |= {digest: results[job.folder] for digest, job in missing.items()}
    return tuple(found[spec.digest()] for spec in specs)


def _local() -> RunJobs:
    from plop_lora.training.runners.local import run_locally

    return run_locally


def _ray() -> RunJobs:
    from plop_lora.training.runners.ray_jobs import run_on_ray

    return run_on_ray


KINDS: dict[str, Callable[[], RunJobs]] = {"local": _local, "ray": _ray}
"""Name of a runner → what returns the function that runs jobs there."""
