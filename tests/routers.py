"""A router, a pretended model server, and a run that is kept in memory, for tests of the router.

Imports no torch and no database.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from experiments import START, experiment
from waiting import PATIENCE

from plop_lora.ab.events import Event
from plop_lora.ab.observations import Observation
from plop_lora.ab.router.app import Router
from plop_lora.ab.router.server import web_server
from plop_lora.ab.router.settings import Limits, Secrets, Settings
from plop_lora.ab.running import RunState
from plop_lora.errors import OutputError, StoreError, UnknownNameError, UsageError
from plop_lora.records import Experiment, Ramp

ADMIN = "admin-token-of-the-tests"
MODELS = {"now": "base", "next": "tuned"}


@dataclass
class MemoryRun:
    """A run that is kept in memory; `away` makes the store fail."""

    experiment: Experiment
    ramp: Ramp
    off: dict[str, str] = field(default_factory=dict)
    seen: list[Observation] = field(default_factory=list)
    away: bool = False

    def state(self) -> RunState:
        self._check()
        return RunState(ramp=self.ramp, off=dict(self.off))

    def switch(self, arm: str, *, on: bool, reason: str, at: datetime) -> None:
        self._check()
        if arm not in self.experiment.split:
            raise UnknownNameError(f"There is no arm {arm!r}.")
        if arm == self.experiment.control:
            raise UsageError(f"The arm {arm!r} is the control, which stays on.")
        if not self.ramp.coverage:
            raise UsageError("The experiment has ended.")
        if on:
            self.off.pop(arm, None)
        else:
            self.off[arm] = reason

    def observations(self) -> Sequence[Observation]:
        self._check()
        return list(self.seen)

    def _check(self) -> None:
        if self.away:
            raise StoreError("The database cannot be reached.")


def memory_run(**values: object) -> MemoryRun:
    """Return the run of an experiment that has started."""
    made = experiment(**values)
    return MemoryRun(made, Ramp.of_start(made, START))


@dataclass
class MemorySink:
    """Events in a list; `full` makes it fail like a full disk."""

    events: list[Event] = field(default_factory=list)
    full: bool = False

    def write(self, events: Sequence[Event]) -> None:
        if self.full:
            raise OutputError("Cannot write the events: the disk is full.")
        self.events += events

    def named(self, name: str) -> list[float]:
        return [event.value for event in self.events if event.name == name]


@dataclass
class Upstream:
    """A pretended model server: what it got, and how it answers.

    `answer` is called with a request and its body and returns a response, which it may have begun.
    """

    answer: Callable[[web.Request, bytes], Any]
    url: str = ""
    got: list[tuple[web.Request, bytes]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    models: tuple[str, ...] = ("base", "tuned")

    def names(self) -> list[str]:
        """Return the models of the requests."""
        return [json.loads(body)["model"] for _, body in self.got]


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


async def plain(request: web.Request, body: bytes) -> web.StreamResponse:
    """Answer as a server does that does not stream."""
    model = json.loads(body)["model"]
    return web.json_response({"model": model, "choices": [], "usage": USAGE})


def chunk(text: str, **more: object) -> bytes:
    """Return an event of a stream."""
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}], **more})}\n\n".encode()


async def begin(request: web.Request) -> web.StreamResponse:
    """Begin a stream of events."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    return response


async def streamed(request: web.Request, body: bytes) -> web.StreamResponse:
    """Answer as a stream with the usage in its last event."""
    response = await begin(request)
    for word in ("one", "two", "three"):
        await response.write(chunk(word))
    await response.write(f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


@contextlib.contextmanager
def upstream(answer: Callable[[web.Request, bytes], Any] = plain) -> Iterator[Upstream]:
    """Run a pretended model server in a thread."""
    server = Upstream(answer)

    async def post(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        server.got.append((request, body))
        try:
            return await server.answer(request, body)
        except (ConnectionResetError, asyncio.CancelledError):
            server.left.set()
            raise

    async def models(request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [{"id": name} for name in server.models]})

    application = web.Application(client_max_size=2**30)
    application.router.add_get("/v1/models", models)
    application.router.add_post("/{path:.*}", post)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    server.url = "http://{}:{}".format(*runner.addresses[0][:2])
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass
class Reply:
    """An answer as a client reads it; `broken` if it ended too early."""

    status: int
    headers: dict[str, str]
    body: bytes
    broken: bool = False

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A router that listens."""

    app: Router
    port: int

    def post(
        self, body: object = None, *, unit: str | None = None, path: str = "/v1/chat/completions",
        method: str = "POST", headers: dict[str, str] | None = None,
    ) -> Reply:  # fmt: skip
        """Send one request; a body that is no bytes is sent as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        sent = {"content-type": "application/json", **(headers or {})}
        if unit is not None:
            sent["X-Unit-Id"] = unit
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, content if method == "POST" else None, sent)
            return _read(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, token: str = "") -> Reply:
        """Send a GET, with a bearer token where one is given."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return self.post(path=path, method="GET", headers=headers)

    def switch(self, arm: str, content: object, token: str = ADMIN) -> Reply:
        """Ask for the switch of an arm."""
        headers = {"authorization": f"Bearer {token}"}
        return self.post(content, path=f"/plop/arms/{arm}", headers=headers)

    def metric(self, line: str) -> float:
        """Return the value of a metric with its labels, 0 where it was never counted."""
        page = self.get("/plop/metrics").body.decode()
        rows = (row.rpartition(" ") for row in page.splitlines() if not row.startswith("#"))
        return next((float(value) for name, _, value in rows if name == line), 0.0)


def _read(response: http.client.HTTPResponse) -> Reply:
    headers = {name.lower(): value for name, value in response.getheaders()}
    try:
        return Reply(response.status, headers, response.read())
    except (http.client.IncompleteRead, ConnectionError) as error:
        partial = getattr(error, "partial", b"")
        return Reply(response.status, headers, partial, broken=True)


def settings(url: str, **values: Any) -> Settings:
    """Return settings with tokens of the tests, polled often and without a watch."""
    fields: dict[str, Any] = {
        "upstream": url, "models": MODELS, "public": ("support",), "poll": 0.05, "watch": 0,
        "secrets": Secrets(admin=ADMIN), "limits": Limits(connect=PATIENCE, shutdown=PATIENCE),
    }  # fmt: skip
    return Settings(**fields | values)


@contextlib.contextmanager
def router(
    url: str, run: MemoryRun, sink: Any, *, limits: dict[str, float] | None = None, **values: Any
) -> Iterator[Running]:
    """Run a router in a thread, with the web server of `plop ab serve`."""
    wanted = settings(url, **values)
    if limits:
        wanted = replace(wanted, limits=replace(wanted.limits, **limits))
    app = Router(wanted, run, sink)
    server = web_server(app, wanted.limits)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            threading.Event().wait(0.01)
        yield Running(app, listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()
        assert not thread.is_alive(), "the router did not end"


def units(made: Experiment, arm: str | None, count: int) -> list[str]:
    """Return the first units that have an arm, or None for no part in the experiment."""
    found = (f"account-{number}" for number in range(100_000))
    wanted = (unit for unit in found if made.assign(unit) == arm)
    return [unit for unit, _ in zip(wanted, range(count), strict=False)]


def settle(file: Path) -> None:
    """Store what routers that have ended left in files: one waits for its database 5 seconds."""
    from plop_lora.ab.live import database_beside
    from plop_lora.ab.store import spill_folder
    from plop_lora.ab.waiting import send_waiting

    folder, url = spill_folder(file), database_beside(file)
    assert send_waiting(folder, url, Experiment.load(file), timeout=PATIENCE) == 0


def words_of(models: Mapping[str, str]) -> list[str]:
    """Return the options that name the model of each arm."""
    return [word for arm, name in models.items() for word in ("--model", f"{arm}={name}")]


@contextlib.contextmanager
def serving(
    file: Path, url: str, *words: str, models: Mapping[str, str] = MODELS, ended: int | None = 0
) -> Iterator[tuple[Running, subprocess.Popen[str]]]:
    """Run `plop ab serve` at a free port, and end it with a SIGTERM unless it was killed."""
    command = [sys.executable, "-m", "plop_lora", "ab", "serve", "-e", str(file), "--port", "0",
               "--upstream", url, "--poll", "0.1", *words]  # fmt: skip
    command += words_of(models)
    environment = {**os.environ, "PLOP_ADMIN_TOKEN": ADMIN}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    log: list[str] = []
    for line in process.stderr:
        log.append(line)
        if "listening" in line:
            break
    else:
        raise AssertionError("".join(log))
    reader = threading.Thread(target=log.extend, args=(process.stderr,))
    reader.start()
    port = int(json.loads(log[-1])["address"].rpartition(":")[2])
    try:
        yield Running(None, port), process  # type: ignore[arg-type]
    finally:
        process.terminate()
        code = process.wait(PATIENCE)
        reader.join()
        process.stderr.close()
        assert ended is None or code == ended, "".join(log)
        assert "Traceback" not in "".join(log)
