"""A command that stands for a trial, and what a test asks of its processes; no training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from plop_lora.training.runners import warm

# What the arm is called is what happens. Reads and writes as the real command does, but imports
# the standard library only, so that it starts in no time.
_FAKE = """
import argparse, json, os, pathlib, signal, sys, time

parser = argparse.ArgumentParser()
parser.add_argument("spec", type=pathlib.Path)
parser.add_argument("--batch-size", type=int)
parser.add_argument("--report-to", action="append", default=[])
given = parser.parse_args()
spec, folder = json.loads(given.spec.read_text()), given.spec.parent
digest, arm = spec["digest"], spec["arm"]


def note(what):
    words = " ".join([what, digest, str(os.getpid()), str(given.batch_size), *given.report_to,
                      os.environ.get("OMP_NUM_THREADS", ""),
                      os.environ.get("CUDA_VISIBLE_DEVICES", "")])
    with open(folder.parent / "notes.txt", "a") as file:
        file.write(words + "\\n")


def first():
    try:
        open(folder / "once", "x").close()
    except FileExistsError:
        return False
    return True


note("start")
print("training", arm)
if arm == "killed" or (arm == "killed-once" and first()):
    os.kill(os.getpid(), signal.SIGKILL)
if arm == "worker-killed-once" and first():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
if arm == "crash" or (arm == "crash-once" and first()):
    os.kill(os.getpid(), signal.SIGSEGV)
if arm == "terminated":
    os.kill(os.getpid(), signal.SIGTERM)
if arm == "memory" or (arm == "big" and given.batch_size is None):
    sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
if arm == "error":
    sys.exit("Error: No such model: toy. Give a folder.")
if arm == "silent":
    sys.exit(0)
if arm == "child":
    os.spawnvp(os.P_NOWAIT, sys.executable, [sys.executable, "-c",
               "import os, time; open('%s', 'w').write(str(os.getpid())); time.sleep(600)"
               % (folder / "child")])
if arm == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for step in range(3):
    with open(folder / "curve.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "loss": 3 - step}) + "\\n")
    time.sleep(600 if arm in ("long", "stubborn", "child") else spec["learning_rate"])
failed = arm == "fails"
note("end")
result = {
    "kind": "trial-result", "schema_version": 1, "spec_digest": digest, "arm": arm,
    "seed": spec["seed"], "phase": spec["phase"], "learning_rate": spec["learning_rate"],
    "status": "failed" if failed else "done", "cause": "the loss is NaN" if failed else None,
    "metric": "loss", "metrics": {} if failed else {"loss": 1 + spec["seed"] / 10}, "items": {},
    "trainable_parameters": 64, "batch_size": given.batch_size or 8,
    "cost": {"wall_seconds": 1.0, "train_seconds": 0.5, "evaluate_seconds": 0.1, "devices": 1,
             "device": "x86_64", "accelerator": False, "peak_memory": 1, "tokens": 10},
}
(folder / "result.part").write_text(json.dumps(result))
os.replace(folder / "result.part", folder / "result.json")
"""


def command(folder: Path) -> tuple[str, ...]:
    """Write the stand-in into a folder and return its command line."""
    path = folder / "fake_trial.py"
    path.write_text(_FAKE)
    return (sys.executable, "-S", str(path))


# The server that forks trials, as it is, but with nothing to import and the stand-in to run.
_SERVER = """
import runpy, sys
from plop_lora.cli import fork_server

def run():
    sys.argv = sys.argv[1:]
    runpy.run_path({path!r}, run_name="__main__")

fork_server.prepare, fork_server.main = (lambda spec: {ready}), run
fork_server.run()
"""


def forked(folder: Path, monkeypatch: pytest.MonkeyPatch, *, ready: bool = True) -> tuple[str, ...]:
    """Return the command of the stand-in, which a `ForkServer` now forks, or refuses to fork."""
    words = command(folder)
    path = folder / "fork_server.py"
    path.write_text(_SERVER.format(path=words[-1], ready=ready))
    monkeypatch.setattr(warm, "COMMAND", words)
    monkeypatch.setattr(warm, "SERVER", (sys.executable, str(path)))
    return words


def notes(root: Path, what: str) -> list[list[str]]:
    """Return the words of every start or end: digest, process, batch size, trackers, variables."""
    path = root / "notes.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split(" ")[1:] for line in lines if line.startswith(f"{what} ")]


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet counts as ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"
