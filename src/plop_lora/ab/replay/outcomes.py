"""What became of a prompt at an arm, and the file in which it is kept. No torch.

The first line of the file says what was asked and how. Then follows a line for each prompt with the
outcomes at all arms, as soon as it is known; a kill loses no more than the prompts under way. A
later line of a prompt takes the place of an earlier one.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from plop_lora.errors import RecordError, UsageError
from plop_lora.journal import Journal, opened_journal
from plop_lora.records.reading import digest_of

KIND, VERSION, WHAT = "replay-answers", 1, "answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An answer, or why there is none.

    Attributes:
        text: The answer.
        tokens: Number of its tokens, where the endpoint says it.
        cut_off: Whether it ends at the most tokens allowed.
        first: Seconds to its first token; None where the request needed a second try.
        last: Seconds to its end; None likewise.
        failed: Why there is no answer, in a few words; empty where there is one.
        detail: What the endpoint said of the failure.
    """

    text: str = ""
    tokens: int | None = None
    cut_off: bool = False
    first: float | None = None
    last: float | None = None
    failed: str = ""
    detail: str = ""


Outcomes = Mapping[str, Outcome]
"""Arm → the outcome of one prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Everything on which the answers depend."""

    prompts: str
    url: str
    models: Mapping[str, str]
    adapters: Mapping[str, str | None]
    max_tokens: int
    temperature: float
    seed: int | None

    def header(self) -> str:
        """Return the first line of the file."""
        head = {"kind": KIND, "version": VERSION, "digest": digest_of(asdict(self))}
        return json.dumps(head | asdict(self))


@dataclass(slots=True)
class Answers:
    """The outcomes that are known, by the index of the prompt.

    Attributes:
        known: Index of a prompt → its outcomes.
    """

    known: dict[int, Outcomes] = field(default_factory=dict)
    _journal: Journal | None = None

    def add(self, index: int, outcomes: Outcomes) -> None:
        """Keep the outcomes of a prompt.

        Raises:
            OutputError: The file cannot be written.
        """
        self.known[index] = outcomes
        if self._journal is not None:
            line = {arm: asdict(outcome) for arm, outcome in outcomes.items()}
            self._journal.append([json.dumps({"prompt": index, "outcomes": line})], sync=False)

    def missing(self, count: int, *, again: bool) -> list[int]:
        """Return the prompts that are to be asked: those that are not known.

        Args:
            count: Number of all prompts.
            again: Whether those that failed at an arm are asked again.
        """
        return [
            index
            for index in range(count)
            if index not in self.known
            or (again and any(one.failed for one in self.known[index].values()))
        ]


@contextlib.contextmanager
def kept_answers(path: Path | None, asking: Asking, count: int) -> Iterator[Answers]:
    """Yield the outcomes that are kept in a file, with what an interrupted replay left in it.

    Args:
        path: Path of the file; None keeps them in memory only.
        asking: What they depend on.
        count: Number of prompts.

    Raises:
        OutputError: The file cannot be written.
        RecordError: There is a file that is damaged or of another kind.
        UsageError: There is a file with answers to something else, or another replay writes it.
    """
    if path is None:
        yield Answers()
        return
    with opened_journal(path, WHAT, asking.header()) as journal:
        answers = Answers(_known(journal.lines, path, asking, count), journal)
        try:
            yield answers
        finally:
            if not answers.known:  # of an endpoint that never answered
                path.unlink(missing_ok=True)


# --------------------------------------------------------------------------- reading


_AGAIN = "Remove the file, and the prompts are asked again."


def _known(lines: Sequence[str], path: Path, asking: Asking, count: int) -> dict[int, Outcomes]:
    known: dict[int, Outcomes] = {}
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if number == 1:
            _check_header(found, path, asking)
            continue
        outcomes = _outcomes(found, list(asking.models), count)
        if outcomes is None:
            raise RecordError(f"{path}, line {number} is no answer of this replay. {_AGAIN}")
        known[found["prompt"]] = outcomes
    return known


def _outcomes(found: Any, arms: Sequence[str], count: int) -> Outcomes | None:
    """Return the outcomes of a line, or None where it is damaged."""
    if not isinstance(found, dict) or not isinstance(given := found.get("outcomes"), dict):
        return None
    index = found.get("prompt")
    if type(index) is not int or not 0 <= index < count or sorted(given) != sorted(arms):
        return None
    outcomes = {arm: _outcome(given[arm]) for arm in arms}
    known = {arm: one for arm, one in outcomes.items() if one is not None}
    return known if len(known) == len(arms) else None


def _outcome(found: Any) -> Outcome | None:
    names = {one.name for one in fields(Outcome)}
    if not isinstance(found, dict) or found.keys() != names:
        return None
    texts = all(isinstance(found[name], str) for name in ("text", "failed", "detail"))
    numbers = [found[name] for name in ("tokens", "first", "last") if found[name] is not None]
    sound = all(
        type(value) in (int, float) and math.isfinite(value) and value >= 0 for value in numbers
    )
    return Outcome(**found) if texts and sound and isinstance(found["cut_off"], bool) else None


_PARTS = {
    "prompts": "other prompts",
    "url": "another endpoint",
    "models": "other arms or models",
    "adapters": "other adapters",
    "max_tokens": "another number of tokens",
    "temperature": "another temperature",
    "seed": "another seed",
}


def _check_header(found: Any, path: Path, asking: Asking) -> None:
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise RecordError(f"{path} holds no answers of a replay. Give another path.")
    if found.get("version") != VERSION:
        raise RecordError(
            f"{path} holds answers of version {found.get('version')!r}; this plop-lora reads "
            f"{VERSION}. {_AGAIN}"
        )
    ours = json.loads(asking.header())
    if found.get("digest") == ours["digest"]:
        return
    differing = [words for part, words in _PARTS.items() if found.get(part) != ours[part]]
    raise UsageError(
        f"{path} holds answers to {' and '.join(differing) or 'something else'}. Give another "
        "--answers, or remove the file to ask everything again."
    )
