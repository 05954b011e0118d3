"""The routes of whoever runs the router: health, metrics, the state, and the switch of an arm.

Starlette is imported when the routes are made.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from plop_lora.ab.router.headers import bearer, is_token
from plop_lora.ab.router.known import Known
from plop_lora.ab.router.logs import log
from plop_lora.ab.router.metrics import Metrics
from plop_lora.ab.router.settings import Settings
from plop_lora.ab.router.upstream import Upstream, check_listed
from plop_lora.errors import PlopError, StoreError, UnknownNameError, UsageError, require
from plop_lora.escapes import acting

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    Handler = Callable[[Request], Awaitable[Response]]

PREFIX = "/plop/"
_LONGEST_REASON = 500
_LARGEST = 4096
"""Bytes of a request to switch an arm."""
_SEEN_FOR = 2.0
"""Seconds for which the upstream's list of models is not asked for again."""


class Administration:
    """Answers what is asked under `/plop/`."""

    def __init__(self, settings: Settings, known: Known, metrics: Metrics) -> None:
        self._settings = settings
        self._known = known
        self._metrics = metrics
        self._seen: tuple[float, str] = (-_SEEN_FOR, "not asked yet")
        self._asking = asyncio.Lock()
        self.upstream: Upstream | None = None
        responses = require("starlette.responses")
        self._json: Callable[..., Response] = responses.JSONResponse
        self._response: Callable[..., Response] = responses.Response

    def routes(self) -> Any:
        """Return the routes as an ASGI application."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/plop/health", self._health),
                Route("/plop/ready", self._ready),
                Route("/plop/metrics", self._page),
                Route("/plop/state", self._guarded(self._state)),
                Route("/plop/arms/{arm:path}", self._guarded(self._switch), methods=["POST"]),
            ]
        )

    def _guarded(self, handler: Handler) -> Handler:
        """Return a handler that answers only whoever has the token of the administration."""

        async def guarded(request: Request) -> Response:
            token = self._settings.secrets.admin
            if not token:
                return self._error(
                    404, "The administration is off: start the router with PLOP_ADMIN_TOKEN."
                )
            if not is_token(bearer(request.headers.raw), token):
                return self._error(401, "The bearer token of the administration is needed.")
            return await handler(request)

        return guarded

    async def _health(self, request: Request) -> Response:
        return self._json({"healthy": True})

    async def _ready(self, request: Request) -> Response:
        """Whether the upstream serves every arm; its models are not named, as anybody may ask."""
        async with self._asking:
            at, problem = self._seen
            if time.monotonic() - at >= _SEEN_FOR:
                problem = await self._problem()
                self._seen = (time.monotonic(), problem)
        status = 503 if problem else 200
        return self._json({"ready": not problem, "problem": problem}, status)

    async def _problem(self) -> str:
        if self.upstream is None:
            return "The router has not started yet."
        try:
            check_listed(self._settings.models, await self.upstream.models())
        except UsageError:
            return "The upstream does not list the model of every arm."
        except PlopError:
            return "The upstream does not answer."
        return ""

    async def _page(self, request: Request) -> Response:
        secrets = self._settings.secrets
        given = bearer(request.headers.raw)
        allowed = is_token(given, secrets.traffic) or is_token(given, secrets.admin)
        if secrets.traffic and not allowed:
            return self._error(401, "The token of clients or of the administration is needed.")
        known = self._known
        arms = [(arm, not known.is_off(arm)) for arm in self._settings.models]
        page = self._metrics.page(known.coverage, arms, known.age)
        return self._response(page, media_type="text/plain; version=0.0.4")

    async def _state(self, request: Request) -> Response:
        known = self._known
        state, experiment = known.state, known.run.experiment
        return self._json(
            {
                "experiment": experiment.name,
                "digest": experiment.digest(),
                "coverage": state.ramp.coverage,
                "started": state.ramp.started.isoformat(),
                "control": experiment.control,
                "arms": {
                    arm: {"model": model, "weight": experiment.split[arm],
                          "on": arm not in state.off, "reason": state.off.get(arm, "")}
                    for arm, model in self._settings.models.items()
                },
                "seconds_since_read": round(known.age, 3),
            }
        )  # fmt: skip

    async def _switch(self, request: Request) -> Response:
        arm = request.path_params["arm"]
        try:
            on, reason = await _wanted(request)
            stored = await asyncio.to_thread(self._known.switch, arm, on=on, reason=reason)
        except UnknownNameError as error:
            return self._error(404, str(error))
        except UsageError as error:
            return self._error(400, str(error))
        except StoreError as error:
            return self._error(503, str(error))
        log("arm switched", arm=arm, on=on, reason=reason, stored=stored)
        if stored:
            return self._json({"arm": arm, "on": on, "stored": True})
        note = (
            "The store is away. The arm is off in this router, which tells the store as soon as it "
            "is back; switch it off in every other router too."
        )
        return self._json({"arm": arm, "on": on, "stored": False, "note": note}, 202)

    def _error(self, status: int, message: str) -> Response:
        headers = {"www-authenticate": "Bearer"} if status == 401 else None
        return self._json({"error": {"message": message}}, status, headers)


async def _wanted(request: Request) -> tuple[bool, str]:
    """Return whether an arm is to be on, and why.

    Raises:
        UsageError: The body is not of the form that the text shows.
    """
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > _LARGEST:
            raise UsageError(f"The request is larger than {_LARGEST} bytes.")
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        given = None
    form = 'Send {"on": false, "reason": "why"}.'
    if not isinstance(given, dict) or set(given) != {"on", "reason"}:
        raise UsageError(f"The request has another form than it should. {form}")
    on, reason = given["on"], given["reason"]
    if not isinstance(on, bool) or not isinstance(reason, str) or not reason.strip():
        raise UsageError(f"`on` is true or false, and `reason` a text. {form}")
    if acting(reason) is not None or len(reason) > _LONGEST_REASON:
        raise UsageError(
            f"The reason has a control character or more than {_LONGEST_REASON} characters. {form}"
        )
    return on, reason
