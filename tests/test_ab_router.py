"""The router: which arm answers, what passes through unchanged, and what is logged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from routers import (
    ADMIN,
    MODELS,
    USAGE,
    MemoryRun,
    MemorySink,
    Running,
    Upstream,
    memory_run,
    router,
    streamed,
    units,
    upstream,
)
from waiting import PATIENCE

from plop_lora.ab.events import EXPOSURE
from plop_lora.ab.router.bodies import read_body
from plop_lora.errors import DataError


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Running, MemoryRun, MemorySink, Upstream]]:
    run, sink = memory_run(), MemorySink()
    with upstream() as server, router(server.url, run, sink) as running:
        yield running, run, sink, server


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> None:
    if "served" in request.fixturenames:
        _, run, sink, server = request.getfixturevalue("served")
        run.off.clear()
        sink.events.clear()
        server.got.clear()


def test_each_unit_gets_the_model_of_its_arm(served: tuple) -> None:
    """A unit that met another arm than the one it is logged under would falsify the result."""
    running, run, sink, _ = served
    for arm in ("now", "next"):
        for unit in units(run.experiment, arm, 5):
            reply = running.post({"model": "support", "messages": []}, unit=unit)
            assert reply.status == 200
            assert reply.json()["model"] == MODELS[arm]
            exposures = [e for e in sink.events if e.unit == run.experiment.pseudonym(unit)]
            assert [e.arm for e in exposures if e.kind is EXPOSURE] == [arm]


def test_values_of_a_request(served: tuple) -> None:
    """An answer that is not streamed has no time to a first token, and missing is not 0."""
    running, run, sink, _ = served
    (unit,) = units(run.experiment, "next", 1)
    running.post({"model": "support"}, unit=unit)
    values = {e.name: e.value for e in sink.events if e.name}
    assert values.pop("latency_last") > 0
    assert values == {"failed": 0.0, "tokens_in": 7.0, "tokens_out": 3.0}


def test_the_unit_is_the_header_or_the_user(served: tuple) -> None:
    """The header comes from the service and the field from its clients, so the header wins."""
    running, run, _, server = served
    (now,) = units(run.experiment, "now", 1)
    (new,) = units(run.experiment, "next", 1)
    running.post({"model": "support", "user": new})
    running.post({"model": "support", "user": now}, unit=new)
    assert server.names() == ["tuned", "tuned"]
    for request, _ in server.got:
        assert "x-unit-id" not in request.headers
    running.post({"model": "support", "user": 5})
    running.post({"model": "support"})
    running.post({"model": "support", "user": new}, unit="")
    assert server.names()[2:] == ["base"] * 3
    assert running.metric('plop_requests_outside_total{outcome="ok",reason="no unit"}') >= 3


def test_a_unit_outside_the_coverage_is_logged_nowhere() -> None:
    """It would be counted for an arm though it was never randomised."""
    run, sink = memory_run(coverage=0.2), MemorySink()
    with upstream() as server, router(server.url, run, sink) as running:
        for unit in units(run.experiment, None, 3):
            assert running.post({"model": "support"}, unit=unit).json()["model"] == "base"
        assert sink.events == []
        (covered,) = units(run.experiment, "next", 1)
        running.post({"model": "support"}, unit=covered)
        assert server.names() == ["base"] * 3 + ["tuned"]


def test_a_client_cannot_pick_its_arm(served: tuple) -> None:
    """Whoever may name the model of an arm chooses its own treatment."""
    running, run, sink, server = served
    (now,) = units(run.experiment, "now", 1)
    for body in (
        b'{"model":"tuned"}',
        b'{"model":"support","model":"tuned"}',
        b'{"model":"tuned","model":"support"}',
        rb'{"mode\u006c":"tuned"}',
        '{"model":"tuned"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"model":"tuned"}',
        b'{"model":["tuned"]}',
        b'{"model":1' + b"0" * 6000 + b"}",
    ):
        reply = running.post(body, unit=now)
        assert (reply.status, reply.json()["error"]["code"]) == (404, "model_not_found"), body
    assert server.got == []
    assert sink.events == []
    assert [m["id"] for m in running.get("/v1/models").json()["data"]] == ["support"]


@pytest.mark.parametrize(
    "body",
    [
        b'{ "model" : "support" ,"n":123456789012345678901234, "x":1.0e400,"t":"\\u00e9\xc3\xa9"}',
        b'{"seed":1e2,"a":{"model":"inner"},"model":"support","z":[{"model":"x"}]}\n',
        b'{"messages":[{"content":"\\ud83d\\ude00 \\ud800"}],"model":"support","v":NaN}',
        b'{"model":"support","stop":"\xf0\x9f\x98\x80","model":"support"}',
        '{"model":"support","a":"ü"}'.encode("utf-16-le"),
    ],
)
def test_only_the_model_changes(served: tuple, body: bytes) -> None:
    """A number that is read and written again, or a key that moves, is another request."""
    running, run, _, server = served
    (unit,) = units(run.experiment, "next", 1)
    assert running.post(body, unit=unit).status in (200, 500)
    _, got = server.got[-1]
    encoding = json.detect_encoding(body)
    expected = body.replace('"support"'.encode(encoding), '"tuned"'.encode(encoding))
    assert got == expected


def test_a_large_body_and_a_query_pass_through(served: tuple) -> None:
    """A large request is sent in pieces, and what is in its address belongs to the server."""
    running, run, _, server = served
    (unit,) = units(run.experiment, "next", 1)
    content = "x" * (3 * 2**20)
    target = "/v1/chat/completions?a=%2F%20&b=c&model=tuned"
    assert running.post({"model": "support", "c": content}, unit=unit, path=target).status == 200
    request, body = server.got[-1]
    assert request.raw_path == target
    assert json.loads(body) == {"model": "tuned", "c": content}
    assert request.headers["content-length"] == str(len(body))
    assert "transfer-encoding" not in request.headers


def test_a_body_without_a_model_gets_one() -> None:
    """The server would take its base model otherwise, whatever the arm."""
    assert read_body(b"{}").with_model("m") == b'{"model":"m"}'
    assert read_body(b' { "a":1}').with_model("m") == b' {"model":"m", "a":1}'
    assert read_body(b'{"model":null}').with_model('m"') == b'{"model":"m\\""}'


@pytest.mark.parametrize(
    "body",
    [b"", b"no json", b"[]", b'{"a":1', b'{"a":1}x', b'{"a" 1}', b"{,}", b'{"a":1,}',
     b"\xff\xfe\x00", b'{"a":' + b"[" * 200_000, b'{"x":"\n"}', b"{5:1}", b'"text"'],
)  # fmt: skip
def test_what_cannot_be_read_goes_to_the_server_as_it_is(served: tuple, body: bytes) -> None:
    """The server knows best what is wrong with a request, and no request is lost here."""
    running, run, sink, server = served
    with pytest.raises(DataError):
        read_body(body)
    (unit,) = units(run.experiment, "next", 1)
    assert running.post(body, unit=unit).status == 500  # the pretended server cannot read it either
    assert server.got[-1][1] == body
    assert sink.events == []


def test_a_stream_passes_through_chunk_by_chunk() -> None:
    """A client that waits for the whole stream to see its first token needs no stream."""
    import http.client
    import threading

    go_on = threading.Event()

    async def answer(request: object, body: bytes) -> object:
        import asyncio

        from routers import begin, chunk

        response = await begin(request)
        await response.write(chunk("one"))
        await asyncio.to_thread(go_on.wait, PATIENCE)
        await response.write(b"data: [DONE]\n\n")
        return response

    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream(answer) as server, router(server.url, run, sink) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
        connection.request(
            "POST", "/v1/chat/completions", b'{"model":"support"}', {"X-Unit-Id": unit}
        )
        response = connection.getresponse()
        assert b"one" in response.read1()
        assert sink.named("failed") == []
        go_on.set()
        assert response.read() == b"data: [DONE]\n\n"
        connection.close()
    assert sink.named("failed") == [0.0]


def test_the_values_of_a_stream() -> None:
    """The tokens of a stream stand in its last event, and only where the client asks for them."""
    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream(streamed) as server, router(server.url, run, sink) as running:
        reply = running.post({"model": "support", "stream": True}, unit=unit)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert sink.named("tokens_out") == [3.0]
    assert sink.named("tokens_in") == [7.0]
    (first,), (last,) = sink.named("latency_first"), sink.named("latency_last")
    assert 0 < first <= last


@pytest.mark.parametrize(
    "content",
    [b"data: {broken\n\n", b'data: {"usage": 5}\n\n',
     b'data: {"usage": {"prompt_tokens": "x"}}\n\n', b"\xff\x00\xfe",
     b'data: {"usage": {"completion_tokens": -1}}\n\ndata: [DONE]\n\n'],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_what_the_server_sends_passes_through_whatever_it_is(content: bytes, kind: str) -> None:
    """An answer that cannot be read here is the client's all the same; its tokens are missing."""
    from aiohttp import web

    async def answer(request: object, body: bytes) -> web.Response:
        return web.Response(body=content, content_type=kind)

    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream(answer) as server, router(server.url, run, sink) as running:
        reply = running.post({"model": "support"}, unit=unit)
    assert (reply.status, reply.body) == (200, content)
    assert sink.named("tokens_out") == sink.named("tokens_in") == []
    assert sink.named("failed") == [0.0]


def test_an_error_of_the_server_is_passed_on_and_counts() -> None:
    """An arm whose requests fail must not look fast, nor lose its failures."""
    from aiohttp import web

    async def answer(request: object, body: bytes) -> web.Response:
        return web.Response(status=429, text="wait", headers={"retry-after": "7"})

    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream(answer) as server, router(server.url, run, sink) as running:
        reply = running.post({"model": "support"}, unit=unit)
        assert running.metric('plop_requests_total{arm="next",outcome="upstream_error"}') == 1
    assert (reply.status, reply.body, reply.headers["retry-after"]) == (429, b"wait", "7")
    assert {e.name: e.value for e in sink.events if e.name} == {"failed": 1.0}


def test_exposure_is_logged_once_for_each_unit(served: tuple) -> None:
    """Its id makes a repeat harmless, but a line for each request would fill the disk."""
    running, run, sink, _ = served
    (unit,) = units(run.experiment, "now", 5)[4:]
    sink.events.clear()
    before = {e.unit for e in sink.events}
    for _ in range(3):
        running.post({"model": "support"}, unit=unit)
    assert before == set()
    assert sum(e.kind is EXPOSURE for e in sink.events) <= 1


def test_what_is_remembered_of_units_is_bounded() -> None:
    """A router that runs for months must not grow with every unit it has met."""
    from plop_lora.ab.router.choices import Choice
    from plop_lora.ab.router.logs import Failures
    from plop_lora.ab.router.metrics import Metrics
    from plop_lora.ab.router.recording import Recorder

    sink = MemorySink()
    recorder = Recorder(sink, Metrics(MODELS), Failures(), remembered=10)
    for number in [*range(30), 0]:
        recorder.expose(Choice("next", f"unit-{number}"), "now")
    assert len(recorder._exposed) == 10
    assert len(sink.events) == 31
    assert sink.events[0].id == sink.events[-1].id


def test_prompts_are_stored_only_where_asked(tmp_path: Path) -> None:
    """They are of persons; the file is its owner's alone and names no unit."""
    run = memory_run()
    (unit,) = units(run.experiment, "next", 1)
    path = tmp_path / "prompts.jsonl"
    with upstream() as server:
        with router(server.url, run, MemorySink(), prompts=path) as running:
            running.post({"model": "support", "messages": ["secret \x1b[2J"]}, unit=unit)
            running.post({"model": "support"})
    (line,) = path.read_text().splitlines()
    row = json.loads(line)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (row["unit"], row["arm"]) == (run.experiment.pseudonym(unit), "next")
    assert json.loads(row["answer"])["usage"] == USAGE
    assert "secret" in row["request"]
    assert "\x1b" not in line
    assert unit not in line


def test_health_ready_and_state(served: tuple) -> None:
    """A router whose server lost an adapter would send its units into errors."""
    running, run, _, server = served
    assert running.get("/plop/health").status == 200
    assert running.get("/plop/ready").json() == {"ready": True, "problem": ""}
    state = running.get("/plop/state", ADMIN).json()
    assert state["coverage"] == 1.0
    assert state["arms"]["next"] == {"model": "tuned", "weight": 0.5, "on": True, "reason": ""}
    server.models = ("base",)
    with router(server.url, run, MemorySink()) as other:
        reply = other.get("/plop/ready")
    server.models = ("base", "tuned")
    assert reply.status == 503
    assert "does not list" in reply.json()["problem"]
