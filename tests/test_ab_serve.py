"""`plop ab serve` as a process of its own: real databases, kills, two routers, and wrong words."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from experiments import experiment
from routers import (
    ADMIN,
    MODELS,
    Running,
    begin,
    chunk,
    serving,
    settle,
    units,
    upstream,
    words_of,
)
from waiting import PATIENCE, until

from plop_lora.ab.store import Store
from plop_lora.records import Experiment

ROOT = Path(__file__).parents[1]
BODY = {"model": "support", "messages": []}


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """The file of an experiment that runs, with its database beside it."""
    made = experiment()
    with Store.open(f"sqlite:///{tmp_path / 'support.db'}") as store:
        store.run(made).start(datetime.now(UTC))
    return made.save(tmp_path / "support.json")


def stored(file: Path) -> Counter[tuple[str, str]]:
    """Return how many events of each unit and name the database has; an exposure has none."""
    from sqlalchemy import create_engine, select

    from plop_lora.ab.store.schema import EVENTS

    engine = create_engine(f"sqlite:///{file.with_suffix('.db')}")
    with engine.connect() as connection:
        rows = connection.execute(select(EVENTS.c.unit, EVENTS.c.name)).fetchall()
    engine.dispose()
    return Counter((row.unit, row.name) for row in rows)


def test_from_a_request_to_the_database(started: Path) -> None:
    """The parts fit together: assignment, events, the database, the end."""
    made = Experiment.load(started)
    (unit,) = units(made, "next", 1)
    with upstream() as server, serving(started, server.url) as (router, _):
        assert router.post(BODY, unit=unit).json()["model"] == "tuned"
        assert router.get("/plop/ready").status == 200
    settle(started)
    with Store.open(f"sqlite:///{started.with_suffix('.db')}") as store:
        run = store.run(made)
        assert run.counts().units == {"next": 1, "now": 0}
    assert {name for _, name in stored(started)} == {
        "", "failed", "latency_last", "tokens_in", "tokens_out"
    }  # fmt: skip


def answers(router: Running) -> bool:
    """Whether a router accepts a request."""
    try:
        return router.get("/plop/health").status == 200
    except (OSError, http.client.HTTPException):
        return False


@pytest.mark.slow
def test_a_sigterm_lets_a_stream_come_to_its_end(started: Path) -> None:
    """A rollout of the router must cut no answer and lose no event."""
    import asyncio

    go_on = threading.Event()

    async def answer(request: Any, body: bytes) -> Any:
        response = await begin(request)
        await response.write(chunk("one"))
        await asyncio.to_thread(go_on.wait, PATIENCE)
        await response.write(b"data: [DONE]\n\n")
        return response

    (unit,) = units(Experiment.load(started), "next", 1)
    replies = []
    with upstream(answer) as server, serving(started, server.url) as (router, process):
        client = threading.Thread(target=lambda: replies.append(router.post(BODY, unit=unit)))
        client.start()
        until(lambda: server.got)
        process.terminate()
        until(lambda: not answers(router))  # it accepts nothing more while the stream goes on
        go_on.set()
        client.join()
    assert replies[0].body.endswith(b"data: [DONE]\n\n")
    assert not replies[0].broken
    settle(started)
    assert sum(count for (_, name), count in stored(started).items() if name == "failed") == 1


@pytest.mark.slow
def test_killed_at_twenty_moments(started: Path) -> None:
    """What a client has received is counted once, whenever the process dies."""
    made = Experiment.load(started)
    draw = random.Random(3)
    complete: list[str] = []
    sent: list[str] = []
    wrong: list[object] = []
    counter = iter(range(10**9))
    lock = threading.Lock()

    def client(router: Running, over: threading.Event) -> None:
        while not over.is_set():
            with lock:
                unit = f"account-{next(counter)}"
                sent.append(unit)
            try:
                reply = router.post(BODY, unit=unit)
            except OSError:
                return  # the router is gone
            except Exception as error:
                if "IncompleteRead" not in repr(error) and "BadStatusLine" not in repr(error):
                    wrong.append(error)
                return
            if reply.broken:
                return
            if reply.status == 200:
                complete.append(unit)
            else:
                wrong.append((reply.status, reply.body))

    with upstream() as server:
        for _ in range(20):
            with serving(started, server.url, ended=None) as (router, process):
                over = threading.Event()
                clients = [threading.Thread(target=client, args=(router, over)) for _ in range(4)]
                for thread in clients:
                    thread.start()
                most = len(complete) + draw.randint(0, 20)
                until(lambda most=most: len(complete) >= most or wrong)
                process.kill()
                over.set()
                for thread in clients:
                    thread.join()
        names = {(made.pseudonym(unit), "failed") for unit in complete}
        with serving(started, server.url):
            until(lambda: names <= stored(started).keys())
    settle(started)
    counts = stored(started)
    assert wrong == []
    assert len(complete) > 100
    for unit in sent:
        name = made.pseudonym(unit)
        expected = {1} if unit in set(complete) else {0, 1}
        assert {counts[name, ""], counts[name, "failed"]} <= expected, unit
    assert counts.total() <= 5 * len(sent)


@pytest.mark.slow
def test_two_routers_on_one_database(started: Path) -> None:
    """They agree on the arms, share the switches, and count each unit once."""
    made = Experiment.load(started)
    new, now = units(made, "next", 20), units(made, "now", 20)
    with upstream() as server:
        with serving(started, server.url) as (one, _), serving(started, server.url) as (two, _):
            for unit in (*new, *now):
                models = {router.post(BODY, unit=unit).json()["model"] for router in (one, two)}
                assert models == {"tuned" if unit in new else "base"}
            assert one.switch("next", {"on": False, "reason": "it swears"}).status == 200
            until(lambda: two.post(BODY, unit=new[0]).json()["model"] == "base")
            reason = two.get("/plop/state", ADMIN).json()["arms"]["next"]["reason"]
            assert reason == "it swears"
    settle(started)
    counts = stored(started)
    assert sum(count for (_, name), count in counts.items() if not name) == 40
    assert counts[made.pseudonym(new[1]), "failed"] == 2


@pytest.mark.slow
def test_the_watch_acts_on_what_is_stored(tmp_path: Path) -> None:
    """Harm that the router itself has logged switches the arm off, for all of them."""
    from plop_lora.ab import Metric, MetricKind

    metrics = (Metric(name="failed", kind=MetricKind.SHARE, higher_is_better=False),)
    made = experiment(metrics=metrics, primary="failed", guardrails=(), planned_units=600)
    file = made.save(tmp_path / "support.json")
    with Store.open(f"sqlite:///{tmp_path / 'support.db'}") as store:
        store.run(made).start(datetime.now(UTC))

    async def answer(request: Any, body: bytes) -> Any:
        from aiohttp import web

        return web.json_response({}, status=500 if json.loads(body)["model"] == "tuned" else 200)

    new, now = units(made, "next", 301), units(made, "now", 300)
    with upstream(answer) as server, serving(file, server.url, "--watch", "0.3") as (router, _):
        for pair in zip(new, now, strict=False):
            for unit in pair:
                router.post(BODY, unit=unit)
        until(lambda: router.post(BODY, unit=new[-1]).status == 200)
        arm = router.get("/plop/state", ADMIN).json()["arms"]["next"]
    assert not arm["on"]
    assert "failed" in arm["reason"]


@pytest.mark.slow
def test_a_database_that_stops_and_starts_again(tmp_path: Path, postgresql: Any) -> None:
    """Requests go on without it, an arm can be switched off, and no event is lost."""
    made, url = experiment(), postgresql.url()
    file = made.save(tmp_path / "support.json")
    with Store.open(url) as store:
        store.run(made).start(datetime.now(UTC))
    new = units(made, "next", 40)
    with upstream() as server, serving(file, server.url, "--database", url) as (router, _):
        for unit in new[:10]:
            assert router.post(BODY, unit=unit).json()["model"] == "tuned"
        postgresql.stop()
        for unit in new[10:30]:
            assert router.post(BODY, unit=unit).json()["model"] == "tuned"
        reply = router.switch("next", {"on": False, "reason": "it swears"})
        assert (reply.status, reply.json()["stored"]) == (202, False)
        assert router.post(BODY, unit=new[30]).json()["model"] == "base"
        until(lambda: router.metric('plop_router_failures_total{kind="poll"}'))
        postgresql.start()
        with Store.open(url) as store:
            run = store.run(made)
            until(lambda: run.state().off == {"next": "it swears"})
            until(lambda: run.counts().units["next"] == 30)
        assert router.metric('plop_events_total{result="lost"}') == 0


def test_what_is_wrong_before_the_start(
    started: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router that starts with an error would send units into it."""
    with upstream() as server:

        def told(*words: str, url: str = server.url, file: Path = started) -> str:
            code, output, errors = run("ab", "serve", "-e", str(file), "--upstream", url, *words)
            assert code in (1, 2)
            assert output == ""
            assert errors.startswith("Error: ")
            assert errors.count("\n") == 1
            return errors

        assert "does not serve the model 'now' of the arm 'now'; it lists base, tuned" in told()
        assert "does not answer" in told(*words_of(MODELS), url="http://127.0.0.1:1")
        assert "is no address" in told(*words_of(MODELS), url="localhost:8000")
        assert "the status 405" in told(*words_of(MODELS), url=f"{server.url}/prefix")
        assert "write it as ARM=NAME" in told("--model", "now")
        assert "no arm 'nex'" in told("--model", "nex=tuned")
        assert "PLOP_TRAFFIC_TOKEN" in told(*words_of(MODELS), "--host", "0.0.0.0")
        assert "cannot be passed on" in told(*words_of(MODELS), "--path", "/metrics")
        assert "--max-body 0 is not possible" in told(*words_of(MODELS), "--max-body", "0")
        assert "--admin-token-file" in told(*words_of(MODELS), "--admin-token-file", "none")
        assert "Cannot listen" in told(*words_of(MODELS), "--port", server.url.rpartition(":")[2])
        other = experiment(name="other").save(started.parent / "other.json")
        assert "plop ab init" in told(*words_of(MODELS), file=other)
        changed = experiment(planned_units=5000).save(started.parent / "support2.json")
        url = f"sqlite:///{started.with_suffix('.db')}"
        assert "support" in told(*words_of(MODELS), "--database", url, file=changed)
        monkeypatch.setenv("PLOP_ADMIN_TOKEN", "short")
        error = told(*words_of(MODELS))
        assert "16" in error
        assert "short" not in error


def test_the_page_names_what_there_is() -> None:
    """An option, a metric or a limit that the page has wrong is found in production."""
    from plop_lora.ab.router.answers import Outcome
    from plop_lora.ab.router.metrics import Metrics
    from plop_lora.ab.router.settings import Limits
    from plop_lora.cli import command_of

    page = (ROOT / "docs" / "how-to" / "ab-router.md").read_text(encoding="utf-8")
    ours = re.sub(r"# vLLM\n.*?```", "", page, flags=re.DOTALL)
    options = {name for option in command_of("ab serve").params for name in option.opts}
    assert set(re.findall(r"(?<!-)--[a-z][a-z-]+", ours)) <= options | {"--reason"}
    text = Metrics(["now"]).page(1.0, [("now", True)], 0.0).decode()
    families = re.findall(r"^# TYPE (plop_\w+) (\w+)$", text, flags=re.MULTILINE)
    metrics = {name for name, _ in families if not name.endswith("_created")}
    assert set(re.findall(r"`(plop_\w+)`", page)) == metrics
    assert all(f"`{outcome}`" in page for outcome in Outcome)
    limits = Limits()
    assert f"{limits.body // 2**20} MiB, then 413" in page
    assert f"| {limits.headers}, or {limits.head // 2**10} KiB" in page
    times = f"{limits.first_byte:.0f}, {limits.idle:.0f}, {limits.total:,.0f} s"
    assert times in page
    assert f"{limits.requests:,}, then 503" in page


def test_the_page_shows_what_was_measured() -> None:
    """Its tables are those of the newest results."""
    page = (ROOT / "docs" / "how-to" / "ab-router.md").read_text(encoding="utf-8")
    newest = max((ROOT / "benchmarks" / "results").glob("ab-router-*.md"))
    rows = [line for line in newest.read_text(encoding="utf-8").splitlines() if "|" in line]
    assert len(rows) > 15
    assert [row for row in rows if row not in page] == []


def test_the_verb_imports_no_torch() -> None:
    """A router has no use for it, and its start would take seconds and its memory a gigabyte."""
    code = (
        "import sys\n"
        "import plop_lora.ab.router, plop_lora.ab.router.app, plop_lora.cli.ab.serve\n"
        "assert not {'torch', 'transformers', 'sqlalchemy', 'aiohttp', 'uvicorn', 'starlette',"
        " 'prometheus_client'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_sigterm_before_the_server_runs() -> None:
    """It ends the router; a program that calls `serve` goes on, with its own handler."""
    from plop_lora.ab.router.server import _terminated_quietly

    before = signal.getsignal(signal.SIGTERM)
    with _terminated_quietly():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        pytest.fail("the signal was swallowed")
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(SystemExit), _terminated_quietly():
        raise SystemExit(3)
