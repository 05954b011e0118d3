"""The requests of clients: what is refused, which arm answers, and what is kept.

Imports the standard library and the parts of the router.
"""

from __future__ import annotations

from plop_lora.ab.router.answers import Answered, AnswerWatch, Outcome
from plop_lora.ab.router.asgi import (
    ABORT,
    GONE,
    Receive,
    Refusal,
    Scope,
    Send,
    read_request,
    refuse,
    send_json,
)
from plop_lora.ab.router.bodies import RequestBody, read_body
from plop_lora.ab.router.choices import UNREADABLE, Choice, choose
from plop_lora.ab.router.exchange import Exchange, Forwarded
from plop_lora.ab.router.headers import Pairs, bearer, is_token, named, to_upstream
from plop_lora.ab.router.known import Known
from plop_lora.ab.router.logs import log
from plop_lora.ab.router.metrics import Metrics
from plop_lora.ab.router.prompts import LONGEST, PromptFile
from plop_lora.ab.router.recording import Recorder
from plop_lora.ab.router.settings import MODELS, Settings
from plop_lora.ab.router.upstream import Upstream
from plop_lora.errors import DataError
from plop_lora.records import Experiment

_UNAUTHORIZED = Refusal(
    401, "A valid API key is needed.", "invalid_api_key", ((b"www-authenticate", b"Bearer"),)
)
_BUSY = Refusal(
    503, "Too many requests are being answered.", "overloaded", ((b"retry-after", b"1"),)
)
_LARGE_HEAD = Refusal(
    431, "The headers of the request are too many or too large.", "headers_too_large",
    ((b"connection", b"close"),),
)  # fmt: skip
_NOT_FOUND = Refusal(404, "There is nothing here.", "not_found")


class Traffic:
    """Answers the requests of clients."""

    def __init__(
        self,
        settings: Settings,
        experiment: Experiment,
        known: Known,
        recorder: Recorder,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._experiment = experiment
        self._known = known
        self._recorder = recorder
        self._metrics = metrics
        self._running = 0
        self._prompts = None if settings.prompts is None else PromptFile(settings.prompts)
        self._hidden = {settings.unit_header.encode()}
        if settings.secrets.traffic:
            self._hidden.add(b"authorization")
        self.upstream: Upstream | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with an error of the router's own where it is not taken."""
        refusal = self._refusal(scope)
        if refusal is not None:
            await self._refuse(send, refusal)
            return
        if scope["path"] == MODELS:
            await send_json(send, 200, _listing(self._settings.public))
            return
        self._running += 1
        self._metrics.in_flight.inc()
        try:
            await self._answer(scope, receive, send)
        finally:
            self._running -= 1
            self._metrics.in_flight.dec()

    def close(self) -> None:
        """Close the file of prompts."""
        if self._prompts is not None:
            self._prompts.close()

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Return why a request is not taken, before its body is read; None if it is."""
        settings, path = self._settings, scope["path"]
        headers = scope["headers"]
        if path != MODELS and path not in settings.paths:
            return _NOT_FOUND
        allowed = "GET" if path == MODELS else "POST"
        if scope["method"] != allowed:
            text = f"{path} takes {allowed} only."
            return Refusal(405, text, "method_not_allowed", ((b"allow", allowed.encode()),))
        if len(headers) > settings.limits.headers or _size(headers) > settings.limits.head:
            return _LARGE_HEAD
        token = settings.secrets.traffic
        if token and not is_token(bearer(headers), token):
            return _UNAUTHORIZED
        return _BUSY if self._running >= settings.limits.requests else None

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits, headers = self._settings.limits, scope["headers"]
        raw = await read_request(
            receive,
            limit=limits.body,
            seconds=limits.upload,
            announced=next(iter(named(headers, b"content-length")), None),
        )
        if isinstance(raw, Refusal):
            await self._refuse(send, raw)
            return
        body = _readable(raw, headers)
        if body is not None and (refusal := self._foreign_model(body)) is not None:
            await self._refuse(send, refusal)
            return
        choice = self._choose(body, scope)
        forwarded = Forwarded(
            path=scope["path"],
            query=scope["query_string"],
            body=raw if body is None else body.with_model(self._settings.models[choice.arm]),
            headers=to_upstream(headers, without=self._hidden, key=self._settings.secrets.upstream),
        )
        is_stuck = await self._exchange(choice, raw, forwarded, receive, send)
        if is_stuck and ABORT in scope:
            scope[ABORT]()

    def _choose(self, body: RequestBody | None, scope: Scope) -> Choice:
        """Return the arm of a request. One that cannot be read goes on as it is."""
        control = self._experiment.control
        if body is None:
            return Choice(control, reason=UNREADABLE)
        unit = _unit(scope["headers"], self._settings.unit_header.encode(), body)
        choice = choose(self._experiment, self._known, unit, self._recorder.failed)
        return self._recorder.expose(choice, control)

    async def _exchange(
        self, choice: Choice, raw: bytes, forwarded: Forwarded, receive: Receive, send: Send
    ) -> bool:
        """Pass a request on and its answer back; return whether the client stopped reading."""

        def end(answered: Answered, watch: AnswerWatch | None) -> None:
            self._recorder.end(choice, answered)
            if choice.unit and watch is not None and answered.outcome is Outcome.OK:
                self._keep_prompt(choice, raw, watch.beginning)
            if self._settings.access_log:
                log(
                    "request", path=forwarded.path, arm=choice.arm, outcome=answered.outcome,
                    seconds=round(answered.last, 4),
                )  # fmt: skip

        assert self.upstream is not None
        keep = 0 if self._prompts is None else LONGEST + 1
        exchange = Exchange(self.upstream, self._settings.limits, send, end, keep=keep)
        await exchange.run(forwarded, receive)
        return exchange.is_stuck

    def _keep_prompt(self, choice: Choice, request: bytes, answer: bytes) -> None:
        if self._prompts is None:
            return
        try:
            self._prompts.append(unit=choice.unit, arm=choice.arm, request=request, answer=answer)
        except OSError as error:
            self._recorder.failed("prompts", error)

    def _foreign_model(self, body: RequestBody) -> Refusal | None:
        """Return a refusal where a client names a model that is not the public one.

        A client that could name the model of an arm would pick its arm.
        """
        public = self._settings.public
        if all(model is None or model in public for model in body.models):
            return None
        return Refusal(
            404, f"There is no such model here; ask for {' or '.join(public)}.", "model_not_found"
        )

    async def _refuse(self, send: Send, refusal: Refusal) -> None:
        self._metrics.refused(refusal.code)
        if refusal is not GONE:
            await refuse(send, refusal)


def _readable(raw: bytes, headers: Pairs) -> RequestBody | None:
    """Return the body of a request, or None where it is no JSON that can be read here."""
    if any(value.strip().lower() != b"identity" for value in named(headers, b"content-encoding")):
        return None
    try:
        return read_body(raw)
    except DataError:
        return None


def _unit(headers: Pairs, name: bytes, body: RequestBody) -> str | None:
    """Return the id of the unit: that of the header, else the `user` of the body.

    A header that stands there twice names no unit, since a client may have added one of them.
    """
    values = {value.strip() for value in named(headers, name)}
    if not values:
        return body.user
    if len(values) > 1:
        return None
    return values.pop().decode(errors="surrogateescape")


def _size(headers: Pairs) -> int:
    return sum(len(name) + len(value) for name, value in headers)


def _listing(names: tuple[str, ...]) -> dict[str, object]:
    """Return the list of models that clients see: the public names, and no arm."""
    rows = [{"id": name, "object": "model", "created": 0, "owned_by": "plop"} for name in names]
    return {"object": "list", "data": rows}
