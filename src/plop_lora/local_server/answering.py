"""Generate one answer token by token, and tell its text as it grows. Imports torch.

Shape letters: B batch, T token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria

from plop_lora.evaluation.chats import Ends, before_ends
from plop_lora.evaluation.generation import (
    end_tokens,
    generating_as,
    judging,
    own_model,
    pad_token,
)
from plop_lora.evaluation.judged import Prepared
from plop_lora.local_server.requests import Sampling

STOP, LENGTH = "stop", "length"
"""Reasons for which an answer ends, by the names of OpenAI's API."""


class Answer(NamedTuple):
    """A whole answer.

    Attributes:
        text: The answer without special tokens and without what ends it.
        tokens: Number of generated tokens, with the one that ends it.
        reason: Why it ends: `stop` at its end or at a text that was given, `length` if it was cut.
    """

    text: str
    tokens: int
    reason: str


def answer(
    prepared: Prepared,
    prompt_T: Sequence[int],
    sampling: Sampling,
    *,
    most_tokens: int,
    ends: Ends,
    told: Callable[[str], None],
    cancelled: threading.Event,
) -> Answer:
    """Continue a prompt.

    Args:
        prepared: Model, with the adapter at work that is to answer, and its tokenizer.
        prompt_T: Tokens of the prompt.
        sampling: How tokens are drawn.
        most_tokens: Most tokens of the answer.
        ends: What ends an answer beside the end-of-sequence token.
        told: Function that is called with each further piece of the text.
        cancelled: Event that ends the generation after the next token.
    """
    last = {*end_tokens(prepared), *ends.tokens}
    stops = (*sampling.stops, *ends.texts)
    growing = _Growing(prepared.tokenizer, last, stops, told, cancelled)
    ids_BT = torch.tensor([list(prompt_T)], device=own_model(prepared).device)
    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    else:
        torch.seed()
    with judging(prepared.model), generating_as(prepared, _config(prepared, sampling, last)):
        prepared.model.generate(
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=most_tokens,
            stopping_criteria=[growing],
        )
    return growing.whole()


def _config(prepared: Prepared, sampling: Sampling, last: Set[int]) -> GenerationConfig:
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        drawn = {
            "do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p,
            "top_k": 0,
        }  # fmt: skip
    return GenerationConfig(
        **drawn,
        use_cache=True,
        pad_token_id=pad_token(prepared.tokenizer),
        bos_token_id=prepared.tokenizer.bos_token_id,
        eos_token_id=sorted(last) or None,
    )


class _Growing(StoppingCriteria):  # type: ignore[misc]
    """Looks at each token as it comes, tells what is certain of the text, and says when to stop."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        last: Set[int],
        stops: Sequence[str],
        told: Callable[[str], None],
        cancelled: threading.Event,
    ) -> None:
        """Begin with an empty answer."""
        self.tokenizer, self.last, self.stops = tokenizer, last, stops
        self.told, self.cancelled = told, cancelled
        self.tokens_T: list[int] = []
        self.text, self.sent, self.ended = "", "", False

    def __call__(self, input_ids: Any, scores: Any, **_: object) -> torch.Tensor:
        """Take the token that was just generated; return whether the answer ends with it."""
        self.tokens_T.append(int(input_ids[0, -1]))
        stop = self.tokens_T[-1] in self.last
        shown = self.tokens_T[:-1] if stop else self.tokens_T
        text = self.tokenizer.decode(shown, skip_special_tokens=True)
        self.text = before_ends(text, self.stops)
        self.ended = stop or len(self.text) < len(text)
        if not self.ended:
            self._tell(self.text[: _certain(self.text, self.stops)])
        done = self.ended or self.cancelled.is_set()
        return torch.full((len(input_ids),), done, device=input_ids.device)

    def whole(self) -> Answer:
        """Tell the rest of the text and return the answer."""
        self._tell(self.text)
        return Answer(self.text, len(self.tokens_T), STOP if self.ended else LENGTH)

    def _tell(self, text: str) -> None:
        """Tell what is new, if what was told before is still the beginning."""
        if len(text) > len(self.sent) and text.startswith(self.sent):
            self.told(text[len(self.sent) :])
            self.sent = text


def _certain(text: str, stops: Sequence[str]) -> int:
    r"""Return the length of a text without its end that further tokens may change or cut.

    >>> _certain("5. Us", ["User:"]), _certain("caf\ufffd", []), _certain("plain", ["x"])
    (3, 3, 5)
    """
    kept = len(text.rstrip("\ufffd"))  # a character whose bytes have not all come
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:size]):
                kept = min(kept, len(text) - size)
                break
    return kept
