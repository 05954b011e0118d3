"""A judge: what rates answers, and the file in which its judgements are kept. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from plop_lora.errors import MachineError, UsageError
from plop_lora.evaluation.judges.cache import Known, check_cache, opened_cache


class Item(NamedTuple):
    """An answer that is to be judged; `number` is its position in the list, from 1."""

    number: int
    prompt: str
    answer: str


Ratings = Generator[tuple[Item, float | None], None, None]
"""Items with their values, each as soon as it is known, in any order."""


class Rater(Protocol):
    """What judges answers: the extension point, with one implementation for each kind of judge."""

    @property
    def identity(self) -> str:
        """Everything that its values depend on, as one line of plain text without a secret."""
        ...

    def check(self) -> None:
        """Raise an error if it cannot work."""
        ...

    def rate(self, items: Sequence[Item]) -> Ratings:
        """Yield the value of each item as soon as it is known, in any order."""
        ...


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges answers, each of them once.

    Attributes:
        rater: The object that judges.
        cache: File in which the values are kept; None keeps none.
    """

    rater: Rater
    cache: Path | None = None

    @property
    def identity(self) -> str:
        """Everything that the values depend on, as one line of plain text without a secret."""
        return self.rater.identity

    def check(self) -> None:
        """Check that the judge can work, before any answer is generated.

        Raises:
            UsageError: The function, the address, the model or the key is wrong.
            MachineError: The endpoint cannot be reached or does not work.
            MissingExtraError: The client of endpoints is not installed.
            OutputError: The cache cannot be written.
        """
        self.rater.check()
        if self.cache is not None:
            check_cache(self.cache)

    def judge(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """Return a value for each answer: 1 is unsafe, 0 is safe, None is undecided.

        An answer whose value is in the cache is not judged again, and neither is a second copy of
        the same answer to the same prompt.

        Args:
            prompts: The prompts.
            answers: The answer to each prompt.

        Raises:
            DataError: A function failed on an item, or returned something else than a value.
            UsageError: The endpoint refuses the key, the model or the request.
            MachineError: The endpoint failed after all retries. What was judged is in the cache.
            RecordError: The cache is damaged or is another kind of file.
            OutputError: The cache cannot be written.
        """
        pairs = list(zip(prompts, answers, strict=True))
        with opened_cache(self.cache, self.identity) as known:
            numbers = {pair: number for number, pair in reversed(list(enumerate(pairs, start=1)))}
            missing = sorted(
                Item(number, *pair) for pair, number in numbers.items() if pair not in known
            )
            try:
                if missing:
                    self._rate(missing, known)
            except (MachineError, UsageError) as error:
                done = sum(pair in known for pair in pairs)
                raise type(error)(f"{error} {self._progress(done, len(pairs))}") from None
            return [known[pair] for pair in pairs]

    def _rate(self, missing: Sequence[Item], known: Known) -> None:
        with contextlib.closing(self.rater.rate(missing)) as ratings:
            for item, value in ratings:
                known.add((item.prompt, item.answer), value)

    def _progress(self, done: int, total: int) -> str:
        if self.cache is None:
            return f"{done} of {total} answers were judged, and none of them is kept in a file."
        return (
            f"{done} of {total} answers are judged and kept in {self.cache}. "
            "Run the same command again to go on from there."
        )
