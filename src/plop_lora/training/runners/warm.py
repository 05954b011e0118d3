"""Trials as forks of one process that has imported the libraries and loaded the model.

A fresh process spends more time on imports than a small trial on training. Here a server imports
and loads once, and every trial is a fork of it: a process of its own, with its own memory, random
numbers, environment, signals and log, which no earlier trial has touched. What kills a trial kills
nothing else.

Wherever a fork is not possible the trial starts as a fresh process: on other systems than Linux,
under a launcher such as torchrun, if a library has started CUDA or threads when it was imported,
and if the server is lost before the fork. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from plop_lora.launcher import is_launched
from plop_lora.training.runners.trial_process import (
    POLL_SECONDS,
    FreshProcess,
    Launch,
    TrialProcess,
    start_fresh,
    tethered,
)

SERVER = (sys.executable, "-P", "-m", "plop_lora.cli.fork_server")
COMMAND = (sys.executable, "-P", "-m", "plop_lora", "trial")
"""The command of a trial. With -P it does not import a file such as `datasets.py` from the working
directory."""
_OF_THE_SLOT = "CUDA_VISIBLE_DEVICES"
"""The one variable in which the trials of a server may differ: it is read when CUDA starts."""
_STARTS = 3
"""The number of times that a server is started, after which trials start as fresh processes."""
_LARGEST = 1 << 16


class ForkServer:
    """Starts trials as forks of one server, for the thread that created it, which must outlive it.

    The server starts with the first trial, and again if it is lost or the environment changes. Use
    it as a context manager: no process is left when the block ends.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._server: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._environment: dict[str, str] = {}
        self._forks: dict[int, _Fork] = {}
        self._starts = 0
        self._requests = 0
        self._refuses = False

    def __enter__(self) -> ForkServer:
        """Return the server."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the server, and with it all trials that still run."""
        self.kill()

    def start(self, launch: Launch) -> TrialProcess:
        """Start a trial, as a fork if that is possible."""
        if not self._is_ready(launch):
            return start_fresh(launch)
        self._requests += 1
        fork = _Fork(self, launch)
        request = {
            "number": self._requests,
            "words": launch.command[len(COMMAND) :],
            "spec": launch.command[len(COMMAND)],
            "environment": dict(launch.environment),
            "directory": str(launch.directory),
        }
        assert self._channel is not None, "_is_ready has seen to it"
        try:
            with open(launch.log, "ab") as log:
                files = [log.fileno(), launch.claimed.fileno()]
                socket.send_fds(self._channel, [json.dumps(request).encode()], files)
        except OSError:  # a full buffer, or a server that has just ended
            return start_fresh(launch)
        self._forks[self._requests] = fork
        return fork

    def _is_ready(self, launch: Launch) -> bool:
        """Whether there is a server for a trial; start one if there may be one."""
        if launch.command[: len(COMMAND)] != COMMAND or not can_fork():
            return False
        environment = {k: v for k, v in launch.environment.items() if k != _OF_THE_SLOT}
        self.receive()
        if self._server and not self._refuses and environment == self._environment:
            return True
        if self._forks or self._starts == _STARTS:
            return False
        self.kill()
        self._environment = environment
        self._begin(launch)
        return True

    def _begin(self, launch: Launch) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # torch then asks the driver's management library for GPUs, and does not start CUDA.
        variables = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", **launch.environment}
        with theirs:
            self._server = subprocess.Popen(
                tethered([*SERVER, str(theirs.fileno())]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=variables,
                cwd=launch.directory,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        self._channel, self._refuses = ours, False
        self._starts += 1

    def receive(self) -> None:
        """Read what the server has answered, and notice its end."""
        while self._channel is not None:
            try:
                answer = self._channel.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                answer = b""
            if not answer:
                self.kill()
                return
            self._learn(json.loads(answer))

    def _learn(self, answer: Mapping[str, int]) -> None:
        number = answer["number"]
        if "process" in answer:
            self._forks[number].process = answer["process"]
            return
        fork = self._forks.pop(number)
        if "code" in answer:
            fork.code = answer["code"]
        else:
            self._refuses = True
            fork.start_fresh()

    def kill(self) -> None:
        """End the server and its forks; a trial that it has not forked yet starts afresh."""
        if self._server is None or self._channel is None:
            return
        self._channel.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        self._server = self._channel = None
        forks, self._forks = tuple(self._forks.values()), {}
        for fork in forks:
            fork.lose()


class _Fork:
    """A trial as a fork of the server, or as a fresh process if it could not be forked."""

    def __init__(self, server: ForkServer, launch: Launch) -> None:
        self._server = server
        self._launch = launch
        self._fresh: FreshProcess | None = None
        self.process: int | None = None
        self.code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while the trial runs."""
        if self._fresh is None and self.code is None:
            self._server.receive()
        return self.code if self._fresh is None else self._fresh.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: It has not ended after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() >= end:
                raise subprocess.TimeoutExpired(self._launch.command, timeout or 0)
            time.sleep(POLL_SECONDS)
        return code

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the trial and its child processes."""
        if self._fresh is None and self.process is None and self.code is None:
            # It may have begun since the last look, and have child processes already.
            self._server.receive()
        if self._fresh is not None:
            self._fresh.signal_group(number)
        elif self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process, number)
        elif self.code is None:
            # Only a run that stops signals a trial that has not begun.
            self.code = -number
            self._server.kill()

    def start_fresh(self) -> None:
        """Start the trial as a process of its own."""
        self._fresh = start_fresh(self._launch)

    def lose(self) -> None:
        """Note that the server has ended, which has ended the trial.

        The signal is that of a lost terminal, since nothing is known of the trial itself.
        """
        if self.process is not None:
            self.code = -signal.SIGHUP
        elif self.code is None:
            self.start_fresh()


def can_fork() -> bool:
    """Whether trials may be forked: on Linux, if no launcher has started this process."""
    return sys.platform.startswith("linux") and not is_launched()
