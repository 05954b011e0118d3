"""A model behind an OpenAI-compatible endpoint as a judge. No torch.

Requests, time-outs and retries are those of the client `openai`, which waits twice as long before
each further try, or as long as the server asks for. Requests run in a few threads.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from plop_lora.errors import MachineError, PlopError, UsageError, nearest, require
from plop_lora.escapes import acting, escaped
from plop_lora.evaluation.judges.credentials import NO_KEY, key_of, told_by_server
from plop_lora.evaluation.judges.judge import Item, Ratings
from plop_lora.evaluation.judges.replies import value_of
from plop_lora.evaluation.judges.threads import each_answered

MAX_TOKENS = 2048
"""Most tokens of a reply: enough for the thoughts of a reasoning model."""
_DIGITS = 16
_MODELS_SHOWN = 10
_FIELD = re.compile(r"\{(prompt|answer)\}")
_UNDECIDED = ("context_length_exceeded", "content_filter", "content_policy_violation")
"""Codes with which a server says that it will not read this one item."""
_TOO_LONG = re.compile(r"(context|maximum model) length", re.IGNORECASE)


def check_template(template: str) -> None:
    """Refuse a template without the prompt or without the answer.

    Raises:
        UsageError: A field is missing.
    """
    if {"prompt", "answer"} - set(_FIELD.findall(template)):
        raise UsageError("The template of a judge must hold both {prompt} and {answer}.")


def check_url(url: str, what: str = "the judge") -> None:
    """Refuse an address that is none, or that holds a secret.

    Args:
        url: Address of an endpoint.
        what: Whose address it is, for errors.

    Raises:
        UsageError: The address has no host, or holds a user, a password, a query or a fragment.
    """
    if acting(url) is not None or any(character.isspace() for character in url):
        raise UsageError(f"The address of {what} holds a space or a control character.")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if "@" in url:
        raise UsageError(
            f"The address of {what} holds a user name or a password, which would be seen in "
            "records. Leave them out, and put the key into an environment variable."
        )
    if not host:
        raise UsageError(
            f"{url!r} is no address of an endpoint. Write it as http://localhost:8000/v1."
        )
    if "?" in url or "#" in url:
        raise UsageError(
            f"The address of {what} holds a query, in which a secret would be seen in records. "
            "Give the address up to /v1."
        )


@dataclass(frozen=True, slots=True)
class EndpointJudge:
    """Sends each prompt and answer to a model; a `Rater`.

    Attributes:
        url: Address of the endpoint, such as http://localhost:8000/v1.
        model: Name of the model, as the endpoint lists it.
        key_variable: Environment variable that holds the key; a local server needs none.
        timeout: Seconds that each try may take.
        retries: Number of further tries after a failure that may pass.
        template: Text of one message in which {prompt} and {answer} are replaced. None sends the
            prompt as a message of the user and the answer as one of the assistant, as Llama Guard
            and other guard models expect.
        concurrency: Number of requests at the same time.
    """

    url: str
    model: str
    key_variable: str
    timeout: float
    retries: int
    template: str | None = None
    concurrency: int = 4

    @property
    def identity(self) -> str:
        """Address, model, template and the settings of the request, without the key."""
        form = "chat"
        if self.template is not None:
            form = f"template {hashlib.sha256(self.template.encode()).hexdigest()[:_DIGITS]}"
        model = escaped(self.model)
        return f"endpoint {self.url.rstrip('/')}, model {model}, {form}, {MAX_TOKENS} tokens"

    def check(self) -> None:
        """Ask the endpoint for its models.

        Raises:
            MissingExtraError: The client `openai` is not installed.
            UsageError: The key is refused, there is no such API, or no such model.
            MachineError: The endpoint cannot be reached, does not answer in time, or fails.
        """
        with self._client() as client:
            served = self._guarded(lambda: [str(one.id) for one in client.models.list().data])
        if self.model in served:
            return
        names = [self._told(name) for name in served]
        shown = ", ".join(names[:_MODELS_SHOWN]) or "none"
        more = ", …" if len(names) > _MODELS_SHOWN else ""
        raise UsageError(
            f"The endpoint {self.url} has no model {self.model!r}.{nearest(self.model, names)} "
            f"It has: {shown}{more}."
        )

    def rate(self, items: Sequence[Item]) -> Ratings:
        """Yield the value of each item as its reply comes.

        After the first failure no further request is sent; those under way are waited for, and
        what they give is yielded before the error is raised.

        Raises:
            UsageError: The endpoint refuses the key, the model or the request.
            MachineError: The endpoint failed after all retries.
        """
        with self._client() as client:
            yield from each_answered(items, lambda item: self._ask(client, item), self.concurrency)

    # ----------------------------------------------------------------------- one request

    def _client(self) -> Any:
        return require("openai").OpenAI(
            base_url=self.url,
            api_key=key_of(self.key_variable) or NO_KEY,
            timeout=self.timeout,
            max_retries=self.retries,
        )

    def _ask(self, client: Any, item: Item) -> float | None:
        def send() -> object:
            made = client.chat.completions.create(
                model=self.model,
                messages=self._messages(item),
                temperature=0.0,
                max_tokens=MAX_TOKENS,
            )
            return made.choices[0].message.content

        reply = self._guarded(send, item)
        return value_of(reply) if isinstance(reply, str) else None

    def _messages(self, item: Item) -> list[dict[str, str]]:
        given = {"prompt": item.prompt, "answer": item.answer}
        # A text of a JSON file may hold half of a surrogate pair, which has no UTF-8.
        texts = {key: text.encode("utf-8", "replace").decode() for key, text in given.items()}
        if self.template is None:
            return [
                {"role": "user", "content": texts["prompt"]},
                {"role": "assistant", "content": texts["answer"]},
            ]
        content = _FIELD.sub(lambda found: texts[found[1]], self.template)
        return [{"role": "user", "content": content}]

    # ----------------------------------------------------------------------- what goes wrong

    def _guarded(self, send: Callable[[], Any], item: Item | None = None) -> Any:
        """Return what a request gives; None where the server will not read this item.

        The library's error holds the request with its key, so it is let go before ours is raised.
        """
        openai = require("openai")
        try:
            return send()
        except openai.APIError as error:
            if item is not None and _is_undecided(error):
                return None
            failure = self._failure(error, openai, item)
        except (AttributeError, IndexError, TypeError, ValueError):
            failure = MachineError(
                f"The endpoint {self.url} answered{_where(item)} with something else than the JSON "
                "of an OpenAI-compatible API. Check the address; it usually ends in /v1."
            )
        raise failure

    def _failure(self, error: Any, openai: Any, item: Item | None) -> PlopError:
        name, where = f"The endpoint {self.url}", _where(item)
        tries = f"at most {self.retries + 1} tries" if self.retries else "one try"
        if isinstance(error, openai.APITimeoutError):
            return MachineError(
                f"{name} did not answer{where} within {self.timeout:g} s, in {tries}."
            )
        if isinstance(error, openai.APIConnectionError):
            reason = self._told(str(error.__cause__ or error))
            return MachineError(f"{name} cannot be reached, in {tries}: {reason}.")
        if not isinstance(error, openai.APIStatusError):
            return MachineError(f"{name} failed{where}: {self._told(str(error))}.")
        status, told = error.status_code, self._told(_message(error))
        if status == 429 or status >= 500 or status in (408, 409):
            return MachineError(f"{name} answered with status {status}{where}, in {tries}: {told}.")
        return UsageError(
            f"{name} refuses the request{where} with status {status}: {told}."
            f"{_HINTS.get(status, '').format(variable=self.key_variable, model=self.model)}"
        )

    def _told(self, text: str) -> str:
        """Return what a server said: without the key, short, and safe to print."""
        return told_by_server(text, self.key_variable)


_HINTS = {
    401: " Put a valid key into the environment variable {variable}.",
    403: " The key in the environment variable {variable} has no access.",
    404: " Check the address, which usually ends in /v1, and the model {model!r}.",
}


def _where(item: Item | None) -> str:
    return "" if item is None else f" on item {item.number}"


def _message(error: Any) -> str:
    """Return the text of an error, without the rest of the body where it has a message."""
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(error)


def _is_undecided(error: Any) -> bool:
    """Whether a server refuses this one item: as too long, or for what it says."""
    if getattr(error, "status_code", None) not in (400, 413, 422):
        return False
    known = error.status_code == 413 or error.code in _UNDECIDED
    return known or _TOO_LONG.search(_message(error)) is not None
