"""What is scored: texts tokenised for a model, or batches that the user made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from plop_lora.data import Batch, encode, make_batches
from plop_lora.documents import Document, Documents
from plop_lora.errors import DataError, UsageError
from plop_lora.scoring.devices import home_of

CPU_TOKEN_BUDGET = 4096
ACCELERATOR_TOKEN_BUDGET = 16384


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """Batches with what the record says about them."""

    batches: Sequence[Batch]
    source: str
    notes: tuple[str, ...]


def as_documents(texts: Any) -> Documents:
    """Return documents as they are, or strings as documents; blank ones are counted.

    Raises:
        UsageError: one string instead of a list.
        DataError: nothing but blanks.
    """
    if isinstance(texts, Documents):
        return texts
    if isinstance(texts, str):
        raise UsageError("texts is one string; give a list of strings.")
    given = list(texts)
    items = tuple(Document(text) for text in given if text is not None and str(text).strip())
    if not items:
        raise DataError("There is no text to score: the list is empty or all of it is blank.")
    return Documents("texts", items, len(given), len(given) - len(items))


def tokenise(
    model: nn.Module,
    tokenizer: Any,
    documents: Documents,
    max_length: int,
    batch_size: int | None,
) -> Given:
    """Tokenise documents for a model and make batches of them.

    Args:
        model: says its positions, its vocabulary, and whether it has a decoder of its own.
        tokenizer: a transformers tokenizer.
        documents: what to tokenise.
        max_length: tokens kept of each text, at most the model's positions.
        batch_size: sequences a batch; None fills a token budget.
    """
    config = getattr(model, "config", None)
    limit = min(max_length, _positions(config), tokenizer.model_max_length)
    encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
    embedding = _input_embedding(model)
    sequences, truncated, dropped = encode(
        documents.items,
        tokenizer,
        max_length=limit,
        vocabulary=None if embedding is None else embedding.num_embeddings,
        encoder_decoder=encoder_decoder,
    )
    on_cpu = home_of(model).type == "cpu"
    batches = make_batches(
        sequences,
        batch_size=batch_size,
        token_budget=CPU_TOKEN_BUDGET if on_cpu else ACCELERATOR_TOKEN_BUDGET,
        decoder_start=getattr(config, "decoder_start_token_id", None),
    )
    counts = {
        f"rows of {documents.source} skipped for empty text": documents.skipped,
        "texts dropped because they have no token": dropped,
        f"texts cut to {limit} tokens": truncated,
    }
    notes = tuple(f"{count} {what}" for what, count in counts.items() if count)
    return Given(batches, documents.source, notes)


def _positions(config: Any) -> int:
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else sys.maxsize


def _input_embedding(model: nn.Module) -> nn.Embedding | None:
    getter = getattr(model, "get_input_embeddings", None)
    embedding = getter() if getter is not None else None
    return embedding if isinstance(embedding, nn.Embedding) else None


def known_name(model: nn.Module) -> str:
    """Return the name that a loaded model was loaded from, to find its tokenizer.

    Raises:
        UsageError: it has none, so the tokenizer must be given.
    """
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    if not name:
        raise UsageError("Give the tokenizer as well: plop.score(model, tokenizer, texts).")
    return str(name)
