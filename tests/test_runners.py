"""Trials by the dozen: none twice, none lost, none left running, and every failure told.

The command is a stand-in that starts in no time; what a real trial does is tested elsewhere.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pretend
import pytest
from builders import trial_spec
from pretend import gone, notes
from waiting import PATIENCE, until

from plop_lora.recipe import Runner
from plop_lora.records import TrainingSettings, TrialResult
from plop_lora.records.trial import TrialSpec
from plop_lora.training.runners import local, trial_process
from plop_lora.training.runners.events import FINISHED, RUNNING, Event
from plop_lora.training.runners.run import run_trials
from plop_lora.training.runners.trial_process import TrialCommand
from plop_lora.training.runners.warm import ForkServer
from plop_lora.training.trial import trial_folder

TWO = Runner(workers=2)
QUICK = {"learning_rate": 0.001}
"""Seconds that a step of the stand-in takes."""


only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks trials")
RunHere = Callable[..., tuple[TrialResult, ...]]


@pytest.fixture(params=["fresh", pytest.param("forked", marks=[pytest.mark.slow, only_linux])])
def run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunHere]:
    """Trials as processes of their own, and as forks of a server."""
    is_forked = request.param == "forked"
    command = pretend.forked(tmp_path, monkeypatch) if is_forked else pretend.command(tmp_path)

    def run_here(*specs: TrialSpec, runner: Runner = TWO, **options) -> tuple[TrialResult, ...]:
        return run_trials(specs, tmp_path / "run", runner, command=command, **options)

    with ForkServer() as server:
        yield functools.partial(run_here, server=server) if is_forked else run_here


def test_a_trial_leaves_its_files(run, tmp_path: Path) -> None:
    """Whoever asks later why a trial failed has its log."""
    one = trial_spec(**QUICK)
    run(one)
    folder = trial_folder(tmp_path / "run", one)
    assert {"spec.json", "log.txt", "result.json"} <= {path.name for path in folder.iterdir()}
    assert "training good" in (folder / "log.txt").read_text()


def test_finished_trials_need_no_runner(run) -> None:
    """Reading results must not start a cluster, or wait for one."""
    one = trial_spec(**QUICK)
    assert run(one) == run(one, runner=Runner(kind="ray", address="127.0.0.1:9"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "cause"),
    [
        ("crash", "killed by SIGSEGV; the last line of log.txt: training crash"),
        ("error", "No such model: toy. Give a folder."),
        ("silent", "ended with exit code 0 and no result.json; the last line of log.txt"),
        ("fails", "the loss is NaN"),
        ("terminated", "killed by SIGTERM"),
    ],
)
def test_a_death_is_recorded_with_its_cause_and_sinks_nothing(
    run, tmp_path: Path, arm: str, cause: str
) -> None:
    broken, sound = run(trial_spec(arm, **QUICK), trial_spec(**QUICK))
    assert (broken.status, sound.status) == ("failed", "done")
    assert broken.cause is not None
    assert cause in broken.cause
    assert broken.metric == "loss"
    assert broken.trainable_parameters == 64
    (again,) = run(trial_spec(arm, **QUICK))
    assert again.cause == broken.cause
    # What the trial wrote itself is finished; all else the machine or the user can mend.
    assert again.mendable == broken.mendable == (arm != "fails")
    attempts = {"fails": 1, "crash": 4, "terminated": 4}.get(arm, 2)
    assert len(notes(tmp_path / "run", "start")) == 1 + attempts


@pytest.mark.parametrize("arm", ["killed", "memory"])
def test_a_lack_of_memory_gets_half_the_batch_once(run, tmp_path: Path, arm: str) -> None:
    """Endless halving would hide that the machine is too small; none would waste a whole arm."""
    (broken,) = run(trial_spec(arm, **QUICK))
    assert [words[2] for words in notes(tmp_path / "run", "start")] == ["None", "4"]
    assert broken.status == "failed"
    assert broken.batch_size == 4
    assert ("SIGKILL" if arm == "killed" else "out of memory") in (broken.cause or "")
    assert broken.cost.wall_seconds > 0


@pytest.mark.parametrize("arm", ["killed-once", "big"])
def test_half_the_batch_may_succeed(run, arm: str) -> None:
    (sound,) = run(trial_spec(arm, **QUICK))
    assert (sound.status, sound.batch_size) == ("done", 4)


def test_a_batch_of_one_is_not_halved(run, tmp_path: Path) -> None:
    settings = TrainingSettings(device="cpu", batch_size=1)
    (broken,) = run(trial_spec("memory", training=settings, **QUICK))
    assert broken.status == "failed"
    assert len(notes(tmp_path / "run", "start")) == 1


def test_trackers_reach_the_command(run, tmp_path: Path) -> None:
    run(trial_spec(**QUICK), report_to=("trackio", "mlflow"))
    assert notes(tmp_path / "run", "start")[0][3:5] == ["trackio", "mlflow"]


# --------------------------------------------------------------------------- places


def _jobs(number: int, device: str = "auto") -> list[TrialCommand]:
    one = trial_spec(training=TrainingSettings(device=device))
    return [TrialCommand(one, Path("x"), (), Path())] * number


def _has_gpus(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Put an `nvidia-smi` first that lists these identifiers, or, without any, finds no driver."""
    lines = [f"GPU {number}: A (UUID: {name})" for number, name in enumerate(names)]
    listing = "\n".join(lines)
    tool = folder / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ncat <<END\n{listing}\nEND\n" if names else "#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))


def test_one_trial_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials that share a GPU unasked run out of its memory."""
    _has_gpus(tmp_path, monkeypatch, "GPU-3", "GPU-5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = local.places(_jobs(4), Runner())
    assert [place.variables["CUDA_VISIBLE_DEVICES"] for place in found] == ["GPU-3", "GPU-5"]
    assert all(place.hardware.accelerator for place in found)
    shared = local.places(_jobs(4), Runner(workers=3))
    assert [place.variables["CUDA_VISIBLE_DEVICES"] for place in shared] == [
        "GPU-3",
        "GPU-5",
        "GPU-3",
    ]
    on_cpu = local.places(_jobs(4, "cpu"), Runner(workers=1))
    assert "CUDA_VISIBLE_DEVICES" not in on_cpu[0].variables
    assert not on_cpu[0].hardware.accelerator


def test_cores_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _has_gpus(tmp_path, monkeypatch)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = local.places(_jobs(8), Runner())
    assert [place.variables for place in found] == [{"OMP_NUM_THREADS": "2"}] * 4
    assert local.places(_jobs(1), Runner())[0].variables == {"OMP_NUM_THREADS": "9"}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert local.places(_jobs(8), Runner())[0].variables == {}


def test_a_gpu_of_the_users_choice_reaches_the_command(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _has_gpus(tmp_path, monkeypatch, "GPU-1a")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run(trial_spec(training=TrainingSettings(), **QUICK), runner=Runner())
    assert notes(tmp_path / "run", "start")[0][3:] == ["3", "GPU-1a"]


# --------------------------------------------------------------------------- the end of a run


@pytest.fixture
def usual_signals():
    """Handle both signals as a program of the command line does, whatever runs the tests."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert after == usual


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["long", "stubborn", "child"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_trials_and_records_none(
    run,
    usual_signals: None,
    tmp_path: Path,
    number: signal.Signals,
    arm: str,
) -> None:
    """Ctrl-C must neither leave a finetune on the GPU nor a failure that was none."""
    root = tmp_path / "run"
    specs = [trial_spec(arm, seed=n) for n in range(3)]

    def interrupt() -> None:
        for each in specs[:2]:
            until(lambda each=each: (trial_folder(root, each) / "curve.jsonl").exists())
            if arm == "child":
                child = trial_folder(root, each) / "child"
                until(lambda child=child: child.exists() and child.read_text() != "")
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
        run(*specs, stop_seconds=0.5)
    sender.join()
    assert len(notes(root, "start")) == 2
    pids = [int(words[1]) for words in notes(root, "start")]
    pids += [int(path.read_text()) for path in root.glob("*/child")]
    until(lambda: all(gone(pid) for pid in pids))
    assert not list(root.glob("*/result.json"))


@pytest.mark.slow
def test_a_trial_that_dies_of_the_same_signal_as_the_run_has_not_failed(
    run, usual_signals: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler signals every process of a job; the trial may go before its runner hears it."""
    root, long = tmp_path / "run", trial_spec("long")
    sees, sent = threading.Event(), threading.Event()

    def wait_for_the_signal(_: float) -> None:
        sees.set()
        assert sent.wait(PATIENCE)

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=wait_for_the_signal)
    monkeypatch.setattr(trial_process, "time", clock)

    def interrupt() -> None:
        until(lambda: (trial_folder(root, long) / "curve.jsonl").exists())
        os.kill(int(notes(root, "start")[0][1]), signal.SIGTERM)
        assert sees.wait(PATIENCE)  # the runner has found the trial dead
        os.kill(os.getpid(), signal.SIGTERM)
        sent.set()

    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.raises(SystemExit):
        run(long)
    sender.join()
    assert not list(root.glob("*/result.json"))


_RUNNER = """
import sys
from pathlib import Path
from builders import trial_spec
from plop_lora.recipe import RUNNERS, Runner
from plop_lora.training.runners.run import run_trials

root, command = Path(sys.argv[1]), tuple(sys.argv[3:])
specs = [trial_spec(sys.argv[2], seed=n, learning_rate=0.1) for n in range(6)]
run_trials(specs, root, Runner(workers=2), command=command)
"""


def _start_runner(root: Path, arm: str, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent / "src")])
    return subprocess.Popen(
        [sys.executable, "-c", _RUNNER, str(root), arm, *command],
        env=os.environ | {"PYTHONPATH": paths},
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_no_trial_outlives_a_killed_runner(tmp_path: Path) -> None:
    """Nobody would know of it, and it would hold its GPU for hours."""
    root = tmp_path / "run"
    runner = _start_runner(root, "long", pretend.command(tmp_path))
    try:
        until(lambda: len(notes(root, "start")) == 2)
    finally:
        runner.kill()
        runner.wait()
    until(lambda: all(gone(int(words[1])) for words in notes(root, "start")))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
@pytest.mark.parametrize("luck", [1, 2, 3])
def test_a_run_that_was_killed_goes_on(tmp_path: Path, luck: int) -> None:
    """SIGKILL at any moment: no trial runs on, what was finished stays, the rest runs once."""
    root, command = tmp_path / "run", pretend.command(tmp_path)
    runner = _start_runner(root, "good", command)
    try:
        until(lambda: bool(notes(root, "start")))
        time.sleep(random.Random(luck).uniform(0.0, 1.2))
    finally:
        runner.kill()
        runner.wait()
    until(lambda: all(gone(int(words[1])) for words in notes(root, "start")))
    kept = {path: path.stat().st_mtime_ns for path in root.glob("*/result.json")}
    specs = [trial_spec(seed=n, learning_rate=0.1) for n in range(6)]
    results = run_trials(specs, root, TWO, command=command)
    assert [(r.seed, r.status) for r in results] == [(n, "done") for n in range(6)]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    starts = Counter(words[0] for words in notes(root, "start"))
    finished = [s.digest() for s in specs if trial_folder(root, s) / "result.json" in kept]
    assert len(finished) == len(kept)
    assert [starts[digest] for digest in finished] == [1] * len(finished)
    assert set(starts) == {s.digest() for s in specs}
    assert max(starts.values()) <= 2


def test_a_run_in_a_thread_leaves_the_signals_alone(run) -> None:
    """Python lets only its main thread handle signals; a notebook's worker is another."""
    results: list[TrialResult] = []
    thread = threading.Thread(target=lambda: results.extend(run(trial_spec(**QUICK))))
    thread.start()
    thread.join()
    assert results[0].done


@pytest.mark.slow
def test_two_runs_in_one_folder_share_the_trials(run, tmp_path: Path) -> None:
    """The same command on two machines must halve the time, not double the cost."""
    specs = [trial_spec(seed=n, learning_rate=0.05) for n in range(4)]
    others: list[TrialResult] = []
    seen: list[Event] = []
    thread = threading.Thread(target=lambda: others.extend(run(*specs)))
    thread.start()
    until(lambda: bool(notes(tmp_path / "run", "start")))
    results = run(*reversed(specs), watch=seen.append)
    thread.join()
    assert tuple(others) == results[::-1]
    assert Counter(words[0] for words in notes(tmp_path / "run", "start")) == {
        each.digest(): 1 for each in specs
    }
    assert sum(event.state == FINISHED for event in seen) == 4
    assert sum(event.state == RUNNING for event in seen) < 4


# --------------------------------------------------------------------------- examples


def test_the_slurm_array_runs_the_trial_of_its_number(tmp_path: Path) -> None:
    """The example is what people copy: it must pick the right line and skip what is finished."""
    script = Path(__file__).parents[1] / "examples" / "slurm_array.sh"
    root, command = tmp_path / "run", pretend.command(tmp_path)
    specs = [trial_spec(seed=n, **QUICK) for n in range(2)]
    paths = [each.save(trial_folder(root, each) / "spec.json") for each in specs]
    (tmp_path / "specs.txt").write_text("".join(f"{path}\n" for path in paths))
    environment = os.environ | {"PLOP_TRIAL": " ".join(command)}
    for number in ("2", "2", "1"):
        subprocess.run(
            ["bash", str(script), str(tmp_path / "specs.txt")],
            env=environment | {"SLURM_ARRAY_TASK_ID": number},
            check=True,
        )
    assert [words[0] for words in notes(root, "start")] == [s.digest() for s in reversed(specs)]
    assert "training good" in (paths[0].parent / "log.txt").read_text()
