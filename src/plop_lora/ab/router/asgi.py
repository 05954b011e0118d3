"""The ASGI messages that the router reads and sends: a whole request body, a short JSON answer.

Errors have the form of OpenAI's, so that every client shows their text. Imports the standard
library only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

CLOSE = (b"connection", b"close")
ABORT = "plop.abort"
"""Key of the scope with a function that drops the connection. An orderly close would wait for a
client to read what was sent to it, and one that reads nothing would hold its place for ever."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of the router itself: its status, what is wrong, and a word for programs."""

    status: int
    message: str
    code: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


GONE = Refusal(499, "The client has left.", "client_gone")
TOO_SLOW = Refusal(408, "The request did not arrive in time.", "request_timeout", (CLOSE,))


async def read_request(
    receive: Receive, *, limit: int, seconds: float, announced: bytes | None
) -> bytes | Refusal:
    """Return the whole body of a request, or why it is not taken.

    Args:
        receive: Source of the messages.
        limit: Largest number of bytes.
        seconds: Time in which all of it must arrive.
        announced: Value of the header `content-length`, or None. A body that is announced as too
            large is refused before it is read.
    """
    too_large = Refusal(
        413, f"The request is larger than {limit} bytes.", "request_too_large", (CLOSE,)
    )
    if announced is not None and int(announced) > limit:
        return too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return GONE
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    return too_large
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        return TOO_SLOW


async def until_gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_json(send: Send, status: int, content: Any, headers: Headers = ()) -> None:
    """Send a JSON document as the whole answer."""
    body = json.dumps(content).encode()
    head = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, refusal: Refusal) -> None:
    """Send a refusal in the form of OpenAI's errors."""
    error = {"message": refusal.message, "type": "plop_router_error", "code": refusal.code}
    await send_json(send, refusal.status, {"error": error}, refusal.headers)
