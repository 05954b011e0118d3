"""The web server of a router: its socket, the limits of a connection, its start and its end.

The web server is imported when it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from plop_lora.ab.events import EventSink
from plop_lora.ab.router.app import Router
from plop_lora.ab.router.asgi import ABORT
from plop_lora.ab.router.logs import log
from plop_lora.ab.router.settings import Limits, Settings
from plop_lora.ab.router.upstream import check_listed, listed_models
from plop_lora.ab.running import ExperimentRun
from plop_lora.errors import UsageError, require

_KEEP_ALIVE = 75
"""Seconds that an idle connection is kept: more than the 60 of nginx, which would
meet closed ones otherwise."""
_SWITCH = 0.0005
"""Seconds after which the interpreter hands over to another thread. The default of 5 ms is what
each step of a request would wait for while the watch analyses."""
_BACKLOG = 2048


def serve(
    settings: Settings,
    run: ExperimentRun,
    sink: EventSink,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
) -> None:
    """Answer requests until a SIGTERM or Ctrl-C, and let those that run come to their end.

    Args:
        settings: What the router is started with.
        run: Running experiment.
        sink: Where events go.
        host: Address to listen at.
        port: Port to listen at; 0 for a free one, which the first line of the log names.

    Raises:
        StoreError: The state of the run cannot be read.
        RecordError: The experiment is not the one that was started.
        MachineError: The upstream does not answer.
        UsageError: The upstream does not serve the model of an arm, or the address cannot be
            listened at.
        MissingExtraError: The extra `serve` is not installed.
    """
    app = Router(settings, run, sink)
    check_listed(settings.models, asyncio.run(listed_models(settings)))
    listening = _listen(host, port)
    address = "{}:{}".format(*listening.getsockname()[:2])
    log("listening", address=address, upstream=settings.upstream, models=settings.models)
    with listening, _terminated_quietly(), _responsive():
        web_server(app, settings.limits).run(sockets=[listening])


def web_server(app: Router, limits: Limits) -> Any:
    """Return the web server of a router, which does not run yet."""
    uvicorn = require("uvicorn")
    config = uvicorn.Config(
        app,
        http=_protocol(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=limits.shutdown,
    )
    return uvicorn.Server(config)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"Cannot listen at {host}, port {port}: {reason}. Give others with --host and --port."
        ) from error


@contextlib.contextmanager
def _terminated_quietly() -> Iterator[None]:
    """Let a SIGTERM end the server and not the process, which has to close the store.

    The web server has a handler of its own while it runs, and raises the signal again at its end.
    """

    def leave(*_: object) -> NoReturn:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit as end:
        if end.code:
            raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _responsive() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _protocol(limits: Limits) -> type[Any]:
    """Return the protocol of a connection, with what the one of uvicorn does not limit.

    That one collects headers without a limit of their size or time, and drops the host of a target
    such as `http://other/v1/models`.
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class LimitedProtocol(HttpToolsProtocol):
        """Closes a connection whose headers are too large or come too slowly."""

        _head = 0
        _in_head = False
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._begin_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end_head()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._in_head:
                self._head += len(data)
                if self._head > limits.head and not self.transport.is_closing():
                    self.send_400_response("The headers of the request are too large.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begin_head()

        def on_headers_complete(self) -> None:
            self._end_head()
            super().on_headers_complete()
            self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]
            if not self.url.startswith(b"/"):
                self.scope["path"] = self.url.decode("latin-1")

        def _begin_head(self) -> None:
            self._end_head()
            self._in_head, self._head = True, 0
            self._deadline = self.loop.call_later(limits.upload, self.transport.close)

        def _end_head(self) -> None:
            self._in_head = False
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return LimitedProtocol
