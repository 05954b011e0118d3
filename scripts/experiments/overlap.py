"""The reward and the metric of the pair that is trained by GRPO: the words shared with a reference.

Only the first line of an answer counts, since that is what was asked for. Imports no torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

REWARD, METRIC = "scripts.experiments.overlap:reward", "scripts.experiments.overlap:judged"
"""As trials import them, which run from the root of the repository."""


def overlap(answer: str, reference: str) -> float:
    r"""Return the F1 score of the words of an answer's first line, from 0 to 1.

    >>> overlap(" Return the width.\nMore", " Return the width of a window.")
    0.6666666666666666
    """
    answered, wanted = (Counter(_words(text)) for text in (answer, reference))
    shared = (answered & wanted).total()
    return 2 * shared / (answered.total() + wanted.total()) if shared else 0.0


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.strip().partition("\n")[0].lower())


def reward(completions: Sequence[str], solution: Sequence[str], **columns: object) -> list[float]:
    """Return the overlap of each completion with its row's reference, as TRL asks for it."""
    return [overlap(text, right) for text, right in zip(completions, solution, strict=True)]


def judged(
    prompts: Sequence[str], answers: Sequence[str], rows: Sequence[Mapping[str, str]]
) -> list[float]:
    """Return the overlap of each greedy answer with its row's reference."""
    return [overlap(text, row["completion"]) for text, row in zip(answers, rows, strict=True)]
