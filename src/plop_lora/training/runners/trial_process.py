"""One trial as a command in its own process: how it is started, watched and stopped.

A trial that ends without `result.json` (by a signal, an exit code or a missing library) was ended
by the machine or for a reason that the user can correct, because a failure of the trial itself is
a result that it writes. It is reported as failed, with the cause that its signal or its log gives,
but nothing is written, so that it runs again at the next start. A trial that a signal has ended is
run once more at once, with half the batch if the cause looks like memory. Both runners use this
file, which does not depend on pools or clusters and imports no torch.

On Linux a command ends with the process that started it, however that process ends. On other
systems it outlives a runner that is killed by a signal that cannot be handled; its claim on the
trial makes the next run wait for it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, Protocol

from plop_lora.files import try_lock
from plop_lora.records import TrialCost, TrialResult, TrialSpec
from plop_lora.records.trial import FAILED
from plop_lora.training.folder import LOCK, LOG, RESULT
from plop_lora.training.memory import smaller_batch
from plop_lora.training.tasks import metric_of
from plop_lora.training.trial import find_result

POLL_SECONDS, CLAIMED_SECONDS = 0.05, 1.0
"""Seconds between checks of a trial of this run, and of a trial of another run."""
STOP_SECONDS = 5.0
"""Seconds between SIGTERM and SIGKILL when a trial is stopped."""
_STOPPED_TOO_SECONDS = 1.0
"""A scheduler that ends a job signals all its processes, in any order: the runner's own signal may
come after the death of a trial, which is no failure then."""
_TAIL_BYTES = 1 << 16
_LONGEST = 300
"""The largest number of characters of a line of the log that a cause quotes."""
_MEMORY_WORDS = ("out of memory", "cannot allocate memory", "bad_alloc", "memoryerror")

# Runs before the command and becomes it, so the process keeps its number. A function that Popen
# calls between fork and exec would do the same, but is unsafe beside threads, and the live table
# has one. The second line is for a runner that died before the first took effect.
_TETHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.getppid() == int(sys.argv[1]) or os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """What the process of a trial is started with.

    Attributes:
        command: Command line.
        environment: All environment variables.
        directory: Working directory.
        log: File at whose end the process writes its output.
        claimed: Claim on the trial, which the process holds as well.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    claimed: IO[str]


class TrialProcess(Protocol):
    """A started process of a trial, which leads a process group of its own."""

    def poll(self) -> int | None:
        """Return the exit code, minus the number of a signal, or None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, at most for some seconds, and return the exit code."""
        ...

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and its child processes."""
        ...


class FreshProcess(subprocess.Popen[bytes]):
    """A trial as a new process, with everything still to import."""

    def __init__(self, launch: Launch) -> None:
        """Start it."""
        with open(launch.log, "ab") as log:
            super().__init__(
                tethered(list(launch.command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(launch.environment),
                cwd=launch.directory,
                start_new_session=True,
                pass_fds=(launch.claimed.fileno(),),
            )

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and its child processes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def start_fresh(launch: Launch) -> FreshProcess:
    """Start a trial as a new process."""
    return FreshProcess(launch)


StartProcess = Callable[[Launch], TrialProcess]


@dataclass(frozen=True, slots=True)
class TrialCommand:
    """A trial to run.

    Attributes:
        spec: Specification of the trial.
        folder: Absolute path of the trial's folder, which holds `spec.json`.
        command: Command line, including the path of `spec.json`.
        directory: Working directory of the command, to which relative paths refer.
        stop_seconds: Seconds between SIGTERM and SIGKILL when the trial is stopped.
        start: Function that starts the process.
    """

    spec: TrialSpec
    folder: Path
    command: tuple[str, ...]
    directory: Path
    stop_seconds: float = STOP_SECONDS
    start: StartProcess = start_fresh


@dataclass(frozen=True, slots=True)
class Hardware:
    """The hardware of a trial, for the cost of a trial that wrote no result."""

    name: str
    accelerator: bool
    devices: int = 1


PROCESSOR = Hardware(platform.processor() or platform.machine() or "CPU", accelerator=False)


@dataclass(frozen=True, slots=True)
class TrialEnd:
    """The reason why a command ended without a result.

    `memory` is True if less memory may help, and `killed` if a signal ended the command.
    """

    cause: str
    memory: bool
    killed: bool = False


class Running:
    """A running trial, for the thread that started it, which must outlive it."""

    def __init__(
        self,
        job: TrialCommand,
        claimed: IO[str],
        environment: Mapping[str, str],
        hardware: Hardware = PROCESSOR,
        *,
        batch_size: int | None = None,
    ) -> None:
        """Start the command, with a smaller `batch_size` if an earlier attempt lacked memory.

        The command holds the claim as well, so that it keeps the trial if it outlives this process.
        """
        self.job = job
        self._claimed = claimed
        self._environment = dict(environment)
        self._hardware = hardware
        self._batch_size = batch_size or job.spec.training.batch_size
        self._started = time.monotonic()
        self._again = True
        self._start()

    def _start(self) -> None:
        spec, command = self.job.spec, list(self.job.command)
        if self._batch_size != spec.training.batch_size:
            command += ["--batch-size", str(self._batch_size)]
        with open(self.job.folder / LOG, "ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            self._offset = log.tell()
        environment = {"PYTHONUNBUFFERED": "1", **self._environment}
        launch = Launch(
            tuple(command), environment, self.job.directory, self.job.folder / LOG, self._claimed
        )
        self._process = self.job.start(launch)

    def poll(self, check: Callable[[], None]) -> TrialResult | None:
        """Return the result once there is one, and start the second attempt when it is due.

        Args:
            check: Function that raises if this process has received a signal to end as well.
        """
        code = self._process.poll()
        if code is None:
            return None
        self._process.signal_group(signal.SIGKILL)  # what the command left behind
        result = find_result(self.job.folder, self.job.spec)
        if result is not None:
            return result
        if ending_signal(code) in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            time.sleep(_STOPPED_TOO_SECONDS)
            check()
        end = read_end(code, self._log())
        if self._again and self._may_succeed(end):
            self._again = False
            self._start()
            return None
        seconds = time.monotonic() - self._started
        return failure(self.job, end.cause, self._batch_size, seconds, self._hardware)

    def _may_succeed(self, end: TrialEnd) -> bool:
        """Whether to make another attempt, with half the batch after a lack of memory."""
        half = smaller_batch(self._batch_size)
        if end.memory and half and self._batch_size == self.job.spec.training.batch_size:
            self._batch_size = half
            return True
        return end.killed

    def _log(self) -> str:
        """Return the end of the log of this attempt."""
        with open(self.job.folder / LOG, "rb") as log:
            log.seek(max(self._offset, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
            return log.read().decode(errors="replace")

    def stop(self) -> None:
        """Stop the command and its child processes without a record. It may be called twice."""
        try:
            if self._process.poll() is None:
                self.ask_to_stop()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(self.job.stop_seconds)
        finally:
            self._process.signal_group(signal.SIGKILL)
            self._process.wait()

    def ask_to_stop(self) -> None:
        """Send SIGTERM and return at once, so that many trials end at the same time."""
        self._process.signal_group(signal.SIGTERM)


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], None]]:
    """Defer Ctrl-C and SIGTERM, and yield a function that raises them when it is called.

    So no signal can arrive between the start of a process and its registration. Other signal
    handlers of the program are kept, and threads other than the main one receive no signals.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    def check() -> None:
        if signal.SIGINT in came:
            raise KeyboardInterrupt
        if came:
            raise SystemExit(128 + came[0])

    usual: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    main = threading.current_thread() is threading.main_thread()
    ours = {n: usual[n] for n in usual if main and signal.getsignal(n) is usual[n]}
    for number in ours:
        signal.signal(number, note)
    try:
        yield check
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
    check()


def claim(job: TrialCommand) -> IO[str] | None:
    """Claim a trial for this process until the file is closed; return None if it is claimed.

    The system releases the claims of a killed process.
    """
    file = open(job.folder / LOCK, "a", encoding="utf-8")  # noqa: SIM115 - kept open on purpose
    if try_lock(file):
        return file
    file.close()
    return None


def tethered(command: list[str]) -> list[str]:
    """Return a command line that on Linux ends with this thread; otherwise the command itself."""
    if not sys.platform.startswith("linux"):
        return command
    return [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()), *command]


def ending_signal(code: int) -> signal.Signals | None:
    """Return the signal in a return code, which is minus its number or, in shells, 128 plus it.

    >>> ending_signal(-9), ending_signal(137), ending_signal(1)
    (<Signals.SIGKILL: 9>, <Signals.SIGKILL: 9>, None)
    """
    number = -code if code < 0 else code - 128
    with contextlib.suppress(ValueError):
        return signal.Signals(number)
    return None


def read_end(code: int, log: str) -> TrialEnd:
    r"""Return why a command ended without a result, from its return code and its log.

    >>> read_end(1, "loading\nError: No such model: x.\n")
    TrialEnd(cause='No such model: x.', memory=False, killed=False)
    >>> read_end(-9, "").memory, read_end(1, "RuntimeError: CUDA out of memory.").memory
    (True, True)
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")]
    number = ending_signal(code)
    if number is signal.SIGKILL:
        cause = "killed by SIGKILL, often the system's out-of-memory killer"
        return TrialEnd(cause, memory=True, killed=True)
    if number is None and errors:
        # The trial has already reacted to errors of memory that it reports itself.
        return TrialEnd(errors[-1].removeprefix("Error: "), memory=False)
    how = f"killed by {number.name}" if number else f"ended with exit code {code} and no {RESULT}"
    last = f"; the last line of {LOG}: {lines[-1][:_LONGEST]}" if lines else f"; {LOG} is empty"
    return TrialEnd(how + last, memory=_about_memory(log), killed=number is not None)


def _about_memory(text: str) -> bool:
    return any(word in text.lower() for word in _MEMORY_WORDS)


def failure(
    job: TrialCommand, cause: str, batch_size: int, seconds: float, hardware: Hardware
) -> TrialResult:
    """Return a result for a trial that could not write one; it is not saved.

    Args:
        job: Command of the trial.
        cause: Cause of the failure.
        batch_size: Batch size of the last attempt.
        seconds: Wall time of all attempts, in seconds.
        hardware: Hardware of the trial.
    """
    spec = job.spec
    return TrialResult.of_spec(
        spec,
        status=FAILED,
        cause=cause,
        metric=metric_of(spec),
        metrics={},
        items={},
        trainable_parameters=spec.placement.trainable_parameters,
        batch_size=batch_size,
        cost=TrialCost(
            wall_seconds=seconds,
            train_seconds=0.0,
            evaluate_seconds=0.0,
            devices=hardware.devices,
            device=hardware.name,
            accelerator=hardware.accelerator,
            peak_memory=0,
            tokens=0,
        ),
        notes=("reported by the runner: the trial wrote no result; its cost is wall time only",),
        mendable=True,
    )
