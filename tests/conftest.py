"""What tests share: tiny models built from configs, and a record of one. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PLOP_CACHE"] = "0"  # a test that wants the cache gives it a folder of its own
if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread a worker: two that wait for each other's threads are many times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from plop_lora.records import Scores

if TYPE_CHECKING:
    import postgres
    import torch
    from torch import nn

# The time of an example says something of the machine, and examples that are drawn anew each time
# would fail a change that they have nothing to do with.
settings.register_profile(
    "plop", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("plop")

GOLDEN = Path(__file__).parent / "golden"
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 96}
HEADS = {"num_attention_heads": 4}
"""Settings for the models that a single test builds for itself."""

MODELS = {
    "llama": "llama",
    "qwen": "qwen3",
    "gpt2": "gpt2",
    "neox": "gpt_neox",
    "opt": "opt",
    "bert": "bert",
    "t5": "t5",
    "vit": "vit",
}
"""The families that every test of the contract runs on, by their names in `families`."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let a test draw the same numbers in every run; torch itself begins with a random seed."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)


def build(name: str) -> nn.Module:
    """Return a seeded model of one of `MODELS`, in eval mode."""
    import families

    return families.build(MODELS[name])


@pytest.fixture(scope="session")
def models() -> Callable[[str], nn.Module]:
    cache: dict[str, nn.Module] = {}

    def get(name: str) -> nn.Module:
        if name not in cache:
            cache[name] = build(name)
        return cache[name]

    return get


def score_model(name: str) -> Scores:
    """Return the scores of one of `MODELS` on its batch."""
    import plop_lora as plop

    return plop.score(build(name), batches=[make_batch(name)], progress=False)


def make_batch(name: str, *, rows: int = 6, seed: int = 1) -> dict[str, torch.Tensor]:
    """Return a batch of ragged, right-padded rows that suits a family."""
    import families

    return families.batch_of(MODELS[name], rows=rows, seed=seed)


class WordTokenizer:
    """Counts words as tokens; has no pad token, as some real tokenizers."""

    model_max_length = 10**9
    pad_token_id = None
    chat_template = None

    def __init__(self, vocabulary: int = 61) -> None:
        self.vocabulary = vocabulary

    def __call__(self, text: str, **options: object) -> dict[str, list[int]]:
        return {"input_ids": [3 + sum(word.encode()) % self.vocabulary for word in text.split()]}


@pytest.fixture
def tokenizer() -> WordTokenizer:
    return WordTokenizer()


TEXTS = [f"{'word ' * (n % 7 + 1)} number {n} and {n * n}" for n in range(24)]


@pytest.fixture
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture(scope="session")
def scores() -> Scores:
    """The scores of the small Llama on `TEXTS`; test_golden_scores.py holds them to the code."""
    return Scores.load(GOLDEN / "llama-scores.json")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny BERT that trials finetune."""
    from trials import checkpoint

    return checkpoint(tmp_path_factory.mktemp("encoder"), "BertModel")


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny Llama whose tokenizer has no padding token."""
    from trials import checkpoint

    return checkpoint(tmp_path_factory.mktemp("decoder"), "LlamaForCausalLM", pad=False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute as trials and processes of their own do: threads change the last digit."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster for the tests of a module, where the machine has the time for one.

    The parts of a cluster wait for each other at most 15 to 30 seconds, and none of these limits
    can be set. A second try finds the files in memory.
    """
    from plop_lora.errors import MachineError
    from plop_lora.ray_cluster import connected

    with contextlib.ExitStack() as stack:
        for last in (False, False, True):
            try:
                stack.enter_context(connected())
                break
            except MachineError as error:
                if "timed out during startup" not in str(error):
                    raise
                if last:
                    pytest.skip(str(error))
        yield


@pytest.fixture(scope="module")
def unsynced_sqlite() -> Iterator[None]:
    """Let SQLite not wait for the disk at each commit: a third of these tests' time."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def no_waiting(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", no_waiting)
    yield
    event.remove(Engine, "connect", no_waiting)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process: exit code, stdout, stderr."""
    from plop_lora.cli import main

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["plop", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        output, errors = capfd.readouterr()
        return stop.value.code, output, errors

    return call


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgres.Server]:
    """A server of PostgreSQL, where the machine has one."""
    import postgres

    try:
        server = postgres.Server()
    except postgres.UnavailableError as reason:
        pytest.skip(str(reason))
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new database, of each kind in turn."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql").url()
    return f"sqlite:///{tmp_path}/store.db"
