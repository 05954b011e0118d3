"""Replies in the form of OpenAI's API: JSON values of whole answers and of pieces. Pure."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

DONE = "data: [DONE]\n\n"
"""The end of a stream of events."""


@dataclass(frozen=True, slots=True)
class Replies:
    """What all replies to one request share.

    Attributes:
        model: Name of the model.
        is_chat: Whether the request is a chat.
        prompt_tokens: Number of tokens of all prompts.
        id: Id of the reply.
        created: Time of the reply, in seconds since 1970.
    """

    model: str
    is_chat: bool
    prompt_tokens: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[tuple[str, str]], tokens: int) -> dict[str, object]:
        """Return the reply of a request without a stream.

        Args:
            answers: Text and reason of the end, for each prompt.
            tokens: Number of tokens of all answers.
        """
        choices = [
            {"index": place, "finish_reason": reason, "logprobs": None, **self._said(text)}
            for place, (text, reason) in enumerate(answers)
        ]
        return self._head(stream=False) | {"choices": choices, "usage": self.usage(tokens)}

    def usage(self, tokens: int) -> dict[str, int]:
        """Return the numbers of tokens."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        }

    def piece(
        self, place: int, text: str, *, reason: str | None = None, first: bool = False
    ) -> str:
        """Return an event with a piece of the answer to the prompt at a place."""
        said: dict[str, object] = {"text": text}
        if self.is_chat:
            role = {"role": "assistant"} if first else {}
            said = {"delta": role | ({"content": text} if text or first else {})}
        choice = {"index": place, "finish_reason": reason, "logprobs": None, **said}
        return event(self._head(stream=True) | {"choices": [choice]})

    def last(self, tokens: int) -> str:
        """Return the event with the numbers of tokens."""
        return event(self._head(stream=True) | {"choices": [], "usage": self.usage(tokens)})

    def _said(self, text: str) -> dict[str, object]:
        if self.is_chat:
            return {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"text": text}

    def _head(self, *, stream: bool) -> dict[str, object]:
        kind = "text_completion"
        if self.is_chat:
            kind = "chat.completion.chunk" if stream else "chat.completion"
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}", "object": kind, "created": self.created,
            "model": self.model,
        }  # fmt: skip


def event(value: object) -> str:
    """Return a server-sent event; JSON holds no line break."""
    return f"data: {json.dumps(value)}\n\n"


def model_list(names: Sequence[str], created: int) -> dict[str, object]:
    """Return the models by their names; the first is the base of the others."""
    base = names[0]
    data = [
        {
            "id": name, "object": "model", "created": created, "owned_by": "plop-lora",
            "root": base, "parent": None if name == base else base,
        }
        for name in names
    ]  # fmt: skip
    return {"object": "list", "data": data}
