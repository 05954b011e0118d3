"""`--engine ray` on a local cluster that the tests start; nothing here reaches another machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

import plop_lora as plop
from plop_lora.demo import DATA, MODEL, TASKS
from plop_lora.errors import DataError, ModelError, ProcessError, UsageError
from plop_lora.scoring.engines import ray_tasks
from plop_lora.scoring.engines.ray_tasks import run_tasks

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own, which differ by version
]


def _score(**options: object) -> plop.Scores:
    documents = plop.load_documents(DATA / "problems.jsonl", **TASKS["problems"], samples=6)
    return plop.score(str(MODEL), texts=documents, batch_size=2, progress=False, **options)


def test_ray_equals_one_process(ray_cluster: None) -> None:
    """A task that measured other sites, or put its sums elsewhere, would move a score."""
    further = ["response-gain", "rank-of-weights"]
    spread, here = (_score(engine=one, indicators=further) for one in ("ray", "memory"))
    engines = [scores.provenance.settings["engine"] for scores in (spread, here)]
    assert engines == ["ray", "memory"]
    assert spread.measurements.sequence_ids == here.measurements.sequence_ids
    assert spread.measurements.counts == here.measurements.counts
    for row, expected in zip(spread.measurements.sums, here.measurements.sums, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    assert [t.type for t in spread.types] == [t.type for t in here.types]
    for held, known in zip(spread.indicators, here.indicators, strict=True):
        assert held.values == pytest.approx(known.values, rel=1e-5), held.indicator
    assert spread.provenance.data_fingerprint == here.provenance.data_fingerprint


def test_a_lost_workers_shard_is_run_again(ray_cluster: None, tmp_path: Path) -> None:
    """One worker is killed in the middle of its shard; every shard still has its result."""
    flag = str(tmp_path / "killed")

    def shard(number: int) -> int:
        if number == 1 and not os.path.exists(flag):
            open(flag, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    assert dict(run_tasks(shard, [(n,) for n in range(4)])) == {0: 0, 1: 1, 2: 4, 3: 9}
    assert os.path.exists(flag)


def test_a_worker_lost_for_good_ends_the_run(ray_cluster: None) -> None:
    """A shard that kills each of its workers must end in one error and not in a wait."""

    def shard(number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ProcessError, match="lost 1 times on the same shard"):
        list(run_tasks(shard, [(0,)], retries=0))


def test_an_error_of_a_worker_is_told_as_ours(ray_cluster: None) -> None:
    """Ray wraps errors in pages of traceback; the user needs the line that we wrote."""

    def shard(number: int) -> None:
        raise DataError("the worker's own words")

    with pytest.raises(DataError, match=r"^the worker's own words$"):
        list(run_tasks(shard, [(0,)]))


def test_workers_with_other_modules_are_refused(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of two different models must never be added up."""
    monkeypatch.setattr(ray_tasks, "run_tasks", lambda *_: iter([(0, (("other.module",), None))]))
    with pytest.raises(ModelError, match="finds other modules"):
        _score(engine="ray")


def test_no_cluster_is_told_at_once() -> None:
    """Ray itself asks a silent address again for more than a minute."""
    with pytest.raises(UsageError, match=r"No Ray cluster answers at 127\.0\.0\.1:9"):
        _score(engine="ray", ray_address="127.0.0.1:9")


def test_ray_needs_a_name() -> None:
    with pytest.raises(UsageError, match="give its name or folder"):
        plop.score(torch.nn.Linear(2, 2), batches=[{"input": torch.ones(1, 1, 2)}], engine="ray")
