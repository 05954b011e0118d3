"""From a text to its tokens: as the tokenizer itself would make and cut them."""

from __future__ import annotations

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from plop_lora.data.texts import Document
from plop_lora.data.tokens import TokenSequence, encode
from plop_lora.errors import ModelError

MARKS = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}
WORDS = [f"w{n}" for n in range(20)]


def _tokenizer(single: str = "[CLS] $A [SEP]", **options: str):
    """Return a tokenizer of words that puts marks around a text."""
    vocabulary = MARKS | {word: 3 + n for n, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    marks = {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **marks | options)


def _encoded(
    document: Document, tokenizer: object, *, max_length: int = 50, two_sided: bool = False,
    **options: bool,
) -> tuple[TokenSequence, int]:  # fmt: skip
    (sequence,), cut, _ = encode(
        [document], tokenizer, max_length=max_length, vocabulary=None, encoder_decoder=two_sided,
        **options,
    )  # fmt: skip
    return sequence, cut


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_text_is_cut_as_the_tokenizer_cuts(side: str) -> None:
    """Without its closing token, or cut on the wrong side, a text is another to the model."""
    tokenizer = _tokenizer(truncation_side=side)
    text = " ".join(WORDS)
    sequence, cut = _encoded(Document(text), tokenizer, max_length=6)
    kept = [3, 4, 5, 6] if side == "right" else [19, 20, 21, 22]
    assert sequence.tokens == (1, *kept, 2)
    assert list(sequence.tokens) == tokenizer(text, truncation=True, max_length=6)["input_ids"]
    assert cut == 1


def test_both_sides_of_an_encoder_decoder_are_cut_so() -> None:
    text = " ".join(WORDS)
    sequence, cut = _encoded(Document(text, text), _tokenizer(), max_length=4, two_sided=True)
    assert sequence.tokens == sequence.target_tokens == (1, 3, 4, 2)
    assert cut == 1


@pytest.mark.parametrize("length", [1, 2])
def test_fewer_tokens_than_the_marks_take(length: int) -> None:
    document, options = Document("w1 w2 w3"), {"special_tokens": True}
    sequence, _ = _encoded(document, _tokenizer(), max_length=length, **options)
    assert len(sequence.tokens) == length


@pytest.mark.parametrize("text", ["w1 w2", "[CLS] w1 w2", "w1 w2 [SEP]", "[CLS] w1 w2 [SEP]"])
def test_marks_that_a_text_has_already_are_not_added_again(text: str) -> None:
    """A rendered chat in a text column would begin with two beginnings."""
    assert _encoded(Document(text), _tokenizer())[0].tokens == (1, 4, 5, 2)


def test_marks_of_a_text_are_kept_where_the_tokenizer_adds_none() -> None:
    assert _encoded(Document("[CLS] w1"), _tokenizer("$A"))[0].tokens == (1, 4)


def test_a_long_text_with_its_marks_is_cut_once() -> None:
    text = f"[CLS] {' '.join(WORDS)} [SEP]"
    sequence, _ = _encoded(Document(text), _tokenizer(), max_length=4)
    assert sequence.tokens == (1, 3, 4, 2)


def test_targets_are_tokenised_as_targets() -> None:
    """Translators mark the language of each side; a target marked as a source is another text."""

    class Translator(transformers.PreTrainedTokenizerFast):
        def _switch_to_target_mode(self) -> None:
            self._tokenizer.post_processor = processors.TemplateProcessing(
                single="[SEP] $A", special_tokens=[("[SEP]", 2)]
            )

        def _switch_to_input_mode(self) -> None:
            self._tokenizer.post_processor = processors.TemplateProcessing(
                single="[CLS] $A", special_tokens=[("[CLS]", 1)]
            )

    tokenizer = Translator(tokenizer_object=_tokenizer().backend_tokenizer)
    for document in (Document("w1", "w2"), Document("w1")):
        sequence, _ = _encoded(document, tokenizer, two_sided=True)
        assert sequence.tokens == (1, 4)
        assert sequence.target_tokens == (2, 5 if document.target else 4)


def test_the_vocabulary_of_each_side_is_checked_for_itself() -> None:
    """A translator's target language may have more tokens than its source language."""
    options = {"max_length": 9, "vocabulary": 5, "encoder_decoder": True}
    documents, tokenizer = [Document("w1", "w9")], _tokenizer()
    encode(documents, tokenizer, **options, target_vocabulary=13)
    with pytest.raises(ModelError, match="token number 12, but the model's embedding has 12"):
        encode(documents, tokenizer, **options, target_vocabulary=12)
