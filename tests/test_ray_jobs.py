"""`runner: kind: ray` on a local cluster that the test starts; nothing here reaches another."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pretend
import pytest
from builders import trial_spec
from pretend import gone, notes
from waiting import until

from plop_lora.errors import MachineError, UsageError
from plop_lora.ray_cluster import connected
from plop_lora.recipe import Runner
from plop_lora.training.runners import ray_jobs
from plop_lora.training.runners.events import FINISHED, RUNNING, WAITING, Event
from plop_lora.training.runners.run import run_trials

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own, which differ by version
]
RAY = Runner(kind="ray")


def test_ray_equals_the_local_pool(ray_cluster: None, tmp_path: Path) -> None:
    """Where a trial runs must not show in its result; a lost worker costs a second start."""
    command = pretend.command(tmp_path)
    arms = ("good", "worker-killed-once", "error", "big")
    specs = [trial_spec(arm, seed=n, learning_rate=0.05) for n, arm in enumerate(arms)]
    seen: list[Event] = []
    there = run_trials(specs, tmp_path / "ray", RAY, watch=seen.append, command=command)
    here_specs = [dataclasses.replace(specs[1], arm="good") if n == 1 else each
                  for n, each in enumerate(specs)]  # fmt: skip
    here = run_trials(here_specs, tmp_path / "local", Runner(), command=command)
    for one, other in zip(there, here, strict=True):
        assert (one.status, one.cause, one.metrics) == (other.status, other.cause, other.metrics)
        assert (one.metric, one.batch_size) == (other.metric, other.batch_size)
    assert [r.spec_digest for r in there] == [s.digest() for s in specs]
    starts = Counter(words[0] for words in notes(tmp_path / "ray", "start"))
    assert [starts[s.digest()] for s in specs] == [1, 2, 1, 2]
    for each in specs:
        states = [event.state for event in seen if event.spec == each]
        assert states == [WAITING, RUNNING, FINISHED]


def test_a_worker_lost_for_good_is_a_failed_trial(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial that takes its worker down each time must not take the others down."""
    monkeypatch.setattr(ray_jobs, "RETRIES", 0)
    command = pretend.command(tmp_path)
    lost, sound = run_trials(
        [trial_spec("worker-killed-once"), trial_spec(learning_rate=0.01)], tmp_path / "run", RAY,
        command=command,
    )  # fmt: skip
    assert (lost.status, sound.status) == ("failed", "done")
    assert lost.cause is not None
    assert "Ray worker was lost 1 times" in lost.cause


def test_what_ends_the_run_ends_its_trials(ray_cluster: None, tmp_path: Path) -> None:
    """A trial that runs on in the cluster holds its GPU for nobody."""
    command = pretend.command(tmp_path)

    def stop(event: Event) -> None:
        if event.state == RUNNING:
            until(lambda: notes(tmp_path / "run", "start"))
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run_trials([trial_spec("long")], tmp_path / "run", RAY, watch=stop, command=command)
    pid = int(notes(tmp_path / "run", "start")[0][1])
    until(lambda: gone(pid))
    assert not list((tmp_path / "run").glob("*/result.json"))


def test_more_gpus_than_a_machine_has_are_refused(ray_cluster: None, tmp_path: Path) -> None:
    """Ray itself would wait for such a machine for ever."""
    with pytest.raises(UsageError, match=r"runner\.gpus 64 is not possible"):
        run_trials([trial_spec()], tmp_path, Runner(kind="ray", gpus=64), command=("false",))


def test_a_cluster_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends with a bare exception where the machine is too busy, as if this was a fault."""

    def slow(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen.")

    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(
        MachineError, match=r"Ray does not start: The current node timed out.* again"
    ):
        with connected():
            pass


def test_no_cluster_is_told_at_once(tmp_path: Path) -> None:
    runner = Runner(kind="ray", address="127.0.0.1:9")
    with pytest.raises(UsageError, match=r"No Ray cluster answers at 127\.0\.0\.1:9"):
        run_trials([trial_spec()], tmp_path, runner, command=("false",))
