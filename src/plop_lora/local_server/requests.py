"""The bodies of requests: what is honoured, what changes nothing, and what is refused by name.

A parameter that would change the answer and is not honoured is refused, unless it has the value
that changes nothing: many clients send every parameter. No torch, and nothing of the web.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plop_lora.errors import nearest
from plop_lora.escapes import escaped
from plop_lora.local_server.refusals import RefusedError

COMPLETION_TOKENS = 16
"""Most tokens of a completion that names no number, as in OpenAI's API."""
CHAT_TOKENS = 1024
"""Most tokens of an answer in a chat that names no number; less where the context ends before."""
MOST_PROMPTS = 64
_SHOWN = 200
_IGNORED = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
})  # fmt: skip
"""Parameters that concern the service and not the answer."""
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "logprobs": (False,),
    "top_logprobs": (0,), "logit_bias": ({},), "frequency_penalty": (0,), "presence_penalty": (0,),
    "repetition_penalty": (1,), "top_k": (0, -1), "min_p": (0,), "tools": ([],),
    "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False), "functions": ([],),
    "function_call": ("none", "auto"), "response_format": ({"type": "text"},),
    "modalities": (["text"],), "audio": (), "prediction": (), "reasoning_effort": (),
    "web_search_options": (),
}  # fmt: skip
"""Parameter that is not honoured → its values that change nothing."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["text"]
    text: str


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """Return the message as a chat template takes it."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": content, **named}


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    include_usage: bool = False
    include_obfuscation: bool = False


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: str | Annotated[list[str], Field(max_length=4)] = Field(default_factory=list)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()


class _ChatBody(_Body):
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None


class _CompletionBody(_Body):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How an answer is drawn; a temperature of 0 takes the likeliest token.

    Attributes:
        temperature: Divisor of the logits.
        top_p: Least probability of the set of likeliest tokens that are drawn from.
        seed: Seed of the draws; None draws anew each time.
        stops: Texts that end the answer and are not part of it.
    """

    temperature: float
    top_p: float
    seed: int | None
    stops: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a request asks for.

    Attributes:
        model: Name of the model.
        prompts: Texts to continue, or one chat as a list of messages.
        is_chat: Whether the prompt is a chat.
        most_tokens: Most tokens of an answer; None leaves it to the server.
        sampling: How the answer is drawn.
        stream: Whether the answer is sent piece by piece.
        usage: Whether a stream ends with the numbers of tokens.
    """

    model: str
    prompts: tuple[str | list[dict[str, str]], ...]
    is_chat: bool
    most_tokens: int | None
    sampling: Sampling
    stream: bool
    usage: bool


def read_request(body: bytes, *, is_chat: bool) -> Wanted:
    """Read the body of a request.

    Args:
        body: The body, as it was sent.
        is_chat: Whether it asks for an answer in a chat, and not for a completion of a text.

    Raises:
        RefusedError: The body is no JSON object, or a parameter is unknown, wrong or not honoured.
    """
    given = _honoured(_object(body))
    kind = _ChatBody if is_chat else _CompletionBody
    try:
        found = kind.model_validate(given)
    except ValidationError as error:
        raise _refusal(error, list(kind.model_fields)) from None
    stops = [found.stop] if isinstance(found.stop, str) else found.stop
    if isinstance(found, _ChatBody):
        prompts: tuple[Any, ...] = ([message.plain() for message in found.messages],)
        most = found.max_completion_tokens or found.max_tokens
    else:
        assert isinstance(found, _CompletionBody), "there are two kinds"
        prompts = (found.prompt,) if isinstance(found.prompt, str) else tuple(found.prompt)
        most = found.max_tokens or COMPLETION_TOKENS
    return Wanted(
        model=found.model,
        prompts=prompts,
        is_chat=is_chat,
        most_tokens=most,
        sampling=Sampling(
            temperature=found.temperature,
            top_p=found.top_p,
            seed=found.seed,
            stops=tuple(filter(None, stops)),
        ),
        stream=found.stream,
        usage=found.stream_options.include_usage,
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "half of a surrogate pair" if isinstance(error, UnicodeEncodeError) else error
        raise RefusedError(400, f"The body is not JSON in UTF-8: {reason}.") from None
    if not isinstance(found, dict):
        raise RefusedError(400, "The body is not a JSON object with named parameters.")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _honoured(given: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that are honoured, without those that change nothing.

    Raises:
        RefusedError: A parameter that is not honoured would change the answer.
    """
    for name, neutral in _UNSUPPORTED.items():
        value = given.get(name)
        if value is None or any(_same(value, one) for one in neutral):
            continue
        allowed = " or ".join(map(json.dumps, neutral))
        advice = f"Leave it out, or give {allowed}." if neutral else "Leave it out."
        raise RefusedError(
            400,
            f"This server does not honour {name!r}, which would change the answer. {advice}",
            name,
            "unsupported_parameter",
        )
    left_out = _UNSUPPORTED.keys() | _IGNORED
    return {
        name: value for name, value in given.items() if name not in left_out and value is not None
    }


def _same(one: object, other: object) -> bool:
    """Whether two JSON values are the same; 0 and false are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _refusal(error: ValidationError, known: list[str]) -> RefusedError:
    """Return the refusal of one fault: of a value of several kinds, of the kind that it is."""
    faults = error.errors(include_url=False, include_input=False)
    found = max(faults, key=lambda one: (not one["type"].endswith("_type"), len(one["loc"])))
    places = (str(part) for part in found["loc"])
    name = escaped(".".join(part for part in places if not _KIND.fullmatch(part))[:_SHOWN])
    if found["type"] == "extra_forbidden":
        return RefusedError(
            400, f"There is no parameter {name!r}.{nearest(name, known)}", name, "unknown_parameter"
        )
    if found["type"] == "missing":
        return RefusedError(400, f"The parameter {name!r} is missing.", name, "missing_parameter")
    return RefusedError(
        400, f"The parameter {name!r} is wrong: {found['msg']}.", name, "invalid_value"
    )


_KIND = re.compile(r"(constrained-)?str|(constrained-)?list(\[.*\])?")
"""Words with which pydantic says in a path which kind of value it tried."""
