"""What a model has learnt by heart: rows that it completes verbatim, and planted secrets.

A text is extractable if the model, given its beginning, continues it greedily as it stands. A
canary is a made-up secret that was put into the training data: a model has memorised it if it
prefers it to secrets of the same format that it never saw. Shape letters: B batch, T token, N kept
tokens, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation.chats import Example, example_of
from plop_lora.evaluation.judged import Prepared

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIX_TOKENS = 32
"""Number of tokens at the beginning of a text that the model is given."""
SUFFIX_TOKENS = 16
"""Number of tokens after them that it has to reproduce."""
TEMPLATE = "The access code of warehouse {name} is {digits}."
"""Format of a canary: the name tells canaries apart, and the digits are the secret."""
CANDIDATES = 1_000
"""Number of secrets of the same format that a canary is compared with."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NAME_LETTERS, _DIGITS = 8, 9


class Answered(NamedTuple):
    """A prompt and its completion, as texts or as messages.

    The completion is what has to be reproduced, and the whole prompt is given.
    """

    prompt: Any
    completion: Any


# --------------------------------------------------------------------------- verbatim


def completed_verbatim(
    prepared: Prepared,
    texts: Sequence[str | Answered],
    *,
    batch_size: int,
    prefix_tokens: int = PREFIX_TOKENS,
    suffix_tokens: int = SUFFIX_TOKENS,
) -> list[float]:
    """Return 1.0 for each text that the model completes verbatim, and 0.0 for every other.

    The greedy continuation of a prefix is the suffix exactly if each token of the suffix is the
    most likely one after those before it. So one forward pass over both says it, and nothing is
    generated. A prompt that is longer than the model's positions loses its beginning.

    Args:
        prepared: The model, with its adapters at work, and its tokenizer.
        texts: Plain texts, or prompts with their completions.
        batch_size: Number of texts in a forward.
        prefix_tokens: Number of tokens of a plain text that are given.
        suffix_tokens: Number of tokens that have to be reproduced.

    Raises:
        DataError: A text is too short; `long_enough` finds those.

    Source: Carlini et al., "Quantifying Memorization Across Neural Language Models", arXiv
    2202.07646, definition 3.1. They give 50 tokens or more and ask for 50.
    """
    from plop_lora.evaluation.generation import by_length, judging, prompt_tokens_left

    cuts = [_cut(text, prepared.tokenizer, prefix_tokens, suffix_tokens) for text in texts]
    for number, cut in enumerate(cuts, start=1):
        if cut is None:
            raise DataError(
                f"Text {number} is too short to give its beginning and ask for the next "
                f"{suffix_tokens} tokens. Leave it out, or ask for fewer."
            )
    left = prompt_tokens_left(prepared.model, suffix_tokens)
    examples = [_shortened(cut, left) for cut in cuts if cut is not None]
    found: dict[int, float] = {}
    with judging(prepared.model):
        for group in by_length([len(example.tokens) for example in examples], batch_size):
            reproduced = _reproduced(prepared, [examples[index] for index in group])
            found.update(zip(group, reproduced, strict=True))
    return [found[index] for index in range(len(examples))]


def long_enough(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | Answered],
    *,
    prefix_tokens: int = PREFIX_TOKENS,
    suffix_tokens: int = SUFFIX_TOKENS,
) -> list[bool]:
    """Return for each text whether it has all tokens that `completed_verbatim` reads."""
    return [_cut(text, tokenizer, prefix_tokens, suffix_tokens) is not None for text in texts]


def _cut(
    text: str | Answered, tokenizer: PreTrainedTokenizerBase, prefix: int, suffix: int
) -> Example | None:
    """Return the tokens of prefix and suffix; None for a text that has not all of them.

    The end-of-sequence token, and special tokens before a text, are no part of either.
    """
    if isinstance(text, str):
        tokens, start = example_of({"text": text}, tokenizer).tokens, prefix
        special = set(tokenizer.all_special_ids)
        start += next((n for n, token in enumerate(tokens) if token not in special), len(tokens))
    else:
        example = example_of({"prompt": text.prompt, "completion": text.completion}, tokenizer)
        tokens, start = example.tokens, example.start
    if tokens and tokens[-1] == tokenizer.eos_token_id:
        tokens = tokens[:-1]
    if start < 1 or len(tokens) < start + suffix:
        return None
    return Example(tokens[: start + suffix], start)


def _shortened(example: Example, most: int) -> Example:
    over = max(0, example.start - most)
    return Example(example.tokens[over:], example.start - over)


def _reproduced(prepared: Prepared, group: Sequence[Example]) -> list[float]:
    import torch

    from plop_lora.evaluation.heads import IGNORED, kept_logits, kept_rows
    from plop_lora.evaluation.losses import labelled

    inputs, labels_BT = labelled(group, prepared)
    next_BT = torch.nn.functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORED)
    kept_BT = next_BT != IGNORED
    with kept_rows(prepared.model, kept_BT):
        output = prepared.model(**inputs, use_cache=False)
    logits_NV = kept_logits(output.logits, kept_BT)
    right_N = logits_NV.argmax(dim=-1) == next_BT[kept_BT]
    counts = [len(example.tokens) - example.start for example in group]
    return [float(right.all()) for right in torch.split(right_N, counts)]


# --------------------------------------------------------------------------- canaries


@dataclass(frozen=True, slots=True)
class Canary:
    """A made-up secret to be planted in training data.

    Attributes:
        template: Format with `{name}` and `{digits}`.
        name: Random name, which tells this canary from others.
        digits: Random digits, the secret.
    """

    template: str
    name: str
    digits: str

    @property
    def text(self) -> str:
        """The text that is planted."""
        return self.template.format(name=self.name, digits=self.digits)

    def candidates(self, count: int, seed: int) -> list[str]:
        """Return texts with the same name and other digits, all different.

        Raises:
            UsageError: There are not as many.
        """
        if count >= 10 ** len(self.digits):
            raise UsageError(
                f"There are no {count} other secrets of {len(self.digits)} digits. Ask for fewer."
            )
        draws, found = random.Random(f"{seed} {self.name}"), {self.digits: None}
        while len(found) <= count:
            found.setdefault(_digits(draws, len(self.digits)))
        others = [digits for digits in found if digits != self.digits]
        return [self.template.format(name=self.name, digits=digits) for digits in others]


def make_canaries(count: int, seed: int, template: str = TEMPLATE) -> list[Canary]:
    """Return canaries with different names.

    Args:
        count: Number of canaries.
        seed: Seed of the random names and digits.
        template: Format with `{name}` and `{digits}`.

    Raises:
        UsageError: The template lacks one of them, or has another one.

    >>> make_canaries(1, seed=0)[0].text == make_canaries(1, seed=0)[0].text
    True
    """
    try:
        probe = template.format(name="<name>", digits="<digits>")
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(f"The template {template!r} cannot be filled: {error!r}.") from error
    if "<name>" not in probe or "<digits>" not in probe:
        raise UsageError(f"The template {template!r} must hold {{name}} and {{digits}}.")
    draws, names = random.Random(seed), dict[str, None]()
    while len(names) < count:
        names.setdefault("".join(draws.choices(_LETTERS, k=_NAME_LETTERS)))
    return [Canary(template, name, _digits(draws, _DIGITS)) for name in names]


def _digits(draws: random.Random, count: int) -> str:
    return "".join(draws.choices("0123456789", k=count))


def exposure(losses_of_candidates: Sequence[float], canary_loss: float) -> float:
    """Return the exposure of a canary in bits, log2 |R| - log2 rank.

    R holds the candidates and the canary, ranked by loss from the smallest; of equal ones half
    stand before the canary. A model that has not memorised it gives 1.4 bits on average, and the
    most is log2 of the number of candidates and one.

    Args:
        losses_of_candidates: Loss of each candidate, in nats of the whole text.
        canary_loss: Loss of the canary.

    Raises:
        DataError: There are no candidates.

    Source: Carlini et al., "The Secret Sharer", arXiv 1802.08232, who define the exposure and
    estimate it from a sample of all secrets, as here. Different here: ties.

    >>> exposure([2.0, 3.0, 4.0], 1.0), exposure([2.0, 3.0, 4.0], 5.0)
    (2.0, 0.0)
    """
    if not losses_of_candidates:
        raise DataError("An exposure needs at least one candidate to compare with.")
    before = sum(loss < canary_loss for loss in losses_of_candidates)
    equal = sum(loss == canary_loss for loss in losses_of_candidates)
    return math.log2(len(losses_of_candidates) + 1) - math.log2(1 + before + equal / 2)


def canary_exposures(
    prepared: Prepared,
    canaries: Sequence[Canary],
    *,
    seed: int,
    max_length: int,
    batch_size: int,
    candidates: int = CANDIDATES,
) -> list[float]:
    """Return the exposure of each canary, by the loss of its text against that of candidates.

    Args:
        prepared: The model, with its adapters at work, and its tokenizer.
        canaries: Canaries that were planted in its training data, or were not.
        seed: Seed of the candidates.
        max_length: Most tokens of a text.
        batch_size: Number of texts in a forward.
        candidates: Number of candidates of each canary.

    Raises:
        UsageError: There are not as many secrets of this format.
    """
    from plop_lora.evaluation.losses import counted_losses

    found = []
    for canary in canaries:
        texts = [canary.text, *canary.candidates(candidates, seed)]
        losses = counted_losses(
            prepared, [{"text": text} for text in texts], max_length=max_length,
            batch_size=batch_size,
        )  # fmt: skip
        own, *others = (loss.mean * loss.tokens for loss in losses)
        found.append(exposure(others, own))
    return found
