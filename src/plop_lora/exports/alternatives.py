r"""Find alternatives in a regular expression that match nothing, as in `.*\.(q_proj|qq_proj)`.

A pattern that matches elsewhere hides them. Each is tried in the place of its group, which says
that it is dead only where the group stands once in a match: what is repeated, looked ahead or
referred back to is left out, and so is a pattern that takes too long. Pure but for the process in
which patterns are tried.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from plop_lora.exports.entries import listed
from plop_lora.exports.names import CONVERTED_LEAVES
from plop_lora.exports.patterns import any_matches

_OPENER = re.compile(r"\((?:\?(?:P<\w+>|[aiLmsu-]*:|>))?")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_LOOK = re.compile(r"\(\?<?[=!]")
_COMMENT = re.compile(r"\(\?#[^)]*\)")


@dataclass(slots=True)
class _Group:
    """A group of a pattern: where its content begins and ends, and where its bars stand.

    `once` is False where it can take part in a match more than once, or in none by itself.
    """

    start: int
    parent: _Group | None
    once: bool
    bars: list[int] = field(default_factory=list)
    end: int = 0

    def alternatives(self) -> list[tuple[int, int]]:
        """Return where each of its alternatives begins and ends; the whole content without bars."""
        edges = [self.start - 1, *self.bars, self.end]
        return [(before + 1, end) for before, end in itertools.pairwise(edges)]

    def stands_once(self) -> bool:
        """Whether it and all groups around it take part in a match at most once."""
        return self.once and (self.parent is None or self.parent.stands_once())


@dataclass(frozen=True, slots=True)
class _Alternative:
    """One alternative: its place in the pattern, and the pattern that has no other beside it."""

    start: int
    end: int
    alone: str


def dead_alternatives(
    document: Mapping[str, Any], modules: Collection[str], adapted: Collection[str]
) -> tuple[str, ...]:
    """Return one sentence for each pattern that holds alternatives which match nothing.

    Args:
        document: Content of an `adapter_config.json` whose patterns match something.
        modules: Names of all modules of the model.
        adapted: Names of the weights that the configuration adapts.
    """
    weights = [*adapted, *(f"{name}.weight" for name in adapted)]
    found = []
    for name, names in (("target_modules", adapted), ("exclude_modules", modules)):
        if isinstance(document.get(name), str):
            found.append(_sentence(name, document[name], r"(?:{})\Z", names))
    for name in ("rank_pattern", "alpha_pattern"):
        for key in document.get(name) or {}:
            found.append(_sentence(name, key, r"(?:.*\.)?(?:{})$", weights))
    return tuple(sentence for sentence in found if sentence)


def _sentence(name: str, pattern: str, around: str, names: Collection[str]) -> str:
    """Return a sentence about the dead alternatives of a pattern that matches, or ""."""
    candidates = list(_alternatives(pattern))
    if not candidates:
        return ""
    tried = (around.format(text) for text in (pattern, *(given.alone for given in candidates)))
    matched = any_matches(tuple(tried), names)
    if matched is None or not matched[0]:
        return ""
    dead = [given for given, alive in zip(candidates, matched[1:], strict=True) if not alive]
    outer = [given for given in dead if not any(_inside(given, other) for other in dead)]
    words = [pattern[given.start : given.end] for given in outer]
    shown = listed(word for word in words if not _converted(word, names))
    return f"{name} {pattern!r} has alternatives that match nothing: {shown}" if shown else ""


def _inside(given: _Alternative, other: _Alternative) -> bool:
    wide, narrow = other.end - other.start, given.end - given.start
    return wide > narrow and other.start <= given.start and given.end <= other.end


def _converted(word: str, names: Collection[str]) -> bool:
    """Whether PEFT turns the name into the stacked experts of a model that has them."""
    experts = any(re.search(r"(^|\.)experts\.", name) for name in names)
    return experts and any(leaf in word for leaf in CONVERTED_LEAVES)


def _alternatives(pattern: str) -> Iterator[_Alternative]:
    for group in _groups(pattern):
        if not group.bars or not group.stands_once():
            continue
        for start, end in group.alternatives():
            # One without a letter may match no text on purpose.
            if re.search(r"\w", pattern[start:end]):
                yield _Alternative(start, end, _alone(pattern, group, start, end))


def _alone(pattern: str, group: _Group, start: int, end: int) -> str:
    """Return a pattern without what stands beside an alternative, in its group or around it."""
    kept = pattern[start:end]
    while group.parent is not None:
        around = group.parent.alternatives()
        start, end = next(span for span in around if span[0] <= group.start <= span[1])
        kept = pattern[start : group.start] + kept + pattern[group.end : end]
        group = group.parent
    return kept


def _groups(pattern: str) -> list[_Group]:
    """Return the groups of a valid pattern; none where one group depends on another."""
    place = 0
    current = whole = _Group(0, None, once=True)
    groups = [whole]
    while place < len(pattern):
        rest = pattern[place]
        if rest == "\\":
            if pattern[place + 1 : place + 2] in tuple("123456789"):
                return []
            place += 2
        elif skipped := _CLASS.match(pattern, place) or _COMMENT.match(pattern, place):
            place = skipped.end()
        elif rest == "(":
            looks, opener = _LOOK.match(pattern, place), _OPENER.match(pattern, place)
            opened = looks or opener
            if opened is None or pattern[opened.end() : opened.end() + 1] == "?":
                return []
            current = _Group(opened.end(), current, once=looks is None)
            groups.append(current)
            place = opened.end()
        else:
            if rest == "|":
                current.bars.append(place)
            elif rest == ")" and current.parent is not None:
                current.end = place
                current.once &= pattern[place + 1 : place + 2] not in tuple("*+{")
                current = current.parent
            place += 1
    whole.end = len(pattern)
    return groups
