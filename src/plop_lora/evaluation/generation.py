"""Greedy generation in batches whose size and padding change nothing.

Prompts are padded on the left and masked, longest batch first, so that running out of memory
happens at the start. Shape letters: B batch, T token.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from plop_lora.data.padding import padded
from plop_lora.errors import DataError, ModelError
from plop_lora.evaluation.chats import Ends, before_ends, ends_of_turns, prompt_tokens
from plop_lora.evaluation.judged import Prepared


class Completion(NamedTuple):
    """A generated answer.

    Attributes:
        text: The answer without special tokens and without what ends it.
        tokens: Token numbers of the answer, without the one that ends it.
        ended: Whether the answer came to its end, and was not cut at the most tokens allowed.
    """

    text: str
    tokens: tuple[int, ...]
    ended: bool


def generate(
    prepared: Prepared,
    prompts: Sequence[object],
    *,
    batch_size: int,
    max_new_tokens: int,
    arguments: Sequence[Mapping[str, object]] | None = None,
    references: Sequence[str] | None = None,
) -> list[Completion]:
    """Continue prompts greedily until the end of the sequence, or of the turn of a chat.

    A prompt that leaves no room for the answer in the model's positions loses its beginning.

    Args:
        prepared: The model, with its adapters at work, and its tokenizer.
        prompts: Texts, or chats as lists of messages.
        batch_size: Number of prompts in a batch.
        max_new_tokens: Most tokens of an answer.
        arguments: What each prompt gives its chat template, from `chats.template_arguments`.
        references: The right answers, if they are known; see `chats.ends_of_turns`.

    Returns:
        One completion for each prompt, in their order.

    Raises:
        DataError: A prompt has no tokens.
        ModelError: A prompt is a chat, but the tokenizer has no chat template; or the model's
            positions have no room for an answer.
    """
    left = prompt_tokens_left(prepared.model, max_new_tokens)
    given = arguments or [{}] * len(prompts)
    rows = [
        prompt_tokens(prompt, prepared.tokenizer, own)[-left:]
        for prompt, own in zip(prompts, given, strict=True)
    ]
    for number, row in enumerate(rows, start=1):
        if not row:
            raise DataError(f"The prompt of row {number} has no tokens.")
    found: dict[int, Completion] = {}
    chats = any(not isinstance(prompt, str) for prompt in prompts)
    ends = ends_of_turns(prepared.tokenizer, references) if chats else Ends()
    with judging(prepared.model), greedy(prepared, ends):
        for group in by_length(list(map(len, rows)), batch_size):
            answers = _generate(prepared, [rows[index] for index in group], max_new_tokens, ends)
            found.update(zip(group, answers, strict=True))
    return [found[index] for index in range(len(rows))]


def prompt_tokens_left(model: PreTrainedModel, max_new_tokens: int) -> int:
    """Return how many tokens of a prompt the model's positions have room for before an answer.

    Raises:
        ModelError: There is room for none.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return 10**9
    if max_new_tokens >= positions:
        raise ModelError(
            f"max_new_tokens {max_new_tokens} leaves no room for a prompt in the "
            f"model's {positions} positions. Give a smaller number."
        )
    return int(positions) - max_new_tokens


def _generate(
    prepared: Prepared, rows: Sequence[Sequence[int]], max_new_tokens: int, ends: Ends
) -> list[Completion]:
    ids_BT, mask_BT = padded(rows, pad_token(prepared.tokenizer), left=True)
    device = next(prepared.model.parameters()).device
    whole_BT = prepared.model.generate(
        input_ids=ids_BT.to(device),
        attention_mask=mask_BT.to(device),
        max_new_tokens=max_new_tokens,
        **({"tokenizer": prepared.tokenizer} if ends.texts else {}),
    )
    last = {*end_tokens(prepared), *ends.tokens}
    if ends.texts and prepared.tokenizer.pad_token_id is not None:
        last.add(prepared.tokenizer.pad_token_id)  # fills an answer that a text has ended
    return [
        _completion(row, prepared.tokenizer, last, ends.texts, max_new_tokens)
        for row in whole_BT[:, ids_BT.shape[1] :].tolist()
    ]


def _completion(
    row: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    last: Set[int],
    texts: Sequence[str],
    most: int,
) -> Completion:
    """Return an answer up to the first token or text that ends it."""
    stop = next((place for place, token in enumerate(row) if token in last), len(row))
    text = tokenizer.decode(row[:stop], skip_special_tokens=True)
    answer = before_ends(text, texts)
    return Completion(answer, tuple(row[:stop]), stop < most or len(answer) < len(text))


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that fills padded places; they are masked, so any does."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def end_tokens(prepared: Prepared) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's and those that the model declares."""
    declared = own_model(prepared).generation_config.eos_token_id
    several = declared if isinstance(declared, list) else [declared]
    tokens = [prepared.tokenizer.eos_token_id, *several]
    return list(dict.fromkeys(int(token) for token in tokens if token is not None))


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return groups of places of similar length, longest first.

    >>> by_length([3, 9, 4], 2)
    [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@contextlib.contextmanager
def judging(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout and gradients off, and put the mode of training back."""
    trains = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(trains)


@contextlib.contextmanager
def greedy(prepared: Prepared, ends: Ends) -> Iterator[None]:
    """Let the model generate greedily, and put its own way of sampling back."""
    config = GenerationConfig(
        do_sample=False,
        use_cache=True,
        pad_token_id=pad_token(prepared.tokenizer),
        bos_token_id=prepared.tokenizer.bos_token_id,
        eos_token_id=[*end_tokens(prepared), *ends.tokens],
        stop_strings=list(ends.texts) or None,
    )
    with generating_as(prepared, config):
        yield


@contextlib.contextmanager
def generating_as(prepared: Prepared, config: GenerationConfig) -> Iterator[None]:
    """Let the model generate by a configuration, and put its own back.

    A checkpoint's temperature, top-p or repetition penalty would be mixed into a configuration
    that is given for one call, with a warning at each.
    """
    model = own_model(prepared)
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before


def own_model(prepared: Prepared) -> PreTrainedModel:
    """Return the model below the adapters, if there are any; it says how it generates."""
    from peft import PeftModel

    model = prepared.model
    return model.get_base_model() if isinstance(model, PeftModel) else model


@contextlib.contextmanager
def ending(prepared: Prepared, ends: Ends) -> Iterator[None]:
    """Let a trainer's samples end where a judged answer ends, and put the model back.

    Trainers read the tokens from the model's own configuration. Texts, their `stop_strings`, are
    looked for by the tokenizer, which trainers do not pass on.
    """
    model = own_model(prepared)
    config = model.generation_config
    tokens = config.eos_token_id
    config.eos_token_id = [*end_tokens(prepared), *ends.tokens]
    if ends.texts:
        model.generate = functools.partial(model.generate, tokenizer=prepared.tokenizer)
    try:
        yield
    finally:
        config.eos_token_id = tokens
        model.__dict__.pop("generate", None)
