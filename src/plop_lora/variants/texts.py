"""Variants of the texts: functions from documents to documents, one for each, seeded by the text.

The special tokens of a text that a chat template has written stay as they are. No torch.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from plop_lora.data.general_text import texts_of
from plop_lora.data.texts import Document

PLACE = "{text}"
"""What stands for the text in a prompt."""
WORDS_BETWEEN_TYPOS = 10
CHARACTERS_BETWEEN_NOISE = 20
_SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?#*/ "
_WORD = re.compile(r"[^\W\d_]{3,}")
_JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")

Change = Callable[[str, random.Random], str]


def changed(
    documents: Sequence[Document], change: Change, seed: int, special: Sequence[str] = ()
) -> list[Document]:
    """Return documents with their text and target changed.

    Args:
        documents: The documents.
        change: Function from a text and a generator to the changed text.
        seed: Seed of the generator; a text is changed in the same way wherever it stands.
        special: Special tokens, which stay as they are in a rendered text.
    """
    marks = sorted(filter(None, special), key=len, reverse=True)
    between = re.compile("({})".format("|".join(map(re.escape, marks)))) if marks else None

    def apply(text: str, rendered: bool) -> str:
        generator = random.Random(f"{seed} {text}")
        if not rendered or between is None:
            return change(text, generator)
        parts = between.split(text)
        return "".join(p if i % 2 else change(p, generator) for i, p in enumerate(parts))

    return [
        replace(
            document,
            text=apply(document.text, document.rendered),
            target=None if document.target is None else apply(document.target, document.rendered),
        )
        for document in documents
    ]


def with_typos(text: str, generator: random.Random) -> str:
    """Return a text with a typing error in one word of ten, and in one word at least.

    An error exchanges two letters that follow each other, drops one, or doubles one.
    """
    words = list(_WORD.finditer(text))
    if not words:
        return text
    count = max(1, round(len(words) / WORDS_BETWEEN_TYPOS))
    for word in sorted(generator.sample(words, count), key=lambda found: -found.start()):
        text = f"{text[: word.start()]}{_mistyped(word[0], generator)}{text[word.end() :]}"
    return text


def _mistyped(word: str, generator: random.Random) -> str:
    place = generator.randrange(len(word) - 1)
    first, second = word[place], word[place + 1]
    return (
        word[:place]
        + generator.choice((second + first, second, first * 2 + second))
        + (word[place + 2 :])
    )


def with_noise(text: str, generator: random.Random) -> str:
    """Return a text with one character of twenty replaced by another, and one at least."""
    if not text:
        return text
    count = max(1, round(len(text) / CHARACTERS_BETWEEN_NOISE))
    characters = list(text)
    for place in generator.sample(range(len(text)), count):
        characters[place] = generator.choice(_SIGNS)
    return "".join(characters)


def first_half(text: str, generator: random.Random) -> str:
    """Return the first half of the characters of a text, up to the end of a word."""
    half = text[: -(-len(text) // 2)]
    return half.rsplit(None, 1)[0] if len(half.split()) > 1 else half


def prompted(documents: Sequence[Document], prompt: str) -> list[Document]:
    """Return documents with a prompt around their text, which stands for `{text}` in it."""
    return [replace(item, text=prompt.replace(PLACE, item.text)) for item in documents]


def rendered(documents: Sequence[Document], chat: Callable[..., str]) -> list[Document]:
    """Return every document as a message of the user, and its target as the answer."""

    def render(document: Document) -> Document:
        messages = [{"role": "user", "content": document.text}]
        if document.target is not None:
            messages.append({"role": "assistant", "content": document.target})
        return replace(document, text=chat(messages), target=None, rendered=True)

    return [render(document) for document in documents]


def without_special(documents: Sequence[Document], special: Sequence[str]) -> list[Document]:
    """Return rendered documents without the special tokens of their template."""
    marks = sorted(filter(None, special), key=len, reverse=True)
    between = re.compile("|".join(map(re.escape, marks)) or r"(?!)")
    return [replace(item, text=between.sub("", item.text), rendered=False) for item in documents]


def of_random_words(documents: Sequence[Document], seed: int) -> list[Document]:
    """Return a text of random English words for each document, as many words as it has.

    The words are those of the bundled general text, each as likely as any other. Texts without
    spaces between words get one for eight characters.
    """
    words = sorted({word.lower() for text in texts_of("english") for word in _WORD.findall(text)})

    def made(document: Document) -> Document:
        text = document.text + (document.target or "")
        generator = random.Random(f"{seed} {text}")
        count = max(1, len(text.split()), len(text) // 8)
        return Document(" ".join(generator.choices(words, k=count)))

    return [made(document) for document in documents]


def mostly_japanese(documents: Sequence[Document]) -> bool:
    """Return whether most letters of the texts are Japanese."""
    text = "".join(document.text for document in documents)
    letters = _LETTER.findall(text)
    return sum(1 for letter in letters if _JAPANESE.match(letter)) * 2 > len(letters)
