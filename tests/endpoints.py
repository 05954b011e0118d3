"""A pretended OpenAI-compatible endpoint in a thread, for tests of judges."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SOON = {"retry-after-ms": "1"}
"""Header with which the client waits a millisecond before its next try."""
MODELS = {"object": "list", "data": [{"id": "guard", "object": "model"}]}


@dataclass(frozen=True)
class Answer:
    """What the endpoint sends; a body that is no text is sent as JSON."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def reply(text: str | None) -> Answer:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return Answer({"id": "1", "object": "chat.completion", "created": 0, "model": "guard",
                   "choices": [choice]})  # fmt: skip


def failed(status: int, message: str = "try later", code: str | None = None) -> Answer:
    return Answer({"error": {"message": message, "code": code}}, status, SOON)


@dataclass
class Endpoint:
    """What a test sets and reads: `answer` gets the body of a request and its number, from 1."""

    url: str = ""
    answer: Callable[[dict[str, Any], int], Answer] = lambda body, number: reply("safe")
    models: Answer = field(default_factory=lambda: Answer(MODELS))
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextlib.contextmanager
def endpoint() -> Iterator[Endpoint]:
    """Yield a running endpoint."""
    known = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.keys.append(self.headers["authorization"])
            self._send(known.models)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with known.lock:
                known.asked.append(body)
                number = len(known.asked)
            self._send(known.answer(body, number))

        def _send(self, answer: Answer) -> None:
            raw = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
            headers = {"content-type": "application/json", **answer.headers}
            with contextlib.suppress(ConnectionError):
                self.send_response(answer.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(raw.encode())))
                self.end_headers()
                self.wfile.write(raw.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with answered_by(Handler) as url:
        known.url = f"{url}/v1"
        yield known


@contextlib.contextmanager
def answered_by(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Yield the address of a server in a thread of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def streamed(text: str, *, reason: str | None = "stop", usage: bool = True) -> Answer:
    """Return an answer as server-sent events, a word each; without a reason it is cut off."""
    events: list[Any] = [{"choices": [_choice(word)]} for word in re.findall(r"\S+\s*", text)]
    if reason is not None:
        events.append({"choices": [_choice("", reason)]})
    count = len(text.split())
    if usage:
        used = {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}
        events.append({"choices": [], "usage": used})
    lines = [f"data: {json.dumps(_CHUNK | event)}\n\n" for event in events]
    return Answer("".join([*lines, "data: [DONE]\n\n"]), 200, {"content-type": "text/event-stream"})


_CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}


def _choice(text: str, reason: str | None = None) -> dict[str, Any]:
    """Return a choice that is read as one of a chat and as one of a completion."""
    return {"index": 0, "finish_reason": reason, "delta": {"content": text}, "text": text}
