"""The bundled general text: English and Japanese prose, and source code, written for this project.

The loss on it shows what a finetune costs elsewhere. The texts belong to no task, and their files
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
        lines = (_FOLDER / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
        placed += [
            ((index + 0.5) / len(lines), language, json.loads(line)["text"])
            for index, line in enumerate(lines)
        ]
    return [text for *_, text in sorted(placed)][:most]
