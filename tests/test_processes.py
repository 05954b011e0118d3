"""Several processes: the numbers of one, one error for all, and no wait without an end.

Processes are started by torchrun on this machine and talk over gloo. What needs no second process
(who is lost, who tells) is tested on torch's in-memory store.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import transformers
from waiting import PATIENCE

import plop_lora as plop
from plop_lora.data.batches import Batch
from plop_lora.demo import DATA, MODEL, TASKS
from plop_lora.errors import DataError, ModelError, ProcessError
from plop_lora.scoring.engines import processes as parallel
from plop_lora.scoring.engines.processes import Heartbeats, Processes
from plop_lora.scoring.measurement.collect import Measured, merge
from plop_lora.scoring.sites.sharded import check_sharded

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[1] / "src"
DATA_OPTIONS = ["--data", str(DATA / "problems.jsonl"), "--samples", "9", "--batch-size", "2"]
TEMPLATE = TASKS["problems"]["template"]
FURTHER = ("response-gain", "rank-of-weights")
TIME_LIMIT = 600
"""Seconds after which processes that wait for each other are given up."""


def _torchrun(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(
        [sys.executable, *launcher, *command],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
    )


IN_TWO = """
import contextlib, os, runpy, sys

folder = os.environ["FOLDER"]
with contextlib.suppress(SystemExit):  # python -m plop_lora score ...
    runpy.run_module("plop_lora", run_name="__main__")

import plop_lora as plop
import torch
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

torch.distributed.init_process_group("gloo")
batches = torch.load(f"{folder}/batches.pt")
sharded = DistributedConfig(tp_plan="auto")
tensors = AutoModelForCausalLM.from_pretrained(f"{folder}/model", distributed_config=sharded)
assert type(tensors.model.layers[0].mlp.up_proj.weight).__name__ == "DTensor"
fully = AutoModelForCausalLM.from_pretrained(f"{folder}/model")
for block in fully.model.layers:
    fully_shard(block)
for name, model in (("tensors", tensors), ("fully", fully)):
    further = ["response-gain", "rank-of-weights"]
    scores = plop.score(model, batches=batches, progress=False, indicators=further)
    scores.save(f"{folder}/{name}{os.environ['RANK']}.json")
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory):
    """Run in two processes: the command line, then a model spread over both, in two ways.

    Returns the folder of the results, what the run printed, the model and its batches.
    """
    folder = tmp_path_factory.mktemp("in_two")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, vocab_size=96,
        num_attention_heads=4, num_key_value_heads=2, attention_bias=True, mlp_bias=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # biases are zero at first
    model.save_pretrained(folder / "model")
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, 5:] = 0
    batches = [{"input_ids": torch.randint(3, 90, (4, 9)), "attention_mask": mask}]
    torch.save(batches, folder / "batches.pt")
    (folder / "script.py").write_text(IN_TWO)
    (folder / "output").mkdir()
    done = _torchrun(
        str(folder / "script.py"), "score", str(MODEL), *DATA_OPTIONS, "--template", TEMPLATE,
        *(word for name in FURTHER for word in ("--indicator", name)),
        "-o", str(folder / "output" / "scores.json"), "--format", "json",
        FOLDER=str(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, model, batches


def test_two_processes_equal_one(in_two, one_thread: None) -> None:
    """Nine texts in batches of two: a share that is lost, doubled or cut moves a number."""
    folder, printed, _, _ = in_two
    documents = plop.load_documents(DATA / "problems.jsonl", template=TEMPLATE, samples=9)
    options = {"batch_size": 2, "progress": False, "indicators": FURTHER}
    alone = plop.score(str(MODEL), texts=documents, **options)
    together = plop.Scores.load(folder / "output" / "scores.json")
    assert together.measurements == alone.measurements
    assert together.types == alone.types
    assert together.indicators == alone.indicators
    assert [held.indicator for held in alone.indicators] == list(FURTHER)
    assert together.sites == alone.sites
    assert together.tokens == alone.tokens
    assert together.notes == alone.notes
    assert together.provenance.data_fingerprint == alone.provenance.data_fingerprint
    # one document on stdout: the other process has nothing to say
    assert json.loads(printed) == json.loads((folder / "output" / "scores.json").read_text())
    assert os.listdir(folder / "output") == ["scores.json"]


@pytest.mark.parametrize("way", ["tensors", "fully"])
def test_a_model_spread_over_processes_equals_the_whole(in_two, way: str) -> None:
    """Column-parallel layers return slices, row-parallel ones get slices, with biases in both.

    `tensors` is transformers' own plan for Llama, `fully` FSDP 2 on every block.
    """
    folder, _, model, batches = in_two
    whole = plop.score(model, batches=batches, progress=False, indicators=FURTHER)
    for index in (0, 1):
        spread = plop.Scores.load(folder / f"{way}{index}.json")
        assert [site.name for site in spread.sites] == [site.name for site in whole.sites]
        for site, expected in zip(spread.sites, whole.sites, strict=True):
            assert site.nfn == pytest.approx(expected.nfn, rel=1e-5), site.name
            assert site.parameters == expected.parameters
        assert spread.measurements.counts == whole.measurements.counts
        for held, known in zip(spread.indicators, whole.indicators, strict=True):
            assert held.values == pytest.approx(known.values, rel=1e-5), held.indicator


KILLED = """
import os, pathlib, signal, sys
import plop_lora.scoring.engines.in_memory as memory
from plop_lora.cli import main

inner, calls = memory.measure_batch, 0

def measure_batch(*arguments):
    global calls
    calls += 1
    if os.environ["RANK"] == "1" and calls == 2:
        pathlib.Path(os.environ["STAMP"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(*arguments)

memory.measure_batch = measure_batch
main()
"""


def test_a_killed_process_ends_all(tmp_path: Path) -> None:
    """The other process waits for sums that will never come, and has a file to write."""
    script, stamp, output = tmp_path / "killed.py", tmp_path / "stamp", tmp_path / "output"
    script.write_text(KILLED)
    output.mkdir()
    done = _torchrun(
        str(script), "score", str(MODEL), *DATA_OPTIONS, "--template", TEMPLATE,
        "-o", str(output / "scores.json"),
        STAMP=str(stamp),
    )  # fmt: skip
    assert stamp.exists()
    assert done.returncode != 0
    assert done.stderr.count("Error: ") - done.stderr.count("ChildFailedError: ") == 1
    assert "Nothing was written" in done.stderr
    assert "SIGKILL" in done.stderr
    assert done.stdout == ""
    assert os.listdir(output) == []


def test_fused_weights_spread_over_processes_are_refused() -> None:
    """A process holds a slice of q, of k and of v: read as rows of the whole they would mix."""
    with pytest.raises(ModelError, match=r"qkv_proj\[q\] holds several .* without tp_plan"):
        check_sharded(["layers.0.self_attn.qkv_proj[q]"])
    check_sharded([])


# --------------------------------------------------------------------------- without processes


def _piece(names: str, start: float) -> Measured:
    values = np.arange(start, start + len(names))[None]
    return Measured(
        names=tuple(names),
        sums_RN=values,
        counts_RN=np.ones_like(values),
        tokens_2N=np.ones((2, len(names))) * [[1], [0]],
        starts=(0, 1),
        unassignable=frozenset(),
        halvings=1,
        alone=False,
    )


def test_merging_does_not_depend_on_who_measured() -> None:
    """The same text in two shares stands in one order, whoever had which."""
    first, second = _piece("cab", 1), _piece("ad", 7)
    merged, other = merge([first, second]), merge([second, first])
    assert merged.names == other.names == ("a", "a", "b", "c", "d")
    assert (merged.sums_RN == other.sums_RN).all()
    assert merged.sums_RN.tolist() == [[2, 7, 3, 1, 8]]
    assert (merged.tokens, merged.halvings) == (5, 2)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_batch_has_one_owner(count: int) -> None:
    batches = [Batch({}, (str(n),)) for n in range(5)]
    shares = [Processes(index, count).share(batches) for index in range(count)]
    assert sorted(b.names[0] for share in shares for b in share) == list("01234")
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_gathers_what_it_has() -> None:
    """A world of one costs nothing, and nothing at all is an error as everywhere."""
    piece = _piece("ab", 1)
    assert Processes().gather(piece) is piece
    with pytest.raises(DataError, match="no batch"):
        Processes().gather(None)


def test_chunks_until_it_is_enough() -> None:
    """The rule sees everything so far after each chunk, and nothing is measured after its yes."""
    chunks = [[Batch({}, tuple(names))] for names in ("ab", "cd", "ef")]
    seen: list[tuple[str, ...]] = []

    def enough(measured: Measured) -> bool:
        seen.append(measured.names)
        return len(measured.names) >= 4

    def engine(batches: list[Batch]) -> Measured:
        return _piece("".join(batches[0].names), 1)

    measured = Processes().measure(chunks, engine, enough)
    assert measured.names == tuple("abcd")
    assert seen == [tuple("ab"), tuple("abcd")]
    assert Processes().measure(chunks, engine).names == tuple("abcdef")


def test_waiting_ends_when_another_fails() -> None:
    """Where no launcher stops the others, they learn it from the board."""
    store = dist.HashStore()
    waiting, failing = Heartbeats(store, 0, 2), Heartbeats(store, 1, 2)
    raised: list[Exception] = []

    def wait() -> None:
        try:
            waiting.meet(1)
        except ProcessError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert failing.tell(DataError("the file is damaged"))
    thread.join(timeout=PATIENCE)
    assert not thread.is_alive()
    assert "the file is damaged (process 1)" in str(raised[0])
    assert not waiting.tell(raised[0])


def test_waiting_ends_when_another_is_lost() -> None:
    """A machine that is switched off closes no connection and sends no signal."""
    store = dist.HashStore()
    gone, waiting = Heartbeats(store, 1, 2), Heartbeats(store, 0, 2, lost_after=0.3)
    gone.beat()
    with pytest.raises(ProcessError, match="Process 1 has shown no life"):
        waiting.meet(1)


def test_a_slow_process_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that shows life is not lost, however long it computes."""
    store = dist.HashStore()
    slow, waiting = Heartbeats(store, 1, 2), Heartbeats(store, 0, 2, lost_after=60.0)
    now = [0.0]

    def work(_: float) -> None:
        """Let a part of a minute pass, at whose end the slow process shows life or is there."""
        now[0] += 50.0
        slow.beat()
        if now[0] > 1000.0:
            store.add("turn/1", 1)

    monkeypatch.setattr(parallel, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=work))
    waiting.meet(1)
    assert now[0] > 1000.0


def test_sigterm_becomes_an_error(tmp_path: Path) -> None:
    """A launcher's SIGTERM in the middle of a write must not leave a temporary file."""
    from plop_lora.files import atomic_file

    before = signal.getsignal(signal.SIGTERM)

    def write() -> None:
        with parallel._stoppable(), atomic_file(tmp_path / "scores.json") as file:
            file.write("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(ProcessError, match="launcher stopped"):
        write()
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_texts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with another version of the data would add its own texts in silence."""

    def exchange(everyone: list[object], mine: tuple[str, Measured]) -> None:
        everyone[:] = [mine, ("another digest", mine[1])]

    monkeypatch.setattr(dist, "all_gather_object", exchange)
    store = dist.HashStore()
    store.add("turn/1", 1)
    processes = Processes(0, 2, Heartbeats(store, 0, 2))
    with pytest.raises(DataError, match="Process 1 does not read the same texts"):
        processes.gather(_piece("ab", 1))


def test_each_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` means the first GPU; four models there would not fit."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert Processes(7, 8).device("auto") == "cuda:3"
    assert Processes(7, 8).device("cuda") == "cuda:3"
    assert Processes(7, 8).device("cuda:1") == "cuda:1"
    assert Processes(7, 8).device("cpu") == "cpu"
    assert Processes().device("auto") == "auto"


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(plop.PlopError, match="Did you mean 'memory'"):
        plop.score(str(MODEL), texts=["a"], engine="memroy")
