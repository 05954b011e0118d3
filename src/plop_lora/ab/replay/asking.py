"""Ask an OpenAI-compatible endpoint, and measure the answer as it streams. No torch.

Requests, time-outs and retries are those of the client `openai`, which honours `Retry-After`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plop_lora.ab.replay.outcomes import Outcome, Outcomes
from plop_lora.ab.replay.prompts import ReplayPrompt
from plop_lora.ab.replay.settings import ReplaySettings
from plop_lora.errors import MachineError, UsageError, require
from plop_lora.evaluation.judges import NO_KEY, key_of, told_by_server

_LENGTH = "length"
_REFUSED = (401, 403, 404)
"""Statuses that say of the whole replay that it cannot work."""
WARM_UP = "Hello."
CUT_OFF, NO_STREAM = "cut off", "no stream of the API"


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks the arms of a replay.

    Attributes:
        settings: Settings of the replay.
        client: The client `openai`.
    """

    settings: ReplaySettings
    client: Any

    @classmethod
    def of(cls, settings: ReplaySettings) -> Asker:
        """Return what asks the endpoint of a replay.

        Raises:
            MissingExtraError: The client `openai` is not installed.
            UsageError: The key holds characters that no key has.
        """
        client = require("openai").OpenAI(
            base_url=settings.url,
            api_key=key_of(settings.key_variable) or NO_KEY,
            timeout=settings.timeout,
            max_retries=settings.retries,
        )
        return cls(settings, client)

    def warm_up(self, is_chat: bool) -> tuple[str, ...]:
        """Ask every arm one short thing, so that its adapter is loaded before anything is measured.

        Returns:
            Sentences about arms that did not answer.

        Raises:
            MachineError: No arm answers.
            UsageError: The endpoint refuses the key, or does not know the model of an arm.
        """
        asked: Any = [{"role": "user", "content": WARM_UP}] if is_chat else WARM_UP
        found = {arm: self._ask(asked, arm, most_tokens=1) for arm in self.settings.models}
        failed = {arm: one for arm, one in found.items() if one.failed}
        if len(failed) == len(found):
            first = next(iter(failed.values()))
            raise MachineError(
                f"No arm answers at {self.settings.url}: {first.failed}. {first.detail} Check the "
                "address, which usually ends in /v1."
            )
        return tuple(
            f"the arm {arm} did not answer the first request: {one.failed}"
            for arm, one in failed.items()
        )

    def ask_all(self, prompt: ReplayPrompt, turn: int) -> Outcomes:
        """Ask all arms one prompt, one after another.

        Args:
            prompt: The prompt.
            turn: Which arm is the first; over the prompts each is as often as any other.

        Raises:
            MachineError: The endpoint cannot be reached, or takes no more requests.
            UsageError: It refuses the key, or does not know the model of an arm.
        """
        arms = list(self.settings.models)
        start = turn % len(arms)
        return {
            arm: self._ask(prompt.asked, arm, most_tokens=self.settings.max_tokens)
            for arm in (*arms[start:], *arms[:start])
        }

    def _ask(
        self, asked: str | Sequence[Mapping[str, Any]], arm: str, *, most_tokens: int
    ) -> Outcome:
        openai = require("openai")
        settings = self.settings
        given: dict[str, Any] = {
            "model": settings.models[arm], "max_tokens": most_tokens,
            "temperature": settings.temperature, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        if settings.seed is not None:
            given["seed"] = settings.seed
        began = time.monotonic()
        try:
            if isinstance(asked, str):
                reply = self.client.completions.with_raw_response.create(prompt=asked, **given)
            else:
                create = self.client.chat.completions.with_raw_response.create
                reply = create(messages=list(asked), **given)
        except openai.APIError as error:
            failure = self._failure(error, openai, arm)
        else:
            return self._read(reply, began, is_chat=not isinstance(asked, str))
        # The library's error holds the request with its key, so it is let go before ours is raised.
        if isinstance(failure, Outcome):
            return failure
        raise failure

    def _read(self, reply: Any, began: float, *, is_chat: bool) -> Outcome:
        """Read a stream to its end."""
        pieces: list[str] = []
        first, tokens, reason = None, None, None
        try:
            for text, ended, used in _parts(reply.parse(), is_chat=is_chat):
                if text and first is None:
                    first = time.monotonic() - began
                pieces.append(text)
                reason, tokens = ended or reason, used if used is not None else tokens
        except Exception as error:  # the transport's own classes, and whatever garbled parts raise
            return Outcome(failed=CUT_OFF, detail=self._told(f"{type(error).__name__}: {error}"))
        last = time.monotonic() - began
        if reason is None:
            failed = CUT_OFF if pieces else NO_STREAM
            return Outcome(failed=failed, detail="no event says that the answer has ended")
        if reply.retries_taken:  # the waits between the tries are no latency of the arm
            first = last = None  # type: ignore[assignment]
        return Outcome(
            text="".join(pieces), tokens=tokens, cut_off=reason == _LENGTH, first=first, last=last
        )

    # ----------------------------------------------------------------------- what goes wrong

    def _failure(self, error: Any, openai: Any, arm: str) -> Outcome | MachineError | UsageError:
        """Return the outcome at this arm, or the error with which the replay ends."""
        url, tries = self.settings.url, self.settings.retries + 1
        if isinstance(error, openai.APITimeoutError):
            return Outcome(failed="timed out", detail=f"{self.settings.timeout:g} s, {tries} tries")
        if isinstance(error, openai.APIConnectionError):
            reason = self._told(str(error.__cause__ or error))
            return MachineError(f"The endpoint {url} cannot be reached: {reason}.")
        status = getattr(error, "status_code", None)
        told = self._told(_message(error))
        if status is None:
            return Outcome(failed="not the API", detail=told)
        if status == 429:
            return MachineError(
                f"The endpoint {url} takes no more requests (status 429, {tries} tries): {told}. "
                "Ask fewer prompts at a time with --concurrency."
            )
        if status in _REFUSED:
            model = self.settings.models[arm]
            return UsageError(
                f"The endpoint {url} refuses the model {model!r} of the arm {arm!r} with status "
                f"{status}: {told}. Check --upstream, --model ARM=NAME, and the key in "
                f"{self.settings.key_variable}."
            )
        return Outcome(failed=f"status {status}", detail=told)

    def _told(self, text: str) -> str:
        return told_by_server(text, self.settings.key_variable)


def _parts(stream: Any, *, is_chat: bool) -> Iterator[tuple[str, str | None, int | None]]:
    """Yield of each event its text, why the answer ends, and the number of tokens."""
    for chunk in stream:
        usage = getattr(chunk, "usage", None)
        used = None if usage is None else int(usage.completion_tokens)
        for choice in chunk.choices or ():
            text = choice.delta.content if is_chat else choice.text
            yield text or "", choice.finish_reason, used
        if not chunk.choices:
            yield "", None, used


def _message(error: Any) -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(error)
