"""The bundled general text: English and Japanese prose, and source code, written for this project.

The loss on it shows what a finetune costs elsewhere, and the scores on the English part what of a
ranking comes from the user's texts. The texts belong to no task, and their files
have a licence note beside them. No torch.
"""

from __future__ import annotations

import json
from pathlib import Path

LANGUAGES = ("english", "japanese", "code")
BUNDLED = "the bundled general text"
_FOLDER = Path(__file__).parent / "general"


def bundled_texts(most: int | None = None) -> list[str]:
    """Return the bundled texts, of which every beginning has its share of each language.

    Args:
        most: Largest number of texts; None returns all 300.

    >>> len(bundled_texts()), len(bundled_texts(30))
    (300, 30)
    """
    placed = []
    for language in LANGUAGES:
        texts = texts_of(language)
        placed += [((n + 0.5) / len(texts), language, text) for n, text in enumerate(texts)]
    return [text for *_, text in sorted(placed)][:most]


def passages(language: str, count: int, characters: int) -> list[str]:
    """Return passages of a language, each of as many bundled texts as its length needs.

    Args:
        language: One of `LANGUAGES`.
        count: Number of passages. No text is in two of them.
        characters: Least number of characters of a passage.

    Raises:
        ValueError: The bundled texts are too few for so many passages of that length.

    >>> [len(passage) >= 400 for passage in passages("english", 2, 400)]
    [True, True]
    """
    texts = iter(texts_of(language))
    made = []
    for _ in range(count):
        passage = next(texts, "")
        while len(passage) < characters and (following := next(texts, "")):
            passage += f"\n{following}"
        if len(passage) < characters:
            raise ValueError(f"There are no {count} passages of {characters} characters.")
        made.append(passage)
    return made


def texts_of(language: str) -> list[str]:
    """Return the bundled texts of one of `LANGUAGES`."""
    lines = (_FOLDER / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]
