"""The router as an ASGI application: which part answers, and what begins and ends with it.

Imports the standard library and the parts of the router.
"""

from __future__ import annotations

import asyncio
import functools

from plop_lora.ab.events import EventSink
from plop_lora.ab.router.administration import PREFIX, Administration
from plop_lora.ab.router.asgi import Receive, Scope, Send
from plop_lora.ab.router.background import Repeated, switch_off_harmful
from plop_lora.ab.router.known import Known
from plop_lora.ab.router.logs import Failures, log
from plop_lora.ab.router.metrics import Metrics
from plop_lora.ab.router.recording import Recorder
from plop_lora.ab.router.settings import Settings
from plop_lora.ab.router.traffic import Traffic
from plop_lora.ab.router.upstream import Upstream
from plop_lora.ab.running import ExperimentRun


class Router:
    """The ASGI application of a router.

    Attributes:
        known: What it knows of the run.
        metrics: What it has counted.
    """

    def __init__(self, settings: Settings, run: ExperimentRun, sink: EventSink) -> None:
        """Make the application; nothing listens and no thread runs yet.

        Args:
            settings: What it is started with.
            run: Running experiment.
            sink: Where events go.

        Raises:
            StoreError: The state of the run cannot be read.
            RecordError: The experiment is not the one that was started.
            OutputError: The file of prompts cannot be written.
            MissingExtraError: The extra `serve` is not installed.
        """
        self._settings = settings
        self.known = Known(run)
        self.metrics = Metrics(settings.models)
        recorder = Recorder(sink, self.metrics, Failures())
        self._traffic = Traffic(settings, run.experiment, self.known, recorder, self.metrics)
        self._administration = Administration(settings, self.known, self.metrics)
        self._routes = self._administration.routes()
        self._threads = [Repeated("poll", settings.poll, self.known.refresh, recorder.failed)]
        if settings.watch:
            look = functools.partial(switch_off_harmful, run.experiment, self.known)
            self._threads.append(Repeated("watch", settings.watch, look, recorder.failed))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the life of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close"})
        elif scope["path"].startswith(PREFIX):
            await self._routes(scope, receive, send)
        else:
            await self._traffic(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Open the connection and start the threads; end both when the server ends."""
        await receive()
        upstream = Upstream(self._settings)
        self._traffic.upstream = self._administration.upstream = upstream
        for thread in self._threads:
            thread.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for thread in self._threads:
            thread.stop()
        await upstream.close()
        await asyncio.to_thread(self._end)
        await send({"type": "lifespan.shutdown.complete"})

    def _end(self) -> None:
        for thread in self._threads:
            thread.join()
        self._traffic.close()
        log("stopped")
