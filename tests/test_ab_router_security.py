"""The router against hostile clients: tokens, hosts, headers, and what must not leak."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path

import pytest
from aiohttp import web
from routers import ADMIN, MemorySink, memory_run, router, settings, units, upstream
from waiting import PATIENCE

from plop_lora.ab.router.prompts import PromptFile
from plop_lora.ab.router.settings import Secrets, check_exposed, models_of
from plop_lora.errors import OutputError, PlopError, UnknownNameError, UsageError

TRAFFIC = "traffic-token-of-the-tests"
KEY = "key-of-the-upstream-server"
BODY = {"model": "support"}


def raw(port: int, content: bytes) -> bytes:
    """Send bytes and return everything that comes back until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(content)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_the_administration_needs_its_token() -> None:
    """Whoever may switch arms decides the experiment; the token of clients is not enough."""
    run, sink = memory_run(), MemorySink()
    secrets = Secrets(admin=ADMIN, traffic=TRAFFIC)
    off = {"on": False, "reason": "x"}
    with upstream() as server, router(server.url, run, sink, secrets=secrets) as running:
        for token in ("", "wrong", TRAFFIC, ADMIN[:-1], ADMIN + "x", "\u00fc"):
            assert running.switch("next", off, token.encode().decode("latin-1")).status == 401
            assert running.get("/plop/state", token.encode().decode("latin-1")).status == 401
        assert run.off == {}
        assert running.post(off, path="/plop/arms/next").status == 401
        assert running.get("/plop/metrics").status == 401
        assert running.get("/plop/metrics", TRAFFIC).status == 200
        assert running.get("/plop/metrics", ADMIN).status == 200
        assert running.get("/plop/health").status == 200
        assert running.switch("next", off).status == 200
    with upstream() as server:
        with router(server.url, run, sink, secrets=Secrets()) as running:
            assert running.switch("next", off, "").status == 404
            assert running.get("/plop/state", "None").status == 404


def test_clients_need_their_token_and_the_server_never_sees_it() -> None:
    """A token that is passed on is known to whoever runs the server or reads its log."""
    run, sink = memory_run(), MemorySink()
    secrets = Secrets(traffic=TRAFFIC)
    with upstream() as server, router(server.url, run, sink, secrets=secrets) as running:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TRAFFIC}):
            reply = running.post(BODY, headers=headers)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert running.get("/v1/models").status == 401
        assert server.got == []
        assert running.post(BODY, headers={"Authorization": f"Bearer {TRAFFIC}"}).status == 200
        assert "authorization" not in server.got[0][0].headers
    secrets = Secrets(traffic=TRAFFIC, upstream=KEY)
    with upstream() as server, router(server.url, run, sink, secrets=secrets) as running:
        running.post(BODY, headers={"Authorization": f"bearer {TRAFFIC}"})
        assert server.got[0][0].headers["authorization"] == f"Bearer {KEY}"
    with upstream() as server, router(server.url, run, sink) as running:
        running.post(BODY, headers={"Authorization": "Bearer of-the-client"})
        assert server.got[0][0].headers["authorization"] == "Bearer of-the-client"


@pytest.mark.parametrize(
    "target",
    ["/", "/v1", "/v1/embeddings", "/v1/chat/completions/", "/v1/chat/../chat/completions",
     "//other/v1/chat/completions", "/metrics", "/v1/load_lora_adapter", "/plop/", "/plop",
     "/plop/../v1/chat/completions", "/v1/chat/completions%00", "/V1/chat/completions"],
)  # fmt: skip
def test_other_paths_do_not_reach_the_server(target: str) -> None:
    """A model server has routes that load adapters and tell its metrics."""
    run, sink = memory_run(), MemorySink()
    with upstream() as server, router(server.url, run, sink) as running:
        assert running.post(BODY, path=target).status == 404
        assert server.got == []


@pytest.mark.parametrize(
    "line",
    [b"POST http://127.0.0.1:1/v1/chat/completions HTTP/1.1", b"CONNECT 127.0.0.1:1 HTTP/1.1",
     b"OPTIONS * HTTP/1.1", b"POST //127.0.0.1:1/v1/chat/completions HTTP/1.1",
     b"BREW /v1/chat/completions HTTP/1.1", b"GET /v1/chat/completions HTTP/1.1"],
)  # fmt: skip
def test_a_request_does_not_choose_the_server(line: bytes) -> None:
    """A proxy that takes its target from the request is a way into the network behind it."""
    run, sink = memory_run(), MemorySink()
    with upstream() as server, router(server.url, run, sink) as running:
        head = line + b"\r\nhost: evil\r\nconnection: close\r\ncontent-length: 19\r\n\r\n"
        status = raw(running.port, head + b'{"model":"support"}').split(b" ")[1]
        assert status in (b"400", b"404", b"405")
        assert server.got == []


def test_headers_of_one_connection_stay_on_it() -> None:
    """Headers that Connection names would change how the other side reads the message."""

    async def answer(request: web.Request, body: bytes) -> web.Response:
        response = web.Response(body=b"{}", headers={"x-kept": "1", "Keep-Alive": "timeout=9"})
        response.headers["Connection"] = "x-gone"
        response.headers["X-Gone"] = "1"
        response.headers.add("set-cookie", "a=1")
        response.headers.add("set-cookie", "b=2")
        return response

    run, sink = memory_run(), MemorySink()
    with upstream(answer) as server, router(server.url, run, sink) as running:
        sent = {"Connection": "keep-alive, X-Secret", "X-Secret": "1", "TE": "trailers",
                "Proxy-Authorization": "Basic x", "X-Kept": "\u00fc", "Upgrade": "h2c",
                "Accept-Encoding": "gzip"}  # fmt: skip
        reply = running.post(BODY, headers=sent)
        got = server.got[0][0].headers
        running.post(BODY)
        assert "cookie" not in server.got[1][0].headers
    assert not {"x-secret", "te", "proxy-authorization", "upgrade"} & {key.lower() for key in got}
    assert got["x-kept"] == "\u00fc"
    assert got["host"] == server.url.removeprefix("http://")
    assert got["content-length"] == str(len('{"model": "base"}'))
    assert reply.headers["x-kept"] == "1"
    assert not {"x-gone", "keep-alive"} & reply.headers.keys()
    assert reply.headers["set-cookie"] == "a=1, b=2" or reply.headers["set-cookie"] == "b=2"


def test_two_unit_headers_name_no_unit() -> None:
    """A client that adds one of its own to that of the service would choose its arm."""
    run, sink = memory_run(), MemorySink()
    (unit,) = units(run.experiment, "next", 1)
    with upstream() as server, router(server.url, run, sink) as running:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        head += f"x-unit-id: {unit}\r\nX-UNIT-ID: other\r\n".encode()
        body = b'{"model":"support"}'
        answer = raw(running.port, head + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert b" 200 " in answer
        assert server.names() == ["base"]
    assert sink.events == []


@pytest.mark.parametrize(
    "head",
    [b"content-length: 2\r\ncontent-length: 5\r\n",
     b"content-length: 2\r\ntransfer-encoding: chunked\r\n",
     b"content-length: -2\r\n", b"content-length: 99999999999999999999999\r\n"],
)  # fmt: skip
def test_lengths_that_contradict_each_other(head: bytes) -> None:
    """Two readers of one connection that disagree on its length read two different requests."""
    run, sink = memory_run(), MemorySink()
    with upstream() as server, router(server.url, run, sink) as running:
        start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        status = raw(running.port, start + head + b"\r\n{}").split(b" ")[1]
        assert status in (b"400", b"413")
        assert server.got == []


def test_no_secret_and_no_unit_in_metrics_logs_or_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is logged is read by many."""
    run, sink = memory_run(), MemorySink()
    secrets = Secrets(admin=ADMIN, traffic=TRAFFIC, upstream=KEY)
    with caplog.at_level(logging.DEBUG), upstream() as server:
        with router(server.url, run, sink, secrets=secrets, access_log=True) as running:
            for arm in ("now", "next"):
                (unit,) = units(run.experiment, arm, 1)
                headers = {"Authorization": f"Bearer {TRAFFIC}"}
                running.post({**BODY, "prompt": "Sesame"}, unit=unit, headers=headers)
            running.post(b"Sesame", headers=headers)
            sink.full = True
            running.post({**BODY, "prompt": "Sesame"}, unit="account-x", headers=headers)
            page = running.get("/plop/metrics", ADMIN).body.decode()
            running.get("/plop/state", "wrong")
    log = "\n".join(f"{r.getMessage()} {getattr(r, 'fields', '')}" for r in caplog.records)
    assert "upstream" not in repr(settings(server.url, secrets=secrets).secrets)
    for text in (page, log, repr(settings(server.url, secrets=secrets))):
        for secret in (ADMIN, TRAFFIC, KEY, "account-", "Sesame"):
            assert secret not in text
        for unit in {event.unit for event in sink.events}:
            assert unit not in text
    assert "request" in log


@pytest.mark.parametrize(
    ("host", "traffic", "allowed", "refused"),
    [("127.0.0.1", "", False, False), ("::1", "", False, False), ("localhost", "", False, False),
     ("127.9.9.9", "", False, False), ("0.0.0.0", "", False, True), ("::", "", False, True),
     ("10.0.0.1", TRAFFIC, False, False), ("10.0.0.1", "", True, False), ("", "", False, True)],
)  # fmt: skip
def test_other_machines_need_a_token(host: str, traffic: str, allowed: bool, refused: bool) -> None:
    """A model server that anybody reaches is used by anybody."""
    if not refused:
        check_exposed(host, Secrets(traffic=traffic), allowed=allowed)
        return
    with pytest.raises(UsageError, match="PLOP_TRAFFIC_TOKEN"):
        check_exposed(host, Secrets(traffic=traffic), allowed=allowed)


@pytest.mark.parametrize(
    "values",
    [{"upstream": "ftp://x"}, {"upstream": "http://"}, {"upstream": "http://u:p@x"},
     {"upstream": "http://x?a=1"}, {"upstream": "http://x:99999"}, {"upstream": "http://x y"},
     {"upstream": "http://x\n"}, {"unit_header": "Authorization"}, {"unit_header": "a b"},
     {"unit_header": "a\r\nb"}, {"paths": ("/metrics",)}, {"paths": ("/v1/../x",)},
     {"paths": ("/v1/models",)}, {"poll": 0}, {"watch": -1}, {"poll": float("nan")},
     {"watch": float("inf")}],
)  # fmt: skip
def test_settings_that_cannot_work(values: dict[str, object]) -> None:
    url = values.pop("upstream", "http://127.0.0.1:8000")
    with pytest.raises(UsageError) as caught:
        settings(url, **values)
    assert "\n" not in str(caught.value)


def test_a_token_that_is_weak_or_cannot_be_sent() -> None:
    for token in ("short", "has a space in the middle", "with\nline break here", "ümlaut" * 4):
        with pytest.raises(UsageError) as caught:
            Secrets(admin=token)
        assert token not in str(caught.value)


def test_models_of_arms() -> None:
    """Two arms behind one model would be compared with themselves."""
    made = memory_run().experiment
    assert models_of(made, {"now": "base"}) == {"now": "base", "next": "next"}
    with pytest.raises(UsageError, match="both be served"):
        models_of(made, {"now": "next"})
    with pytest.raises(UnknownNameError, match="Did you mean 'next'"):
        models_of(made, {"nex": "x"})


def test_the_file_of_prompts_is_its_owners_alone(tmp_path: Path) -> None:
    open_file, link, target = (tmp_path / name for name in ("open", "link", "target"))
    open_file.write_text("")
    open_file.chmod(0o644)
    link.symlink_to(target)
    for path in (open_file, link, tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(OutputError, match="--store-prompts"):
            PromptFile(path)
    assert not target.exists()


def test_errors_of_the_router_are_of_openais_form() -> None:
    """Clients show the text of an error only where they find it."""
    run, sink = memory_run(), MemorySink()
    with upstream() as server, router(server.url, run, sink) as running:
        error = json.loads(running.post(BODY, path="/v1/other").body)["error"]
    assert set(error) == {"message", "type", "code"}
    assert issubclass(UsageError, PlopError)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_limits_that_no_timer_takes(value: float) -> None:
    """A limit that fails only when a request comes would fail every request."""
    from plop_lora.ab.router.settings import Limits

    for name in Limits.__slots__:
        with pytest.raises(UsageError, match=name):
            Limits(**{name: value})
