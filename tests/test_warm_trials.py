"""Trials that are forked from one process: the numbers of fresh ones, and no fault that spreads."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pretend
import pytest
import torch
from builders import trial_spec
from pretend import gone, notes
from trials import LABELS, checkpoint, rows, spec_of, write_data
from waiting import until

import plop_lora as plop
from plop_lora.launcher import WHOLE
from plop_lora.recipe import Runner
from plop_lora.records import AdapterSettings, TrialResult, TrialSpec
from plop_lora.training import kept_base
from plop_lora.training.kept_base import base_of, keep_base
from plop_lora.training.runners.run import run_trials, warm_trials
from plop_lora.training.runners.warm import ForkServer
from plop_lora.training.trial import trial_folder
from plop_lora.training.weights import weights_key

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks trials")
QUICK = {"learning_rate": 0.001}
ONE = Runner(workers=1)

_FAILING = """
import dataclasses
from plop_lora.training.tasks.sft import SFT

def train(spec, prepared, rows, session):
    for parameter in prepared.model.parameters():
        parameter.data.zero_()
    prepared.model.register_forward_hook(lambda *given: 1 / 0)
    raise ValueError("midway")

TASK = dataclasses.replace(SFT, train=train)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder and an encoder, the rows of their trials, and two tasks of the user's own."""
    folder = tmp_path_factory.mktemp("warm")
    checkpoint(folder / "decoder", "LlamaForCausalLM")
    checkpoint(folder / "encoder", "BertModel")
    write_data(folder)
    (folder / "failing.py").write_text(_FAILING)
    (folder / "other.py").write_text("from plop_lora.training.tasks.sft import SFT\nTASK = SFT\n")
    return folder


def specs_on(folder: Path, model: str, **changes: object) -> Callable[..., TrialSpec]:
    """Return a function that makes specs of trials of one model, whose weights they identify."""
    name = str(folder / model)
    texts = [row["text"] for row in rows(16)]
    scores = plop.score(name, texts=texts, device="cpu", progress=False)
    written = write_data(folder)
    data = dataclasses.replace(
        written, train=str(folder / written.train), evaluation=str(folder / written.evaluation)
    )
    weights = weights_key(Path(name))

    def make(init: str = "default", **others: object) -> TrialSpec:
        placement = plop.place(scores, rank=4, settings=AdapterSettings(init=init))
        given = {"weights": weights, "model": name, **changes, **others}
        return spec_of(given.pop("model"), placement, data, **given)

    return make


@pytest.fixture(scope="module")
def sft(here: Path) -> Callable[..., TrialSpec]:
    return specs_on(here, "decoder", task="sft", labels=())


@pytest.fixture(scope="module")
def classify(here: Path) -> Callable[..., TrialSpec]:
    return specs_on(here, "encoder", task="classify", labels=LABELS)


def outcome(result: TrialResult) -> object:
    """Return all of a result that is no measure of time or memory."""
    last = {k: v for k, v in result.last_log.items() if "runtime" not in k and "second" not in k}
    return result.status, result.cause, result.metrics, result.items, last, result.notes


@pytest.mark.slow
def test_forked_trials_have_the_numbers_of_fresh_ones(
    here: Path, sft, classify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one trial leaves behind, in weights, hooks or random numbers, would move the next."""
    monkeypatch.chdir(here)
    specs = [
        sft(), sft("pissa", seed=1), sft("olora"), sft("eva", seed=2),
        sft(task="failing:TASK"), sft(seed=1, learning_rate=3e-2), sft(task="other:TASK"),
        classify(), classify(seed=1), sft("pissa_niter_4"), sft("orthogonal"), sft(),
    ]  # fmt: skip
    with ForkServer() as server:
        forked = run_trials(specs, tmp_path / "forked", ONE, server=server)
        assert (server._starts, server._refuses) == (1, False)
    fresh = run_trials(specs, tmp_path / "fresh", Runner(workers=1, warm_workers=False))
    assert list(map(outcome, forked)) == list(map(outcome, fresh))
    assert [result.cause for result in forked if not result.done] == ["ValueError: midway"]
    for spec in specs:
        curves = [
            [json.loads(line).get("loss") for line in path.read_text().splitlines()]
            for kind in ("forked", "fresh")
            if (path := trial_folder(tmp_path / kind, spec) / "curve.jsonl").exists()
        ]
        assert curves[0] == curves[1]
    for one, other in zip(forked, fresh, strict=True):
        # The peak is that of the trial's own process: it does not grow from one to the next.
        assert 0 < one.cost.peak_memory < 1.2 * other.cost.peak_memory


# --------------------------------------------------------------------------- the kept model


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    kept_base._tried.clear()
    yield
    kept_base._tried.clear()


def test_the_kept_model_is_given_once_and_is_the_one_that_would_be_loaded(sft) -> None:
    """A second attempt after a lack of memory would train on what the first had changed."""
    spec = sft(seed=5)
    loaded = base_of(spec)
    state = torch.get_rng_state()
    assert keep_base(sft())
    assert keep_base(spec)
    kept = base_of(spec)
    assert torch.equal(torch.get_rng_state(), state)
    assert kept.model is not base_of(spec).model
    weights = zip(kept.model.state_dict().items(), loaded.model.state_dict().items(), strict=True)
    assert all(one == two and torch.equal(a, b) for (one, a), (two, b) in weights)
    assert kept.model.training == loaded.model.training


def test_another_model_takes_the_place_of_the_kept_one(sft) -> None:
    assert keep_base(sft())
    half = sft()
    half = dataclasses.replace(half, training=dataclasses.replace(half.training, dtype="bfloat16"))
    assert keep_base(half)
    assert len(kept_base._tried) == 1
    assert next(base_of(sft()).model.parameters()).dtype == torch.float32
    assert next(base_of(half).model.parameters()).dtype == torch.bfloat16


def test_a_drawn_head_is_not_kept(classify) -> None:
    """It follows from the seed: every seed would have the head of the first."""
    assert not keep_base(classify())


@pytest.mark.parametrize(
    "changes", [{"task": "other:TASK"}, {"weights": None}, {"weights": "of another time"}]
)
def test_what_may_change_is_not_kept(sft, changes: dict[str, object]) -> None:
    if changes == {"weights": "of another time"}:
        with pytest.raises(plop.PlopError, match="have changed"):
            keep_base(sft(**changes))
    else:
        assert not keep_base(sft(**changes))


def test_a_quantised_model_is_not_kept(here: Path, sft, tmp_path: Path) -> None:
    """Its kernels may start the accelerator, which no fork could use then."""
    model = shutil.copytree(here / "decoder", tmp_path / "quantised")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (model / "config.json").write_text(json.dumps(config))
    assert not keep_base(sft(model=str(model), weights=weights_key(model)))


def test_an_error_of_loading_is_left_to_the_trial(here: Path, sft, tmp_path: Path) -> None:
    model = shutil.copytree(here / "decoder", tmp_path / "broken")
    (model / "model.safetensors").write_bytes(b"no weights")
    assert not keep_base(sft(model=str(model), weights=weights_key(model)))


# --------------------------------------------------------------------------- faults


@pytest.fixture
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


def test_all_trials_of_a_run_come_from_one_server(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a server for each call a search would import the libraries once a trial."""
    command = pretend.forked(tmp_path, monkeypatch)
    for seed in range(3):
        spec = trial_spec(seed=seed, **QUICK)
        (result,) = run_trials([spec], tmp_path / "run", ONE, command=command, server=server)
        assert result.done
    assert len(notes(tmp_path / "run", "start")) == 3
    assert server._starts == 1


def test_a_trial_outlives_neither_its_server_nor_the_loss_of_it(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the server is not the trial's: it runs once more, with its whole batch."""
    command = pretend.forked(tmp_path, monkeypatch)
    spec = trial_spec("worker-killed-once")
    (result,) = run_trials([spec], tmp_path / "run", ONE, command=command, server=server)
    assert (result.done, result.batch_size) == (True, 8)
    first, second = notes(tmp_path / "run", "start")
    assert gone(int(first[1]))
    assert second[2] == "None"


def test_a_server_that_may_not_fork_leaves_trials_to_fresh_processes(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = pretend.forked(tmp_path, monkeypatch, ready=False)
    specs = [trial_spec(seed=seed, **QUICK) for seed in range(5)]
    results = run_trials(specs, tmp_path / "run", Runner(workers=2), command=command, server=server)
    assert all(result.done for result in results)
    assert len(notes(tmp_path / "run", "start")) == 5


def test_a_server_that_does_not_start_leaves_trials_to_fresh_processes(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = pretend.forked(tmp_path, monkeypatch)
    monkeypatch.setattr("plop_lora.training.runners.warm.SERVER", (sys.executable, "-c", "1 / 0"))
    specs = [trial_spec(seed=seed, **QUICK) for seed in range(5)]
    results = run_trials(specs, tmp_path / "run", ONE, command=command, server=server)
    assert all(result.done for result in results)


@pytest.mark.parametrize("reason", ["off", "launched"])
def test_no_server_where_none_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    command = pretend.forked(tmp_path, monkeypatch)
    monkeypatch.setattr(
        "plop_lora.training.runners.warm.ForkServer._begin", lambda *given: pytest.fail("started")
    )
    if reason == "launched":
        for name in WHOLE:
            monkeypatch.setenv(name, "0" if name.endswith("RANK") else "1")
    specs = [trial_spec(seed=seed, **QUICK) for seed in range(2)]
    runner = Runner(workers=1, warm_workers=reason != "off")
    results = run_trials(specs, tmp_path / "run", runner, command=command)
    assert all(result.done for result in results)


def test_a_stop_before_the_fork_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The imports take ten seconds: whoever types Ctrl-C then must not start a fresh trial."""
    command = pretend.forked(tmp_path, monkeypatch)
    importing, imported = tmp_path / "importing", tmp_path / "imported"
    code = (
        "import os, pathlib, sys, time\n"
        "part = pathlib.Path(sys.argv[1] + '.part')\n"
        "part.write_text(str(os.getpid()))\n"
        "part.rename(sys.argv[1])\n"
        "time.sleep(600)\n"
        "pathlib.Path(sys.argv[2]).touch()\n"
    )
    words = (sys.executable, "-c", code, str(importing), str(imported))
    monkeypatch.setattr("plop_lora.training.runners.warm.SERVER", words)

    def interrupt() -> None:
        until(importing.exists)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=interrupt)
    # A library that another test has used may have left a handler of its own, which is kept.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sender.start()
        with pytest.raises(KeyboardInterrupt), ForkServer() as server:
            run_trials([trial_spec()], tmp_path / "run", ONE, command=command, server=server)
        sender.join()
    finally:
        signal.signal(signal.SIGINT, before)
    until(lambda: gone(int(importing.read_text())))
    assert not imported.exists(), "it waited for the imports"
    assert notes(tmp_path / "run", "start") == []


_RUNNER = """
import sys
from pathlib import Path
import pretend, pytest
from builders import trial_spec
from plop_lora.recipe import Runner
from plop_lora.training.runners.run import run_trials

folder = Path(sys.argv[1])
command = pretend.forked(folder, pytest.MonkeyPatch())
specs = [trial_spec("long", seed=seed) for seed in range(2)]
run_trials(specs, folder / "run", Runner(workers=2), command=command)
"""


def test_no_fork_outlives_a_killed_runner(tmp_path: Path) -> None:
    """It would hold its GPU, and nobody would know of it."""
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent / "src")])
    runner = subprocess.Popen(
        [sys.executable, "-c", _RUNNER, str(tmp_path)], env=os.environ | {"PYTHONPATH": paths}
    )
    try:
        until(lambda: len(notes(tmp_path / "run", "start")) == 2)
    finally:
        runner.kill()
        runner.wait()
    until(lambda: all(gone(int(words[1])) for words in notes(tmp_path / "run", "start")))


def test_the_environment_is_that_of_the_slot(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One server serves all GPUs, and a changed variable of a library needs a new one."""
    command = pretend.forked(tmp_path, monkeypatch)
    root = tmp_path / "run"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    run_trials([trial_spec(seed=1, **QUICK)], root, ONE, command=command, server=server)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    run_trials([trial_spec(seed=2, **QUICK)], root, ONE, command=command, server=server)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    run_trials([trial_spec(seed=3, **QUICK)], root, ONE, command=command, server=server)
    assert [words[3:] for words in notes(root, "start")] == [["3", "7"], ["3", "5"], ["2", "5"]]
    assert server._starts == 2


def test_the_shared_runner_ends_its_server() -> None:
    with warm_trials() as run:
        assert run.func is run_trials
    assert run.keywords["server"]._server is None
