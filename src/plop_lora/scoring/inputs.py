"""The inputs of scoring: texts that are tokenised for a model, or batches from the user."""

from __future__ import annotations

import datetime
import functools
import inspect
import itertools
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from plop_lora.data.batches import Batch, Padding, make_batches
from plop_lora.data.documents import Documents, different, key_of, load_documents
from plop_lora.data.sampling import scoring_order
from plop_lora.data.texts import Chat, Document, NoTemplateError
from plop_lora.data.tokens import TokenSequence, encode
from plop_lora.errors import DataError, ModelError, UsageError
from plop_lora.models.devices import home_of
from plop_lora.models.loading import load_tokenizer
from plop_lora.models.origin import Origin
from plop_lora.scoring.stopping import chunk_ends

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CPU_TOKEN_BUDGET = 4096
ACCELERATOR_TOKEN_BUDGET = 16384
INPUT_IDS = "input_ids"
DAY = datetime.datetime(2024, 7, 26)
"""Date that chat templates receive as the current one; it is the default of Llama 3's template."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoringInputs:
    """Batches to score, and what the record says about them.

    Attributes:
        batches: Batches in the order of scoring.
        source: Name of the data they come from.
        notes: Notes on texts that were skipped, dropped or cut.
        looks: Numbers of sequences after which the sequences so far are a random sample of all,
            so that scoring may stop there. None allows it after every batch.
        warmup_batch: Batch of the longest text, unless one as long is among the first texts.
        groups: Group of each sequence, in the order of scoring.
        field: Field or fields of a row that were read as its text, if known.
    """

    batches: Sequence[Batch]
    source: str
    notes: tuple[str, ...]
    looks: frozenset[int] | None = None
    warmup_batch: Batch | None = None
    groups: tuple[str | None, ...] = ()
    field: str | None = None

    def rounds(self) -> list[list[Batch]]:
        """Return the batches in rounds, each of which ends where scoring may stop."""
        rounds: list[list[Batch]] = [[]]
        seen = 0
        for batch in self.batches:
            seen += len(batch.names)
            rounds[-1].append(batch)
            if self.looks is None or seen in self.looks:
                rounds.append([])
        return [batches for batches in rounds if batches]


def as_documents(
    texts: Any, tokenizer: PreTrainedTokenizerBase | None = None, seed: int = 0
) -> Documents:
    """Return texts as documents; blank texts and duplicates are dropped and counted.

    Args:
        texts: Documents, strings, or rows such as those of a `datasets.Dataset`, of which a
            sample is drawn as in `load_documents`.
        tokenizer: Tokenizer whose chat template renders the messages of rows.
        seed: Seed of the sample of rows.

    Raises:
        UsageError: `texts` is a single string instead of a list.
        DataError: All texts are blank, or most of them are copies of a few.
    """
    if isinstance(texts, Documents):
        return texts
    if isinstance(texts, str | Path):
        raise UsageError(
            "texts is one string; give a list of strings, or a file as "
            f"plop.load_documents({str(texts)[:80]!r})."
        )
    given = texts if hasattr(texts, "column_names") else list(texts)
    if isinstance(next(iter(given), None), Mapping) or isinstance(texts, Mapping):
        source = texts if isinstance(texts, Mapping) else given
        return load_documents(source, chat=chat_of(tokenizer), seed=seed)
    strange = next((text for text in given if text is not None and not isinstance(text, str)), None)
    if strange is not None:
        raise DataError(f"texts holds {strange!r}, which is no string; give a list of strings.")
    filled = [Document(text) for text in given if text is not None and text.strip()]
    if not filled:
        raise DataError("There is no text to score: the list is empty or all of it is blank.")
    items = tuple(filled[first] for first in different([key_of(d) for d in filled], "texts"))
    skipped, duplicates = len(given) - len(filled), len(filled) - len(items)
    return Documents("texts", items, len(given), skipped, duplicates)


def rendered_by(model: str, revision: str | None = None) -> Chat:
    """Return a function that renders messages as a model's tokenizer does, loaded when needed.

    The function raises a NoTemplateError if the tokenizer has no chat template.
    """

    @functools.cache
    def loaded() -> Callable[..., str] | None:
        return chat_of(load_tokenizer(model, Origin(revision)))

    def render(messages: list[object], **tools: object) -> str:
        render_chat = loaded()
        if render_chat is None:
            raise NoTemplateError(f"the tokenizer of {model}")
        return render_chat(messages, **tools)

    return render


def chat_of(tokenizer: PreTrainedTokenizerBase) -> Callable[..., str] | None:
    """Return a function that renders messages with the chat template; None without a template.

    A template that writes the current date always receives the same date. Otherwise the same chat
    would give other tokens tomorrow, and its scores could not be compared.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    render: Callable[..., str] = functools.partial(tokenizer.apply_chat_template, tokenize=False)
    if _NOW.search(str(template)) is None:
        return render

    def on_one_day(messages: object, tools: object = None) -> str:
        written = tokenizer.get_chat_template(None, tools)
        dated = _NOW.sub(lambda call: repr(DAY.strftime(call["form"])), written)
        return render(messages, tools=tools, chat_template=dated)

    return on_one_day


_NOW = re.compile(r"""strftime_now\(\s*(?P<mark>\\?['"])(?P<form>[^'"\\]*)(?P=mark)\s*\)""")
"""A call of `strftime_now` in a chat template, whose format is a literal string."""


def in_any_order(batches: Sequence[Batch], seed: int | None) -> ScoringInputs:
    """Take batches that the user made, in an order drawn with a seed, or as they are with None.

    Adaptive stopping takes the sequences so far for a random sample of all. Batches in blocks of
    kinds, as a sorted data set gives them, are none.
    """
    if seed is None or len(batches) < 2:
        return ScoringInputs(tuple(batches), "ready batches", ())
    order = random.Random(seed).sample(range(len(batches)), len(batches))
    drawn = tuple(batches[index] for index in order)
    return ScoringInputs(drawn, "ready batches, in an order drawn with the seed", ())


def tokenise(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    documents: Documents,
    max_length: int,
    batch_size: int | None,
    *,
    special_tokens: bool = False,
    shuffle_seed: int | None = None,
) -> ScoringInputs:
    """Tokenise documents for a model and make batches of them.

    Args:
        model: Model that gives the number of positions, the vocabulary, and whether there is a
            separate decoder.
        tokenizer: A transformers tokenizer.
        documents: Documents to tokenise.
        max_length: Maximum number of tokens of a text. The number of positions limits it further.
        batch_size: Number of sequences in a batch; None fills a budget of tokens instead.
        special_tokens: Whether the special tokens around a text count in the score.
        shuffle_seed: Seed of a random order in chunks, for a run that may stop after any of them.
            None makes a single chunk in the given order.
    """
    _check_reads_texts(model)
    config = getattr(model, "config", None)
    limit = min(max_length, _positions(model), tokenizer.model_max_length)
    encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
    sequences, truncated, dropped = encode(
        documents.items,
        tokenizer,
        max_length=limit,
        vocabulary=_rows(_input_embedding(model)),
        target_vocabulary=_rows(_input_embedding(_decoder(model))),
        encoder_decoder=encoder_decoder,
        special_tokens=special_tokens,
    )
    on_cpu = home_of(model).type == "cpu"
    batched = functools.partial(
        make_batches,
        batch_size=batch_size,
        token_budget=CPU_TOKEN_BUDGET if on_cpu else ACCELERATOR_TOKEN_BUDGET,
        decoder_start=getattr(config, "decoder_start_token_id", None),
    )
    if shuffle_seed is not None:
        names, groups = [s.name for s in sequences], [s.group for s in sequences]
        sequences = [sequences[i] for i in scoring_order(names, groups, shuffle_seed)]
    ends = (len(sequences),) if shuffle_seed is None else chunk_ends(len(sequences))
    chunks = [sequences[start:end] for start, end in itertools.pairwise((0, *ends))]
    counts = {
        f"row|rows of {documents.source} skipped for empty text": documents.skipped,
        "text|texts dropped as a copy of another": documents.duplicates,
        "text|texts dropped for having no token": dropped,
        f"text|texts cut to {limit} tokens": truncated,
    }
    notes = tuple(_counted(count, what) for what, count in counts.items() if count)
    return ScoringInputs(
        batches=tuple(batch for chunk in chunks for batch in batched(chunk)),
        source=documents.source,
        notes=notes,
        looks=frozenset(ends),
        warmup_batch=_warmup_batch(chunks, batched),
        groups=tuple(sequence.group for sequence in sequences),
        field=documents.field,
    )


def _check_reads_texts(model: nn.Module) -> None:
    """Refuse to give texts to a model that takes only images or sound.

    Raises:
        ModelError: The main input of the model is not text, and it has no `input_ids`.
    """
    wanted = getattr(model, "main_input_name", INPUT_IDS)
    if wanted != INPUT_IDS and INPUT_IDS not in inspect.signature(model.forward).parameters:
        raise ModelError(
            f"{type(model).__name__} reads {wanted} and not texts. Score what its processor "
            "returns: plop.score(model, batches=[processor(…, return_tensors='pt'), …])."
        )


def _warmup_batch(
    chunks: Sequence[Sequence[TokenSequence]], batched: Callable[..., Sequence[Batch]]
) -> Batch | None:
    """Return the longest text as a batch, unless the first chunk holds one as long."""
    longest = [max(chunk, key=lambda sequence: len(sequence.tokens)) for chunk in chunks]
    overall = max(longest, key=lambda sequence: len(sequence.tokens))
    return None if overall is longest[0] else batched([overall])[0]


def _counted(count: int, what: str) -> str:
    """Return `1 text …` or `2 texts …` from `text|texts …`."""
    first, _, rest = what.partition("|")
    word, _, tail = rest.partition(" ")
    return f"{count} {first if count == 1 else word} {tail}"


def _positions(model: nn.Module) -> int:
    """Return the maximum number of tokens that a model has positions for.

    RoBERTa and models derived from it number positions from after the padding index, so their
    table has more rows than a text may have tokens.
    """
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return sys.maxsize
    for name, module in model.named_modules():
        table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if table and module.padding_idx is not None and module.num_embeddings == limit:
            return limit - int(module.padding_idx) - 1
    return limit


def _decoder(model: nn.Module) -> nn.Module:
    """Return the decoder, which may have a vocabulary of its own, or the model if it has none."""
    decoder = getattr(model, "get_decoder", lambda: None)()
    return decoder if isinstance(decoder, nn.Module) else model


def _rows(embedding: nn.Embedding | None) -> int | None:
    return None if embedding is None else embedding.num_embeddings


def _input_embedding(model: nn.Module) -> nn.Embedding | None:
    getter = getattr(model, "get_input_embeddings", lambda: None)
    try:
        embedding = getter()
    except NotImplementedError:  # models with several inputs, none of which is the main one
        return None
    return embedding if isinstance(embedding, nn.Embedding) else None


def padding_of(model: nn.Module) -> Padding:
    """Return the padding token of a model according to its configuration."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    token = getattr(text, "pad_token_id", None)
    ends = getattr(text, "eos_token_id", None)
    return Padding(token, token in (ends if isinstance(ends, list) else [ends]))


def known_name(model: nn.Module) -> str:
    """Return the name that a model was loaded from, by which its tokenizer can be found.

    Raises:
        UsageError: The model does not know its name, so the tokenizer must be given.
    """
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    if not name:
        raise UsageError("Give the tokenizer as well: plop.score(model, tokenizer, texts).")
    return str(name)
