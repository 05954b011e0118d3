"""Greedy generation in batches whose size and padding change nothing.

Prompts are padded on the left and masked, longest batch first, so that running out of memory
happens at the start. Shape letters: B batch, T token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig

from plop_lora.errors import DataError, ModelError
from plop_lora.training.task import Prepared


class Completion(NamedTuple):
    """A generated answer: its text without special tokens, and its tokens up to the end."""

    text: str
    tokens: tuple[int, ...]


def generate(
    prepared: Prepared, prompts: Sequence[Any], *, batch_size: int, max_new_tokens: int
) -> list[Completion]:
    """Continue prompts greedily until the end of the sequence.

    A prompt that leaves no room for the answer in the model's positions loses its beginning.

    Args:
        prepared: the model, with its adapters at work, and its tokenizer.
        prompts: texts, or chats as lists of messages.
        batch_size: prompts at once.
        max_new_tokens: of each answer.

    Returns:
        One completion for each prompt, in their order.

    Raises:
        DataError: a prompt without tokens.
        ModelError: a chat, but the tokenizer has no chat template; or no room for an answer.
    """
    room = _room(prepared.model, max_new_tokens)
    rows = [prompt_tokens(prompt, prepared.tokenizer)[-room:] for prompt in prompts]
    for number, row in enumerate(rows, start=1):
        if not row:
            raise DataError(f"The prompt of row {number} has no tokens.")
    found: dict[int, Completion] = {}
    with judging(prepared.model), greedy(prepared):
        for group in by_length(list(map(len, rows)), batch_size):
            answers = _generate(prepared, [rows[order] for order in group], max_new_tokens)
            found.update(zip(group, answers, strict=True))
    return [found[order] for order in range(len(rows))]


def _room(model: Any, max_new_tokens: int) -> int:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None:
        return 10**9
    if max_new_tokens >= positions:
        raise ModelError(
            f"evaluation.max_new_tokens {max_new_tokens} leaves no room for a prompt in the "
            f"model's {positions} positions. Give less."
        )
    return int(positions) - max_new_tokens


def _generate(
    prepared: Prepared, rows: Sequence[Sequence[int]], max_new_tokens: int
) -> list[Completion]:
    ids_BT, mask_BT = padded(rows, pad_token(prepared.tokenizer), left=True)
    device = next(prepared.model.parameters()).device
    whole_BT = prepared.model.generate(
        input_ids=ids_BT.to(device),
        attention_mask=mask_BT.to(device),
        max_new_tokens=max_new_tokens,
    )
    ends = set(end_tokens(prepared))
    answers = []
    for row in whole_BT[:, ids_BT.shape[1] :].tolist():
        stop = next((place for place, token in enumerate(row) if token in ends), len(row))
        text = prepared.tokenizer.decode(row[:stop], skip_special_tokens=True)
        answers.append(Completion(text, tuple(row[:stop])))
    return answers


def prompt_tokens(prompt: Any, tokenizer: Any) -> list[int]:
    """Return the tokens of a prompt, a text or a chat that waits for its answer.

    Raises:
        ModelError: it is a chat, but the tokenizer has no chat template.
    """
    if not isinstance(prompt, str):
        return chat_tokens(prompt, tokenizer, waiting=True)
    tokens = list(tokenizer(prompt, verbose=False)["input_ids"])
    # Some tokenizers close every text; a prompt has to stay open.
    if tokens and tokens[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token):
        tokens.pop()
    return tokens


def chat_tokens(messages: Any, tokenizer: Any, *, waiting: bool = False) -> list[int]:
    """Return the tokens of a chat; `waiting` adds the beginning of the assistant's turn.

    Raises:
        ModelError: the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"The rows are chats, but the tokenizer ({type(tokenizer).__name__}) has no chat "
            "template. Give prompt and completion as plain text, or an instruct model."
        )
    given = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=waiting, tokenize=True, return_dict=True
    )
    return list(given["input_ids"])


def pad_token(tokenizer: Any) -> int:
    """Return the token that fills padded places; they are masked, so any does."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def end_tokens(prepared: Prepared) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's and those that the model declares."""
    declared = prepared.model.get_base_model().generation_config.eos_token_id
    several = declared if isinstance(declared, list) else [declared]
    tokens = [prepared.tokenizer.eos_token_id, *several]
    return list(dict.fromkeys(int(token) for token in tokens if token is not None))


def padded(
    rows: Sequence[Sequence[int]], filler: int, *, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token numbers and mask of shape [B, T]."""
    width = max(map(len, rows))
    ids_BT = torch.full((len(rows), width), filler, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), width, dtype=torch.long)
    for order, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids_BT[order, where] = torch.tensor(row, dtype=torch.long)
        mask_BT[order, where] = 1
    return ids_BT, mask_BT


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return groups of places of similar length, longest first.

    >>> by_length([3, 9, 4], 2)
    [[1, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@contextlib.contextmanager
def judging(model: Any) -> Iterator[None]:
    """Switch dropout and gradients off, and put the mode of training back."""
    trains = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(trains)


@contextlib.contextmanager
def greedy(prepared: Prepared) -> Iterator[None]:
    """Let the model generate greedily, and put its own way of sampling back.

    A checkpoint's temperature, top-p or repetition penalty would be mixed into a configuration
    that is given for one call, with a warning at each.
    """
    model = prepared.model.get_base_model()
    before = model.generation_config
    model.generation_config = GenerationConfig(
        do_sample=False,
        use_cache=True,
        pad_token_id=pad_token(prepared.tokenizer),
        bos_token_id=prepared.tokenizer.bos_token_id,
        eos_token_id=end_tokens(prepared),
    )
    try:
        yield
    finally:
        model.generation_config = before
