"""The program that trials are forked from: it imports the libraries once and keeps the model.

Started by `training.runners.warm` with the number of a socket. A request is the spec of a trial,
the words of its command behind `trial`, its environment and its directory, with two open files, the
log and the claim. The answers are the number of its process, and its exit code when it has ended.

This program itself uses no accelerator and computes nothing but the loading of a model, so that a
fork begins as a fresh process that has imported and loaded the same. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from plop_lora.cli import hush, main
from plop_lora.records import TrialSpec

REAP_SECONDS = 0.05
"""Seconds between checks whether a trial has ended."""
NOT_FORKED = 75
"""Exit code of a fork that cannot use its device (EX_TEMPFAIL of sysexits.h)."""
_LARGEST = 1 << 20
_FILES = 2
_SETTLE_SECONDS = 2.0
"""Seconds that the threads of a library get to end after a model was loaded."""
_PR_SET_PDEATHSIG = 1


class _Server:
    """The requests, and the running trials: number of the request by number of the process."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.running: dict[int, int] = {}

    def serve(self) -> list[str] | None:
        """Fork a trial for each request; end when the runner has closed the socket.

        Returns:
            In a fork, the words of its trial; in the server, None.
        """
        while True:
            wait = REAP_SECONDS if self.running else None
            if select.select([self.channel], [], [], wait)[0]:
                message, files, _, _ = socket.recv_fds(self.channel, _LARGEST, _FILES)
                if not message:
                    return None
                request = json.loads(message)
                if self._fork(request, files):
                    return list(request["words"])
            self._reap()

    def _fork(self, request: dict[str, Any], files: list[int]) -> bool:
        """Fork a trial, or refuse it; return whether this process is the fork."""
        number, server = request["number"], os.getpid()
        try:
            if not prepare(Path(request["spec"])):
                self._answer(number, refused=True)
                return False
            with warnings.catch_warnings():
                # Python 3.12 warns of any thread. Those that OpenBLAS and jemalloc start on import
                # are stopped and started again by their own handlers of forks.
                warnings.simplefilter("ignore", DeprecationWarning)
                process = os.fork()
            if not process:
                self.channel.close()
                become(request, server, files[0])
                return True
            with contextlib.suppress(OSError):
                # Here as well, so that the group exists when the runner learns of the process.
                os.setpgid(process, process)
            self.running[process] = number
            self._answer(number, process=process)
            return False
        finally:
            if os.getpid() == server:
                for file in files:
                    os.close(file)

    def _reap(self) -> None:
        """Report the trials that have ended."""
        while self.running:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            number = self.running.pop(process, None)
            code = os.waitstatus_to_exitcode(status)
            if number is not None and code == NOT_FORKED:
                self._answer(number, refused=True)
            elif number is not None:
                self._answer(number, code=code)

    def _answer(self, number: int, **what: int) -> None:
        # A runner that is gone takes this process with it.
        with contextlib.suppress(OSError):
            self.channel.send(json.dumps({"number": number, **what}).encode())


def prepare(spec: Path) -> bool:
    """Import what a trial needs and load its model; return whether the process may then be forked.

    It may not if a library has left threads that a fork would lack. Errors are left to the trial,
    which reports them.
    """
    before = _threads()
    gc.unfreeze()
    with contextlib.suppress(Exception):
        asked = TrialSpec.load(spec)
        import_libraries(asked.task)
        from plop_lora.training.kept_base import keep_base

        before = _threads()
        keep_base(asked)
    # The collector of a fork would otherwise write to, and so copy, the pages of every object.
    gc.freeze()
    end = time.monotonic() + _SETTLE_SECONDS
    while _threads() > before and time.monotonic() < end:
        time.sleep(REAP_SECONDS / 5)
    return _threads() <= before and threading.active_count() == 1


def _threads() -> int:
    """Return the number of threads of this process, with those that Python does not know."""
    return len(os.listdir("/proc/self/task"))


def import_libraries(task: str) -> None:
    """Import what a trial of a task imports; a user's own task is imported by its trial alone."""
    if task == "classify":
        pass
    if task in ("sft", "grpo"):
        import datasets  # noqa: F401
        from peft.optimizers import create_loraplus_optimizer  # noqa: F401

    if task == "sft":
        from trl import SFTTrainer  # noqa: F401
    if task == "grpo":
        from trl import GRPOTrainer  # noqa: F401


def become(request: dict[str, Any], server: int, log: int) -> None:
    """Make this process the trial's: its group, its files, its environment and its directory.

    It ends when the server ends, as the server does with the runner.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    os.setpgid(0, 0)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if _has_lost_the_accelerator():
        os._exit(NOT_FORKED)


def _has_lost_the_accelerator() -> bool:
    """Whether the server has started CUDA, by a library that did so on import."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda._is_in_bad_fork())


def run() -> None:
    """Serve until the runner is gone; in a fork, run the command of its trial."""
    hush()
    words = _Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if words is not None:
        sys.argv = ["plop", "trial", *words]
        main()


if __name__ == "__main__":
    run()
