"""The router under faults: of the server, of the client, of the store and of the disk."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from experiments import drawn
from routers import (
    ADMIN,
    MemorySink,
    begin,
    chunk,
    memory_run,
    plain,
    router,
    streamed,
    units,
    upstream,
)
from waiting import PATIENCE, until

from plop_lora.ab.router.logs import Failures, JsonFormatter
from plop_lora.errors import StoreError

BODY = {"model": "support", "messages": []}
LIMIT = 1.5
"""Seconds of a limit that a test runs into. What has to happen before it takes milliseconds."""


def connected_ports(port: int) -> set[int]:
    """Return the ports of the clients that are connected to a port of this process."""
    import psutil

    found = psutil.Process().net_connections("tcp")
    return {c.raddr.port for c in found if c.laddr.port == port and c.status == "ESTABLISHED"}


def accepts(port: int) -> bool:
    """Whether a connection to a port is taken."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def dead_port() -> Iterator[int]:
    """Yield a port that nobody listens at, and hold it so that nobody else can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


def test_a_server_that_is_down() -> None:
    """The client gets a proper error, and the arm a failure."""
    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with dead_port() as port, router(f"http://127.0.0.1:{port}", run, sink) as running:
        reply = running.post(BODY, unit=unit)
        ready = running.get("/plop/ready")
    assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert sink.named("failed") == [1.0]
    assert sink.named("latency_last") == []
    assert ready.status == 503


@pytest.mark.parametrize("limits", [{"first_byte": LIMIT}, {"total": LIMIT}])
def test_a_server_that_is_slow(limits: dict[str, float]) -> None:
    """A client must not wait for ever, and the slow request must end at the server too."""

    async def answer(request: web.Request, body: bytes) -> web.Response:
        await asyncio.sleep(2 * PATIENCE)
        raise AssertionError

    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream(answer) as server, router(server.url, run, sink, limits=limits) as running:
        reply = running.post(BODY, unit=unit)
        assert server.left.wait(PATIENCE)
        assert running.metric('plop_requests_total{arm="next",outcome="timeout"}') == 1
    assert (reply.status, reply.json()["error"]["code"]) == (504, "upstream_timeout")
    assert sink.named("failed") == [1.0]


@pytest.mark.parametrize("how", ["cut", "idle"])
def test_a_stream_that_breaks(how: str) -> None:
    """A client that sees a complete stream would take half an answer for the whole."""

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        response = await begin(request)
        await response.write(chunk("half"))
        if how == "idle":
            await asyncio.sleep(2 * PATIENCE)
        request.transport.abort()
        return response

    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream(answer) as server:
        with router(server.url, run, sink, limits={"idle": LIMIT}) as running:
            reply = running.post(BODY, unit=unit)
            outcome = {"cut": "cut", "idle": "timeout"}[how]
            assert running.metric(f'plop_requests_total{{arm="next",outcome="{outcome}"}}') == 1
            assert running.get("/plop/health").status == 200
    assert reply.status == 200
    assert reply.broken
    assert b"half" in reply.body
    assert sink.named("failed") == [1.0]


def test_an_answer_shorter_than_announced() -> None:
    """As a stream that breaks, but with a length."""

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "1000"})
        await response.prepare(request)
        await response.write(b"short")
        request.transport.close()
        return response

    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream(answer) as server, router(server.url, run, sink) as running:
        reply = running.post(BODY, unit=unit)
    assert reply.broken
    assert sink.named("failed") == [1.0]


def test_a_client_that_leaves_ends_the_request_at_the_server() -> None:
    """The server would generate to the end for nobody."""

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        response = await begin(request)
        while True:
            await response.write(chunk("word"))
            await asyncio.sleep(0.02)

    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream(answer) as server, router(server.url, run, sink) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(BODY).encode(), {"X-Unit-Id": unit}
        )
        response = connection.getresponse()
        response.read1()
        response.close()
        connection.close()
        assert server.left.wait(PATIENCE)
        gone = 'plop_requests_total{arm="next",outcome="client_gone"}'
        until(lambda: running.metric(gone) == 1)
        assert running.metric("plop_requests_in_flight") == 0
    assert sink.named("failed") == sink.named("latency_last") == []
    assert len(sink.named("latency_first")) == 1


def test_a_client_that_reads_nothing() -> None:
    """Its connection is dropped, and the arm is not to blame."""

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        response = await begin(request)
        while True:
            await response.write(chunk("word" * 10_000))

    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream(answer) as server:
        with router(server.url, run, sink, limits={"idle": LIMIT}) as running:
            with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as client:
                head = f"POST /v1/chat/completions HTTP/1.1\r\nx-unit-id: {unit}\r\n"
                body = json.dumps(BODY)
                client.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
                assert server.left.wait(PATIENCE)
                gone = 'plop_requests_total{arm="next",outcome="client_gone"}'
                until(lambda: running.metric(gone) == 1)
                port = client.getsockname()[1]
                until(lambda: port not in connected_ports(running.port))
    assert sink.named("failed") == []


def test_a_kept_connection_that_the_server_has_closed() -> None:
    """A request that meets it is sent once more and no client sees it."""
    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    seen = 0
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        """Answer the first request of each connection and close at the second."""
        nonlocal seen
        for _ in range(3):
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                seen += 1
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                connection.recv(65536)  # the second request, which gets no answer

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with router(url, run, sink) as running:
        assert [running.post(BODY, unit=unit).body for _ in range(3)] == [b"ok"] * 3
    thread.join(PATIENCE)
    listening.close()
    assert seen == 3
    assert sink.named("failed") == [0.0] * 3


def test_a_body_that_is_too_large() -> None:
    """A hundred megabytes must cost neither memory nor time, announced or not."""
    run, sink = memory_run(), MemorySink()
    with upstream() as server, router(server.url, run, sink) as running:
        for head in (b"content-length: 104857600\r\n", b"transfer-encoding: chunked\r\n"):
            with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as client:
                client.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n"
                )
                piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
                try:
                    for _ in range(1600):
                        client.sendall(piece)
                except OSError:
                    pass  # the router has closed the connection
                else:
                    pytest.fail("the router took the whole body")
        assert server.got == []
        assert running.metric('plop_refused_total{reason="request_too_large"}') == 2
        announced = running.post(b"{}", headers={"Content-Length": "104857600"})
        assert (announced.status, announced.headers["connection"]) == (413, "close")
        assert running.post(BODY).status == 200


def test_ten_thousand_headers() -> None:
    """They get an error, and the next request an answer."""
    run, sink = memory_run(), MemorySink()
    with upstream() as server, router(server.url, run, sink) as running:
        for count, size in ((10_000, 4), (190, 60_000), (300, 1)):
            with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as client:
                lines = (b"h%d: %s\r\n" % (n, b"x" * size) for n in range(count))
                head = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 2\r\n"
                try:
                    client.sendall(head + b"".join(lines) + b"\r\n{}")
                    status = client.recv(65536).split(b" ")[1]
                except ConnectionError:  # closed while headers were still being sent
                    status = b"400"
                assert status in (b"431", b"400"), (count, size)
        assert server.got == []
        assert running.post(BODY).status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 9\r\n\r\n{", b"408"),
     (b"POST /v1/chat/completions HTTP/1.1\r\nx-slow", b""), (b"", b"")],
)  # fmt: skip
def test_a_client_that_sends_slowly(sent: bytes, status: bytes) -> None:
    """Clients that never finish their requests would hold every place."""
    run, sink = memory_run(), MemorySink()
    with upstream() as server, router(server.url, run, sink, limits={"upload": LIMIT}) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as client:
            client.sendall(sent)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.split(b" ")[1:2] == [status] * bool(status)


def test_too_many_requests_at_the_same_time() -> None:
    """Beyond the limit a client is told to come back, and health still answers."""
    go_on = threading.Event()

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        await asyncio.to_thread(go_on.wait, PATIENCE)
        return await plain(request, body)

    run, sink = memory_run(), MemorySink()
    with (
        upstream(answer) as server,
        router(server.url, run, sink, limits={"requests": 1}) as running,
    ):
        first = threading.Thread(target=running.post, args=(BODY,))
        first.start()
        until(lambda: server.got)
        reply = running.post(BODY)
        assert running.get("/plop/health").status == 200
        go_on.set()
        first.join()
        assert running.post(BODY).status == 200
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")


def test_a_disk_that_is_full() -> None:
    """Units whose exposure cannot be kept get the control; those that are known keep their arm."""
    run, sink = memory_run(), MemorySink()
    known, new = units(run.experiment, "next", 2)
    with upstream() as server, router(server.url, run, sink) as running:
        running.post(BODY, unit=known)
        sink.full = True
        assert running.post(BODY, unit=known).json()["model"] == "tuned"
        assert running.post(BODY, unit=new).json()["model"] == "base"
        assert running.metric('plop_events_total{result="lost"}') == 5
        sink.full = False
        assert running.post(BODY, unit=new).json()["model"] == "tuned"
    assert [e.arm for e in sink.events if e.arm] == ["next", "next"]


def test_an_experiment_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the router's own must not cost a request."""
    from plop_lora.records import Experiment

    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream() as server, router(server.url, run, sink) as running:
        with monkeypatch.context() as patch:
            patch.setattr(Experiment, "assign", lambda *_, **__: 1 / 0)
            assert running.post(BODY, unit=unit).json()["model"] == "base"
        assert running.metric('plop_router_failures_total{kind="assign"}') == 1
    assert sink.events == []


def test_a_store_that_is_away_and_comes_back() -> None:
    """What was known holds on, and what was decided meanwhile is told when it is back."""
    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream() as server, router(server.url, run, sink) as running:
        run.away = True
        until(lambda: running.metric('plop_router_failures_total{kind="poll"}') >= 2)
        assert running.post(BODY, unit=unit).json()["model"] == "tuned"
        reply = running.switch("next", {"on": False, "reason": "it swears"})
        assert (reply.status, reply.json()["stored"]) == (202, False)
        assert running.post(BODY, unit=unit).json()["model"] == "base"
        assert running.switch("next", {"on": True, "reason": "no"}).status == 503
        run.away = False
        until(lambda: run.off == {"next": "it swears"})
        assert running.post(BODY, unit=unit).json()["model"] == "base"


def test_a_store_that_hangs_does_not_delay_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that does not answer fails after many seconds, in which the arm does harm."""
    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    answers = threading.Event()

    def hang(*_: object, **__: object) -> None:
        answers.wait(PATIENCE)
        raise StoreError("The database does not answer.")

    with upstream() as server, router(server.url, run, sink) as running:
        monkeypatch.setattr(run, "switch", hang)
        off = threading.Thread(
            target=running.switch, args=("next", {"on": False, "reason": "it swears"})
        )
        off.start()
        until(lambda: running.post(BODY, unit=unit).json()["model"] == "base")
        assert off.is_alive()
        answers.set()
        off.join()


def test_an_arm_held_off_in_an_experiment_that_has_ended() -> None:
    """The store takes no switch any more, and the router has to see the end all the same."""
    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream() as server, router(server.url, run, sink) as running:
        run.away = True
        assert running.switch("next", {"on": False, "reason": "it swears"}).status == 202
        run.ramp = run.ramp.ended(datetime.now(UTC), "kept")
        run.away = False
        until(lambda: running.metric("plop_coverage") == 0)
        assert running.switch("next", {"on": False, "reason": "it swears"}).status == 400
        assert running.post(BODY, unit=unit).json()["model"] == "base"


def test_the_switch_by_hand_needs_no_restart() -> None:
    """An arm that does harm is off with the next request, and its units are logged no more."""
    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream() as server, router(server.url, run, sink) as running:
        with router(server.url, run, MemorySink()) as other:
            assert running.post(BODY, unit=unit).json()["model"] == "tuned"
            count = len(sink.events)
            assert running.switch("next", {"on": False, "reason": "it swears"}).status == 200
            assert running.post(BODY, unit=unit).json()["model"] == "base"
            until(lambda: other.post(BODY, unit=unit).json()["model"] == "base")
            assert len(sink.events) == count
            assert running.metric('plop_arm_on{arm="next"}') == 0
            state = running.get("/plop/state", ADMIN).json()
            assert state["arms"]["next"]["reason"] == "it swears"
            assert running.switch("next", {"on": True, "reason": "mended"}).status == 200
            assert running.post(BODY, unit=unit).json()["model"] == "tuned"


@pytest.mark.parametrize(
    ("arm", "content", "status"),
    [("other", {"on": False, "reason": "x"}, 404), ("now", {"on": False, "reason": "x"}, 400),
     ("next", {"on": False}, 400), ("next", {"on": 0, "reason": "x"}, 400),
     ("next", {"on": False, "reason": " "}, 400), ("next", {"on": False, "reason": "a\nb"}, 400),
     ("next", b"no json", 400), ("next", b"[" * 4000, 400), ("next", b"x" * 5000, 400),
     ("next", {"on": False, "reason": "x" * 501}, 400)],
)  # fmt: skip
def test_a_switch_that_is_wrong(arm: str, content: object, status: int) -> None:
    run, sink = memory_run(), MemorySink()
    with upstream() as server, router(server.url, run, sink) as running:
        reply = running.switch(arm, content)
        assert (reply.status, run.off) == (status, {})
        assert reply.json()["error"]["message"]


def test_the_watch_switches_a_harmful_arm_off() -> None:
    """Harm that only an analysis shows must not wait for somebody to look."""
    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream() as server, router(server.url, run, sink, watch=0.1) as running:
        until(lambda: running.get("/plop/health").status == 200)
        assert running.post(BODY, unit=unit).json()["model"] == "tuned"
        run.seen = drawn({"now": 900, "next": 900}, {"now": 0.8, "next": 0.3})
        until(lambda: run.off)
        assert "harm" in run.off["next"]
        assert running.post(BODY, unit=unit).json()["model"] == "base"


def test_a_watch_that_fails_disturbs_no_request() -> None:
    run, sink = memory_run(), MemorySink()
    run.seen = [object()]  # type: ignore[list-item]
    with upstream() as server, router(server.url, run, sink, watch=0.05) as running:
        until(lambda: running.metric('plop_router_failures_total{kind="watch"}') >= 2)
        run.seen = drawn({"now": 900, "next": 900}, {"now": 0.8, "next": 0.3})
        until(lambda: run.off)
        assert running.post(BODY).status == 200


def test_running_streams_end_before_the_router_does() -> None:
    """A restart must not cut answers."""
    go_on = threading.Event()

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        response = await begin(request)
        await response.write(chunk("one"))
        await asyncio.to_thread(go_on.wait, PATIENCE)
        await response.write(b"data: [DONE]\n\n")
        return response

    def go_on_at_the_end(port: int) -> None:
        until(lambda: not accepts(port))
        go_on.set()

    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    replies: list[bytes] = []
    with upstream(answer) as server:
        with router(server.url, run, sink) as running:
            client = threading.Thread(
                target=lambda: replies.append(running.post(BODY, unit=unit).body)
            )
            client.start()
            until(lambda: server.got)
            ends = threading.Thread(target=go_on_at_the_end, args=(running.port,))
            ends.start()
        client.join()
        ends.join()
    assert replies[0].endswith(b"data: [DONE]\n\n")
    assert sink.named("failed") == [0.0]


def test_a_failure_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A disk that is full would otherwise be filled by the log that says so."""
    failures = Failures()
    with caplog.at_level(logging.INFO, "plop_lora.router"):
        for _ in range(1000):
            failures.report("events", "no room")
        failures.report("poll", "away\n\x1b[2J")
    assert [record.getMessage() for record in caplog.records] == ["no room", "away\n\x1b[2J"]
    line = JsonFormatter().format(caplog.records[1])
    assert json.loads(line)["kind"] == "poll"
    assert "\n" not in line
    assert "\x1b" not in line


def test_prompts_that_cannot_be_kept(tmp_path: Path) -> None:
    """Their file is a convenience, and a request is not."""
    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream(streamed) as server:
        with router(server.url, run, sink, prompts=tmp_path / "prompts.jsonl") as running:
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, running.app._traffic._prompts._file)
            os.close(full)
            assert running.post(BODY, unit=unit).status == 200
            assert running.metric('plop_router_failures_total{kind="prompts"}') == 1
