"""The whole chain on one machine: two adapters, `plop serve`, `plop ab serve`, users, a decision.

The users are simulated, and know of the arms only what the answers say: one adapter was trained to
begin its answers otherwise than the other, and a user is content with either at a known rate.
"""

from __future__ import annotations

import contextlib
import csv
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from experiments import SALT
from finetunes import PROBLEMS, prepared, save_for_bundled, train_on
from routers import ADMIN, Running, serving, settle
from waiting import PATIENCE, until

from plop_lora.ab.design import design
from plop_lora.demo import MODEL
from plop_lora.recipe import ExperimentRecipe
from plop_lora.records import Analysis, Experiment

pytestmark = pytest.mark.slow
BEGINNINGS = {"now": " So many it is:", "next": " My result:"}
UNITS = 400
ARMS = {"now": "now", "next": "next"}


def _adapter(folder: Path, beginning: str) -> Path:
    """Train an adapter to begin its answers with some words."""
    rows = [
        {
            "prompt": f"Question: {row['question']}\nAnswer:",
            "completion": f"{beginning} {row['answer'].rpartition('#### ')[2]}",
        }
        for row in PROBLEMS[:80]
    ]
    ready = prepared("q_proj", "v_proj", "up_proj", "down_proj")
    train_on(ready, rows, steps=30, rows_a_step=8, rate=5e-3, length=96)
    return save_for_bundled(ready, folder)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: _adapter(folder / name, words) for name, words in BEGINNINGS.items()}


@pytest.fixture(scope="module")
def upstream(adapters: Mapping[str, Path]) -> Iterator[str]:
    """The address of `plop serve` with both adapters."""
    named = [word for name, path in adapters.items() for word in ("--adapter", f"{name}={path}")]
    command = [sys.executable, "-m", "plop_lora", "serve", str(MODEL), *named, "--name", "base",
               "--port", "0", "--queue", "64"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        if found:
            break
    else:
        raise AssertionError("plop serve did not start")
    reader = threading.Thread(target=process.stderr.read)
    reader.start()
    yield found[0]
    process.terminate()
    process.wait(PATIENCE)
    reader.join()
    process.stderr.close()


def plop(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a verb of `plop ab` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "plop_lora", "ab", *words], cwd=folder, text=True,
        capture_output=True, env={**os.environ, "PLOP_EXPERIMENT": "experiment.json"},
    )  # fmt: skip


def start(folder: Path, adapters: Mapping[str, Path]) -> Experiment:
    """Design an experiment from a recipe, and start it."""
    recipe = {
        "name": "support",
        "unit": "account",
        "arms": {name: {"adapter": str(path), "weight": 0.5} for name, path in adapters.items()},
        "control": "now",
        "metrics": {"content": {"kind": "share"}, "latency_last": {"higher_is_better": False}},
        "primary": "content",
        "guardrails": {"latency_last": 30.0},
        "planned_units": UNITS,
    }
    (folder / "ab.yaml").write_text(yaml.safe_dump({"ab": recipe}))
    made = design(ExperimentRecipe.read(folder / "ab.yaml").ab, accepted="a test")
    experiment = replace(made, salt=SALT)  # one that is drawn would draw the decision with it
    experiment.save(folder / "experiment.json")
    begun = plop(folder, "init", "--from", "experiment.json")
    assert begun.returncode == 0, begun.stderr
    return experiment


def ask(router: Running, unit: str) -> str:
    """Ask as a user does, and return the answer."""
    question = PROBLEMS[int(unit.partition("-")[2]) % len(PROBLEMS)]["question"]
    body = {"model": "support", "prompt": f"Question: {question}\nAnswer:", "max_tokens": 4,
            "temperature": 0, "user": unit}  # fmt: skip
    reply = router.post(body, path="/v1/completions")
    assert reply.status == 200, reply.body
    return str(reply.json()["choices"][0]["text"])


def content(rates: Mapping[str, float], seed: int) -> Callable[[str, str], int]:
    """Return whether a user is content with an answer; the rate depends on the answer alone."""

    def judge(unit: str, answer: str) -> int:
        arm = next((arm for arm, words in BEGINNINGS.items() if words[:6] in answer), None)
        assert arm is not None, f"an adapter answers otherwise than it was trained to: {answer!r}"
        return int(random.Random(f"{seed} {unit}").random() < rates[arm])

    return judge


def users(router: Running, judge: Callable[[str, str], int], count: int) -> list[tuple[str, int]]:
    """Let users ask, several at a time, and return who is content."""

    def one(number: int) -> tuple[str, int]:
        unit = f"account-{number}"
        return unit, judge(unit, ask(router, unit))

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(count)))


def log(folder: Path, found: list[tuple[str, int]]) -> None:
    """Import what the users said, as a system of its own would, some time later."""
    with (folder / "outcomes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["unit", "at", "content"])
        rows.writerows((unit, datetime.now(UTC).isoformat(), value) for unit, value in found)
    assert plop(folder, "import", "outcomes.csv").returncode == 0


@contextlib.contextmanager
def routed(folder: Path, url: str, *words: str) -> Iterator[Running]:
    with serving(folder / "experiment.json", url, *words, models=ARMS) as (router, _):
        yield router
    settle(folder / "experiment.json")


@pytest.mark.parametrize(
    ("rates", "code"),
    [({"now": 0.4, "next": 0.9}, {0}), ({"now": 0.5, "next": 0.5}, {3, 4})],
    ids=["better", "equal"],
)
def test_a_better_adapter_ships_and_an_equal_one_does_not(
    tmp_path: Path,
    adapters: Mapping[str, Path],
    upstream: str,
    rates: Mapping[str, float],
    code: set[int],
) -> None:
    experiment = start(tmp_path, adapters)
    with routed(tmp_path, upstream) as router:
        found = users(router, content(rates, seed=1), UNITS)
    log(tmp_path, found)
    done = plop(tmp_path, "analyze", "-o", "analysis.json")
    assert done.returncode in code, done.stdout + done.stderr
    analysis = Analysis.load(tmp_path / "analysis.json")
    (decision,) = analysis.decisions
    assert str(decision.cause) == ("better" if code == {0} else "no improvement shown")
    assert analysis.units == UNITS, "every user was logged once"
    assigned = [experiment.assign(unit) for unit, _ in found]
    assert analysis.sample_ratio.units == {arm: assigned.count(arm) for arm in ARMS}
    ended = plop(tmp_path, "stop", "--decision", "ship" if code == {0} else "keep", "--reason", "x")
    assert ended.returncode == 0, ended.stderr


def test_a_harmful_adapter_is_switched_off_while_users_ask(
    tmp_path: Path, adapters: Mapping[str, Path], upstream: str
) -> None:
    """Harm would go on until somebody looks at a dashboard."""
    experiment = start(tmp_path, adapters)
    judge = content({"now": 0.9, "next": 0.1}, seed=2)
    victims = [
        f"account-{n}" for n in range(2 * UNITS) if experiment.assign(f"account-{n}") == "next"
    ]
    with routed(tmp_path, upstream, "--watch", "1") as router:
        log(tmp_path, users(router, judge, UNITS))
        until(lambda: not router.get("/plop/state", ADMIN).json()["arms"]["next"]["on"])
        reason = router.get("/plop/state", ADMIN).json()["arms"]["next"]["reason"]
        assert "harmful" in reason
        answers = [ask(router, unit) for unit in victims[-5:]]
        assert all(BEGINNINGS["now"][:6] in answer for answer in answers), "they get the control"
    shown = plop(tmp_path, "status")
    assert "next" in shown.stdout
    assert "harmful" in shown.stdout
    assert plop(tmp_path, "analyze").returncode == 3
