"""The routes of the server, as a Starlette application. Imports starlette and torch."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from plop_lora.local_server.answering import Answer, answer
from plop_lora.local_server.models import ServedModel, named
from plop_lora.local_server.queueing import Job, Line
from plop_lora.local_server.refusals import RefusedError
from plop_lora.local_server.replies import DONE, Replies, event, model_list
from plop_lora.local_server.requests import CHAT_TOKENS, Wanted, read_request
from plop_lora.models.memory import is_out_of_memory

LARGEST_BODY = 4 << 20
"""Most bytes of the body of a request."""
_JSON = "application/json"
Told = Callable[[str], None]


class Started(NamedTuple):
    """The first part of a job: the number of tokens of all prompts."""

    prompt_tokens: int


class Piece(NamedTuple):
    """A further piece of the answer to the prompt at a place."""

    place: int
    text: str


class Finished(NamedTuple):
    """The whole answer to the prompt at a place."""

    place: int
    answer: Answer


@dataclass(frozen=True, slots=True, eq=False)
class LocalServer:
    """What the routes share.

    Attributes:
        models: The models, the base first.
        line: Line in which requests wait.
        token: Token that a request must bring; None asks for none.
        hosts: Names under which the server may be asked for; None allows any. A page in a browser
            that has bound its own name to this machine is refused by it.
        told: Function that is called with a line for each request.
        started: Time of the start, in seconds since 1970.
    """

    models: Sequence[ServedModel]
    line: Line
    token: str | None
    hosts: frozenset[str] | None
    told: Told
    started: int

    def application(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._guarded(self._list)),
                Route("/v1/completions", self._guarded(self._complete), methods=["POST"]),
                Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _as_refusal},
        )

    async def _health(self, request: Request) -> Response:
        return Response()

    async def _list(self, request: Request) -> Response:
        return JSONResponse(model_list([model.name for model in self.models], self.started))

    async def _complete(self, request: Request) -> Response:
        return await self._answer(request, is_chat=False)

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, is_chat=True)

    def _guarded(
        self, route: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return a route that refuses strangers, and tells refusals in the form of the API."""

        async def guarded(request: Request) -> Response:
            try:
                self._admit(request)
                return await route(request)
            except RefusedError as refused:
                self.told(f"{request.url.path}: {refused.status}, {refused.message}")
                return JSONResponse(refused.body, refused.status, refused.headers)

        return guarded

    def _admit(self, request: Request) -> None:
        host = _host_of(request.headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            raise RefusedError(
                403, f"This server is asked for as {' or '.join(sorted(self.hosts))} only."
            )
        given = request.headers.get("authorization", "")
        if self.token is not None and not hmac.compare_digest(
            given.encode("latin-1", "replace"), f"Bearer {self.token}".encode()
        ):
            raise RefusedError(401, "The token is missing or wrong.", code="invalid_api_key")

    # ----------------------------------------------------------------------- one request

    async def _answer(self, request: Request, *, is_chat: bool) -> Response:
        began = time.monotonic()
        wanted = read_request(await _body_of(request), is_chat=is_chat)
        model = named(self.models, wanted.model)
        job = self.line.join(lambda job: _work(job, model, wanted))
        parts = _while_there(request, job)
        try:
            first = await anext(parts)
        except Exception as error:
            await parts.aclose()
            raise _refusal_of(error) from error
        replies = Replies(model.name, is_chat, first.prompt_tokens)
        if wanted.stream:
            events = self._events(parts, replies, wanted, began)
            return StreamingResponse(events, media_type="text/event-stream", headers=_NO_CACHE)
        try:
            finished = [part.answer async for part in parts if isinstance(part, Finished)]
        except Exception as error:
            raise _refusal_of(error) from error
        tokens = sum(one.tokens for one in finished)
        self._tell(replies, tokens, began)
        return JSONResponse(replies.whole([(one.text, one.reason) for one in finished], tokens))

    async def _events(
        self, parts: AsyncGenerator[Any, None], replies: Replies, wanted: Wanted, began: float
    ) -> AsyncIterator[str]:
        """Yield the events of a stream; a failure is the last of them."""
        tokens = 0
        try:
            if replies.is_chat:
                yield replies.piece(0, "", first=True)
            async for part in parts:
                if isinstance(part, Piece):
                    yield replies.piece(part.place, part.text)
                else:
                    tokens += part.answer.tokens
                    yield replies.piece(part.place, "", reason=part.answer.reason)
        except Exception as error:
            refused = _refusal_of(error)
            self.told(f"{replies.model}: {refused.status}, {refused.message}")
            yield event(refused.body)
            return
        if wanted.usage:
            yield replies.last(tokens)
        yield DONE
        self._tell(replies, tokens, began)

    def _tell(self, replies: Replies, tokens: int, began: float) -> None:
        self.told(
            f"{replies.model}: {replies.prompt_tokens} tokens in, {tokens} out, "
            f"{time.monotonic() - began:.2f} s"
        )


_NO_CACHE = {"Cache-Control": "no-cache"}


def _work(job: Job, model: ServedModel, wanted: Wanted) -> None:
    """Answer the prompts of a request one after another, in the thread of the line."""
    prompts = [model.tokens_of(prompt, wanted.most_tokens) for prompt in wanted.prompts]
    job.put(Started(sum(map(len, prompts))))
    with model.at_work() as prepared:
        for place, prompt in enumerate(prompts):
            if job.cancelled.is_set():
                return
            most = wanted.most_tokens or min(CHAT_TOKENS, model.positions - len(prompt))
            found = answer(
                prepared,
                prompt,
                wanted.sampling,
                most_tokens=most,
                ends=model.ends_of(is_chat=wanted.is_chat),
                told=lambda text, place=place: job.put(Piece(place, text)),  # type: ignore[misc]
                cancelled=job.cancelled,
            )
            job.put(Finished(place, found))


async def _while_there(request: Request, job: Job) -> AsyncGenerator[Any, None]:
    """Yield the parts of a job, which is cancelled when the client leaves."""

    async def leaves() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.cancel()

    leaving = asyncio.create_task(leaves())
    try:
        async with contextlib.aclosing(job.parts()) as parts:
            async for part in parts:
                yield part
    finally:
        leaving.cancel()
        job.cancel()


async def _body_of(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        RefusedError: It is too large, or is said to be something else than JSON, as a page of
            another site in a browser can send it without asking.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _JSON:
        raise RefusedError(415, f"The body must be sent with the header Content-Type: {_JSON}.")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise RefusedError(413, f"The body is larger than {LARGEST_BODY >> 20} MiB.")
        chunks.append(chunk)
    return b"".join(chunks)


def _host_of(header: str) -> str:
    """Return the name in a Host header without its port.

    >>> _host_of("localhost:8000"), _host_of("[::1]:8000"), _host_of("127.0.0.1")
    ('localhost', '[::1]', '127.0.0.1')
    """
    return header[: header.index("]") + 1] if "]" in header else header.partition(":")[0]


def _refusal_of(error: Exception) -> RefusedError:
    if isinstance(error, RefusedError):
        return error
    if is_out_of_memory(error):
        return RefusedError(500, "The machine has not enough memory for this request.")
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return RefusedError(500, f"The model failed: {type(error).__name__}: {first[:200]}")


async def _as_refusal(request: Request, error: Exception) -> Response:
    """Tell an unknown path or method in the form of the API."""
    assert isinstance(error, HTTPException), "the handler is registered for it"
    message = f"{error.detail}. Served are /v1/models, /v1/completions, /v1/chat/completions."
    refused = RefusedError(error.status_code, message)
    return JSONResponse(refused.body, refused.status, error.headers)
