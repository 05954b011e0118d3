"""One request on its way to the upstream, and its answer on the way back, chunk by chunk.

An error before the first byte becomes an answer of the router. After it, the client sees a broken
stream, as it would from the upstream itself. A client that leaves ends the request at the upstream,
which would go on generating otherwise.

Imports the standard library; the client library when a request is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plop_lora.ab.router.answers import Answered, AnswerWatch, Outcome
from plop_lora.ab.router.asgi import Receive, Refusal, Send, refuse, until_gone
from plop_lora.ab.router.headers import to_client
from plop_lora.ab.router.settings import Limits
from plop_lora.ab.router.upstream import Upstream
from plop_lora.errors import require

_UNREACHABLE = Refusal(502, "The model server cannot be reached.", "upstream_unreachable")
_LATE = Refusal(504, "The model server did not answer in time.", "upstream_timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """A request as it goes to the upstream."""

    path: str
    query: bytes
    body: bytes
    headers: Sequence[tuple[str, str]]


class Exchange:
    """Sends one request and passes its answer on, with a copy of its first `keep` bytes.

    `on_end` is called once, with how the request ended. It is called before the client can see that
    the answer is complete, so what it keeps is kept of every answer that a client has received.
    """

    def __init__(
        self,
        upstream: Upstream,
        limits: Limits,
        send: Send,
        on_end: Callable[[Answered, AnswerWatch | None], None],
        *,
        keep: int = 0,
    ) -> None:
        self._upstream = upstream
        self._limits = limits
        self._send = send
        self._on_end = on_end
        self._keep = keep
        self._began = time.perf_counter()
        self._first: float | None = None
        self._watch: AnswerWatch | None = None
        self._ended = False
        self._started = False
        self._complete = False
        self._sending = False

    @property
    def is_stuck(self) -> bool:
        """Whether it was given up because the client did not read what was sent to it."""
        return self._sending

    async def run(self, request: Forwarded, receive: Receive) -> None:
        """Answer the request, until its end or until the client has left."""
        relay = asyncio.ensure_future(self._relay(request))
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait((relay, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not relay.done():
                relay.cancel()
                await asyncio.wait((relay,))
                self._end(Outcome.CLIENT_GONE)
        if not relay.cancelled():
            relay.result()

    async def _relay(self, request: Forwarded) -> None:
        client = require("aiohttp")
        try:
            async with asyncio.timeout(None) as deadline:
                await self._pass_on(request, deadline)
        except TimeoutError:
            if self._sending:
                self._end(Outcome.CLIENT_GONE)
            else:
                await self._fail(Outcome.TIMEOUT, _LATE)
        except (client.ClientError, OSError):
            await self._fail(Outcome.CUT if self._started else Outcome.UNREACHABLE, _UNREACHABLE)

    async def _pass_on(self, request: Forwarded, deadline: asyncio.Timeout) -> None:
        """Send the request, and pass on the answer as it comes."""
        limits, now = self._limits, asyncio.get_running_loop().time
        end = now() + limits.total
        deadline.reschedule(min(end, now() + limits.first_byte))
        async with await self._upstream.post(
            request.path, request.query, request.body, request.headers
        ) as answer:
            await self._start(answer)
            outcome = Outcome.OK if answer.status < 400 else Outcome.UPSTREAM_ERROR
            async for chunk in answer.content.iter_any():
                deadline.reschedule(min(end, now() + limits.idle))
                await self._chunk(chunk, outcome)
                deadline.reschedule(min(end, now() + limits.idle))
            self._end(outcome)
        if not self._complete:
            await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, answer: Any) -> None:
        self._watch = AnswerWatch(
            answer.headers.get("content-type", ""), answer.content_length, keep=self._keep
        )
        headers = to_client(answer.raw_headers)
        self._started = True
        await self._send(
            {"type": "http.response.start", "status": answer.status, "headers": headers}
        )

    async def _chunk(self, chunk: bytes, outcome: Outcome) -> None:
        assert self._watch is not None
        if self._first is None:
            self._first = time.perf_counter() - self._began
        if self._watch.add(chunk):
            self._end(outcome)
        self._complete = self._watch.is_complete
        self._sending = True
        await self._send(
            {"type": "http.response.body", "body": chunk, "more_body": not self._complete}
        )
        self._sending = False

    async def _fail(self, outcome: Outcome, refusal: Refusal) -> None:
        """End a request that the upstream failed; a stream that has begun is left incomplete."""
        self._end(outcome)
        if not self._started:
            await refuse(self._send, refusal)

    def _end(self, outcome: Outcome) -> None:
        if self._ended:
            return
        self._ended = True
        watch = self._watch
        streamed = watch is not None and watch.is_stream
        tokens = (None, None) if watch is None or outcome is not Outcome.OK else watch.tokens()
        answered = Answered(
            outcome=outcome,
            first=self._first if streamed else None,
            last=time.perf_counter() - self._began,
            tokens_in=tokens[0],
            tokens_out=tokens[1],
        )
        self._on_end(answered, watch)
