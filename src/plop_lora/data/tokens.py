"""From documents to token sequences: tokenised as the tokenizer does, and named by a hash.

The same text is the same sequence in every file. The special tokens around a text are told from the
text. Of models this knows the vocabulary and the number of positions.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plop_lora.data.texts import Document
from plop_lora.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One tokenised document.

    Attributes:
        name: Hash of the text.
        tokens: Numbers of its tokens.
        target_tokens: Numbers of the tokens of an encoder-decoder's decoder.
        group: Group of the document.
        text_mask: For each token, 1 if it is part of the text and 0 if it is a special token around
            it, which does not count. None if every token counts.
        target_text_mask: The same for the tokens of the decoder.
    """

    name: str
    tokens: tuple[int, ...]
    target_tokens: tuple[int, ...] | None = None
    group: str | None = None
    text_mask: tuple[int, ...] | None = None
    target_text_mask: tuple[int, ...] | None = None


def encode(
    documents: Sequence[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    vocabulary: int | None,
    encoder_decoder: bool,
    target_vocabulary: int | None = None,
    special_tokens: bool = False,
) -> tuple[list[TokenSequence], int, int]:
    """Tokenise documents.

    Args:
        documents: The documents; without a `target`, an encoder-decoder model reads the same text
            on both sides.
        tokenizer: A transformers tokenizer; it needs no pad token.
        max_length: Most tokens of a document on each side; the rest is cut.
        vocabulary: Number of rows of the model's embedding, if it is known.
        encoder_decoder: Whether the model has a decoder with inputs of its own.
        target_vocabulary: Number of rows of the decoder's own embedding, if it is known.
        special_tokens: Whether the special tokens around a text count as its tokens do.

    Returns:
        Sequences in the order of the documents, the number truncated, and the number dropped
        because they came out with no token that counts.

    Raises:
        DataError: No sequence has a token.
        ModelError: The tokenizer makes token numbers that the model does not have.
    """
    sequences: list[TokenSequence] = []
    truncated = dropped = 0
    read = functools.partial(_tokens, tokenizer, max_length=max_length)
    around = None if special_tokens else _without_text(tokenizer)
    for document in documents:
        whole = document.text
        if document.target is not None and not encoder_decoder:
            whole += document.target
        special = not document.rendered
        tokens, cut = read(whole, special=special)
        target = None
        if encoder_decoder:
            target, also = read(document.target or whole, special=special, as_target=True)
            cut = cut or also
        masks = _text_mask(tokens, around), _text_mask(target, around)
        if not tokens or target == () or any(mask and not any(mask) for mask in masks):
            dropped += 1
            continue
        truncated += cut
        sequences.append(
            TokenSequence(
                name=sequence_name(document),
                tokens=tokens,
                target_tokens=target,
                group=document.group,
                text_mask=masks[0],
                target_text_mask=masks[1],
            )
        )
    if not sequences:
        raise DataError(
            "The tokenizer made zero tokens of every text, or special tokens only. Give the "
            "model's own, or a larger --max-length."
        )
    _check_vocabulary((s.tokens for s in sequences), tokenizer, vocabulary)
    targets = (s.target_tokens or () for s in sequences)
    _check_vocabulary(targets, tokenizer, target_vocabulary)
    return sequences, truncated, dropped


def _tokens(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    max_length: int,
    special: bool,
    as_target: bool = False,
) -> tuple[tuple[int, ...], bool]:
    """Return at most `max_length` tokens of a text, and whether it was cut.

    What is too long is cut as the tokenizer itself cuts: on its own side, and with the special
    token that closes a text, by which models know its end.
    """
    # JSON can hold half of a surrogate pair, which no tokenizer reads: it becomes "?".
    text = text.encode(errors="replace").decode()
    read = functools.partial(_token_numbers, tokenizer, special=special, as_target=as_target)
    tokens = read(text)
    if special:
        bare = _without_marks(tokenizer, text, tokens)
        text, tokens = (text, tokens) if bare == text else (bare, read(bare))
    if len(tokens) <= max_length:
        return tuple(tokens), False
    # A tokenizer that knows no truncation, or fewer tokens than its marks take, is cut here.
    return tuple(read(text, truncation=True, max_length=max_length)[:max_length]), True


def _token_numbers(
    tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool, as_target: bool, **options: int
) -> list[int]:
    # verbose=False: the tokenizer's warning about long texts is ours to give, once, as a note.
    options |= {"verbose": False, "add_special_tokens": special}
    if as_target and "text_target" in inspect.signature(tokenizer).parameters:
        # Translators mark their two sides by different tokens, or have a vocabulary for each.
        return list(tokenizer(text_target=text, **options)["input_ids"])
    return list(tokenizer(text, **options)["input_ids"])


def _without_marks(tokenizer: PreTrainedTokenizerBase, text: str, tokens: Sequence[int]) -> str:
    """Return a text without the marks of its beginning and end that the tokenizer adds as well.

    A text that a chat template has rendered already begins as the tokenizer begins texts; the
    mark would stand there twice.
    """
    firsts, lasts = _marks(tokenizer, "bos", "cls"), _marks(tokenizer, "eos", "sep")
    if len(tokens) > 1 and tokens[0] == tokens[1] and tokens[0] in firsts:
        text = text.lstrip().removeprefix(firsts[tokens[0]])
    if len(tokens) > 1 and tokens[-1] == tokens[-2] and tokens[-1] in lasts:
        text = text.rstrip().removesuffix(lasts[tokens[-1]])
    return text


def _marks(tokenizer: PreTrainedTokenizerBase, *names: str) -> dict[int, str]:
    """Return the number and the text of some of a tokenizer's special tokens."""
    marks = (
        (getattr(tokenizer, f"{name}_token_id", None), getattr(tokenizer, f"{name}_token", None))
        for name in names
    )
    return {number: mark for number, mark in marks if number is not None and mark}


def _without_text(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the numbers of the special tokens that can stand around a text.

    Those that stand for a word, unknown or masked, are part of the text, unless they also mark its
    beginning or end, as in GPT-2.
    """
    words = _marks(tokenizer, "unk", "mask").keys()
    ends = _marks(tokenizer, "bos", "cls", "eos", "sep").keys()
    return frozenset(getattr(tokenizer, "all_special_ids", ())) - (words - ends)


def _text_mask(
    tokens: Sequence[int] | None, special: frozenset[int] | None
) -> tuple[int, ...] | None:
    """Return 1 for each token from the first to the last that is not special, and 0 for the rest.

    Special tokens between them belong to the text: those of a chat say who speaks, and a finetune
    on chats trains on them.
    """
    if tokens is None or special is None:
        return None
    before = sum(1 for _ in itertools.takewhile(special.__contains__, tokens))
    behind = sum(1 for _ in itertools.takewhile(special.__contains__, reversed(tokens[before:])))
    return (0,) * before + (1,) * (len(tokens) - before - behind) + (0,) * behind


def _check_vocabulary(
    sequences: Iterable[Sequence[int]], tokenizer: PreTrainedTokenizerBase, vocabulary: int | None
) -> None:
    largest = max(max(tokens, default=0) for tokens in sequences)
    if vocabulary is not None and largest >= vocabulary:
        raise ModelError(
            f"The tokenizer ({type(tokenizer).__name__}) makes token number {largest}, but the "
            f"model's embedding has {vocabulary} rows. They do not belong together; give the "
            "tokenizer that the model was trained with."
        )


def sequence_name(document: Document) -> str:
    """Return the name of the sequence of a document, a hash of its text."""
    text = document.text + (document.target or "")
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]


def fingerprint(names: Iterable[str]) -> str:
    """Return a hash of a set of sequences that does not depend on their order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]
