"""A tokenizer out of a GGUF's own fields, the same under every release of transformers.

transformers builds one too. But release 5.17 takes Gemma's for a unigram model, which cuts every
text into single letters and adds no <bos>, and names a wrong end of text for SmolLM2; and no
release up to 5.23 parts digits where the file says `smollm`. None of it raises, so it is built
here. Covers the two kinds that the networks have; another kind is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sources import ModelsError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

SPACE = "▁"
"""How a space is spelt in a vocabulary of sentence pieces."""
SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def read_fields(path: Path) -> dict[str, Any]:
    """Return what a GGUF says of its tokenizer, without the prefixes of the names."""
    import gguf

    fields = gguf.GGUFReader(path).fields
    prefix = "tokenizer."
    return {
        name.removeprefix(prefix).removeprefix("ggml."): field.contents()
        for name, field in fields.items()
        if name.startswith(prefix)
    }


def byte_level(fields: dict[str, Any]) -> Tokenizer:
    """Return byte-level BPE whose numbers are cut into digits first (`smollm`)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: index for index, token in enumerate(fields["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_pieces(fields: dict[str, Any]) -> Tokenizer:
    """Return Gemma's BPE over sentence pieces, with bytes for what no piece spells.

    The file lists no merges. Each pair of pieces that makes a third is one, in the order of what
    they make. Runs of spaces stand in the file as spaces.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers.convert_slow_tokenizer import generate_merges

    tokens = [SPACE * len(token) if set(token) == {" "} else token for token in fields["tokens"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = generate_merges(vocabulary, {token: -index for token, index in vocabulary.items()})
    unknown = tokens[fields["unknown_token_id"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


KINDS = {("gpt2", "smollm"): byte_level, ("llama", "default"): sentence_pieces}
"""By the file's `model` and `pre`."""


def add_whole_tokens(tokenizer: Tokenizer, fields: dict[str, Any]) -> None:
    """Keep the file's control tokens and user-defined tokens whole, whatever text they are in."""
    import gguf
    from tokenizers import AddedToken

    kinds = {gguf.TokenType.CONTROL: True, gguf.TokenType.USER_DEFINED: False}
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kinds[kind], normalized=False)
            for token, kind in zip(fields["tokens"], fields["token_type"], strict=True)
            if kind in kinds and tokenizer.token_to_id(token) is not None
        ]
    )


def build(path: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a GGUF, with its special tokens and its chat template.

    Raises:
        ModelsError: the tokenizer is of a kind that is not built here.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    fields = read_fields(path)
    kind = (fields["model"], fields["pre"])
    if kind not in KINDS:
        raise ModelsError(f"{path}: a tokenizer of the kind {kind} is not built here")
    tokenizer = KINDS[kind](fields)
    add_whole_tokens(tokenizer, fields)
    names = {name: fields["tokens"][fields[key]] for name, key in SPECIAL.items() if key in fields}
    if fields.get("add_bos_token", False):
        first = names["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A",
            pair=f"{first} $A {first} $B:1",
            special_tokens=[(first, fields["bos_token_id"])],
        )
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    made.chat_template = fields.get("chat_template")
    return made
