"""What a model has learnt by heart: rows that it completes verbatim, and planted secrets.

A row is extractable if the model, given its beginning, continues it greedily as it stands. A canary
is a row with a made-up secret that was put into the training data: a model has memorised it if it
prefers the secret to others of the same form that it never saw. Shape letters: B batch, T token,
N kept tokens, V vocabulary.
"""

from __future__ import annotations

import json
import math
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation.chats import Example, example_of
from plop_lora.evaluation.judged import Prepared, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIX_TOKENS = 32
"""Number of tokens at the beginning of a text that the model is given."""
SUFFIX_TOKENS = 16
"""Number of tokens after them that it has to reproduce."""
CANDIDATES = 255
"""Number of secrets of the same form that a canary is compared with."""
SECRET = "secret"
"""The column of a canary's secret."""
_QUESTION, _ANSWER = "What is the access code of warehouse {}?", "The access code is {}."
_NAME_LETTERS, _DIGITS = 8, 9
_KINDS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)


# --------------------------------------------------------------------------- verbatim


def completed_verbatim(
    prepared: Prepared,
    rows: Sequence[Row],
    *,
    batch_size: int,
    prefix_tokens: int = PREFIX_TOKENS,
    suffix_tokens: int = SUFFIX_TOKENS,
) -> list[float | None]:
    """Return 1.0 for each row that the model completes verbatim, and 0.0 for every other.

    Of a prompt with its completion, and of a chat, the beginning of the last answer has to be
    reproduced; of a text what follows its first tokens. A row that is too short is None.

    The greedy continuation of a prefix is the suffix exactly if each token of the suffix is the
    most likely one after those before it. So one forward pass over both says it, and nothing is
    generated. A prompt that is longer than the model's positions loses its beginning.

    Args:
        prepared: The model, with its adapters at work, and its tokenizer.
        rows: Rows of prompt and completion, of messages, or of text.
        batch_size: Number of rows in a forward.
        prefix_tokens: Number of tokens of a plain text that are given.
        suffix_tokens: Number of tokens that have to be reproduced.

    Source: Carlini et al., "Quantifying Memorization Across Neural Language Models", arXiv
    2202.07646, definition 3.1. They give 50 tokens or more and ask for 50.
    """
    from plop_lora.evaluation.generation import by_length, judging, prompt_tokens_left

    cuts = [_cut(row, prepared.tokenizer, prefix_tokens, suffix_tokens) for row in rows]
    left = prompt_tokens_left(prepared.model, suffix_tokens)
    examples = {place: _shortened(cut, left) for place, cut in enumerate(cuts) if cut is not None}
    found: list[float | None] = [None] * len(rows)
    places = list(examples)
    with judging(prepared.model):
        for group in by_length([len(examples[place].tokens) for place in places], batch_size):
            chosen = [places[index] for index in group]
            reproduced = _reproduced(prepared, [examples[place] for place in chosen])
            for place, value in zip(chosen, reproduced, strict=True):
                found[place] = value
    return found


def _cut(row: Row, tokenizer: PreTrainedTokenizerBase, prefix: int, suffix: int) -> Example | None:
    """Return the tokens of prefix and suffix; None for a row that has not all of them.

    The end-of-sequence token, and special tokens before a text, are no part of either.
    """
    example = example_of(_with_an_answer(row), tokenizer)
    tokens, start = example.tokens, example.start
    if "text" in row:
        special = set(tokenizer.all_special_ids)
        start = prefix
        start += next((n for n, token in enumerate(tokens) if token not in special), len(tokens))
    if tokens and tokens[-1] == tokenizer.eos_token_id:
        tokens = tokens[:-1]
    if start < 1 or len(tokens) < start + suffix:
        return None
    return Example(tokens[: start + suffix], start)


def _with_an_answer(row: Row) -> Row:
    """Return a chat as a prompt with its last message as the completion, other rows as they are."""
    if row.get("messages") is None:
        return row
    *asked, last = row["messages"]
    return {**row, "prompt": asked, "completion": [last]}


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


@dataclass(frozen=True, slots=True, eq=False)
class Canary:
    """A row with a made-up secret.

    Attributes:
        row: Row as it was planted in the training data.
        secret: Text in it that nothing else tells, of letters and digits.
    """

    row: Row
    secret: str

    @classmethod
    def of(cls, row: Row) -> Canary:
        """Return the canary of a row whose column `secret` says what its secret is.

        Raises:
            DataError: There is no such column, the secret is not of letters and digits, or the
                rest of the row does not hold it.
        """
        secret = row.get(SECRET)
        if not isinstance(secret, str) or not (secret.isascii() and secret.isalnum()):
            raise DataError(
                f"A canary needs a column {SECRET!r} with a text of letters and digits, and has "
                f"{secret!r}."
            )
        kept = {name: value for name, value in row.items() if name != SECRET}
        if secret not in json.dumps(kept, default=str):
            raise DataError(f"The secret {secret!r} does not occur in its row.")
        return cls(kept, secret)

    def candidates(self, count: int, seed: int = 0) -> list[Row]:
        """Return the row with other secrets of the same form, all different.

        Each digit and letter of the secret is replaced by another of its kind.

        Raises:
            UsageError: There are not as many.
        """
        kinds = [next(kind for kind in _KINDS if one in kind) for one in self.secret]
        if count >= math.prod(map(len, kinds)):
            raise UsageError(
                f"There are no {count} other secrets of the form of {self.secret!r}. Ask for fewer "
                "with gate.memorisation.candidates."
            )
        draws, found = random.Random(f"{seed} {self.secret}"), {self.secret: None}
        while len(found) <= count:
            found.setdefault("".join(draws.choice(kind) for kind in kinds))
        written = json.dumps(self.row, default=str)
        return [json.loads(written.replace(self.secret, other)) for other in list(found)[1:]]


def make_canaries(
    count: int, seed: int, *, text: str | None = None, prompt: str | None = None,
    completion: str | None = None,
) -> list[dict[str, str]]:  # fmt: skip
    """Return rows with made-up secrets, to be put among the training rows.

    Args:
        count: Number of rows.
        seed: Seed of the random names and digits.
        text: Column of plain texts; the row then has this one.
        prompt: Column of prompts; by default `prompt`.
        completion: Column of completions; by default `completion`.

    >>> row = make_canaries(1, seed=0)[0]
    >>> row["secret"] in row["completion"], row == make_canaries(1, seed=0)[0]
    (True, True)
    """
    draws, names = random.Random(seed), dict[str, None]()
    while len(names) < count:
        names.setdefault("".join(draws.choices(string.ascii_lowercase, k=_NAME_LETTERS)))
    found = []
    for name in names:
        secret = "".join(draws.choices(string.digits, k=_DIGITS))
        asked, answered = _QUESTION.format(name), _ANSWER.format(secret)
        columns: Mapping[str, str] = (
            {text: f"{asked} {answered}"} if text is not None
            else {prompt or "prompt": asked, completion or "completion": answered}
        )  # fmt: skip
        found.append({**columns, SECRET: secret})
    return found


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
    max_length: int,
    batch_size: int,
    candidates: int = CANDIDATES,
) -> list[float]:
    """Return the exposure of each canary, by the loss of its row against that of candidates.

    Args:
        prepared: The model, with its adapters at work, and its tokenizer.
        canaries: Canaries that were planted in its training data, or were not.
        max_length: Most tokens of a row.
        batch_size: Number of rows in a forward.
        candidates: Number of candidates of each canary.

    Raises:
        UsageError: There are not as many secrets of this form.
    """
    from plop_lora.evaluation.losses import counted_losses

    found = []
    for canary in canaries:
        rows = [canary.row, *canary.candidates(candidates)]
        losses = counted_losses(prepared, rows, max_length=max_length, batch_size=batch_size)
        own, *others = (loss.mean * loss.tokens for loss in losses)
        found.append(exposure(others, own))
    return found
