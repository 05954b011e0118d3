"""Where personal data and secrets stand in rows: counts, rows and fields, and never a value."""

from __future__ import annotations

import bisect
import contextlib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from plop_lora.acquisition.personal.patterns import PATTERNS, Place
from plop_lora.acquisition.personal.phones import (
    IsNumber,
    library_check,
    looks_like_a_number,
    phone_places,
)
from plop_lora.acquisition.personal.secrets import Find, secrets_finder
from plop_lora.data.reading import Row
from plop_lora.errors import MissingExtraError, check_installed
from plop_lora.escapes import escaped
from plop_lora.recipe.acquire import PersonalSettings
from plop_lora.records import PersonalPlace, Side

OWN = "own patterns"
_SECRETS, _PHONES = "detect_secrets", "phonenumbers"
_BY_SECRETS = ("api-key", "password", "private-key")
_MOST_NAME = 60


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """What looks for personal data and secrets in this environment.

    Attributes:
        find: Function that yields the kind and place of everything that it finds in a text.
        detectors: Names and versions of the libraries that take part.
        missing: What is not installed and would find more.
    """

    find: Find
    detectors: tuple[str, ...]
    missing: tuple[str, ...]

    @classmethod
    @contextlib.contextmanager
    def opened(cls, settings: PersonalSettings) -> Iterator[Detection]:
        """Yield the detection of the kinds that the settings name, with what is installed."""
        wanted = frozenset(settings.kinds)
        useful = [_SECRETS] if wanted.intersection(_BY_SECRETS) else []
        useful += [_PHONES] if "phone" in wanted else []
        there = [name for name in useful if _is_installed(name)]
        detectors = (OWN, *(f"{name.replace('_', '-')} {_version(name)}" for name in there))
        is_number = library_check() if _PHONES in there else looks_like_a_number
        with contextlib.ExitStack() as stack:
            more = stack.enter_context(secrets_finder()) if _SECRETS in there else None
            yield cls(
                _finder(wanted, settings.regions, is_number, more),
                detectors if wanted else (),
                tuple(name.replace("_", "-") for name in useful if name not in there),
            )


def _is_installed(module: str) -> bool:
    try:
        check_installed(module)
    except MissingExtraError:
        return False
    return True


def _version(module: str) -> str:
    return metadata.version(module.replace("_", "-"))


def _finder(
    wanted: frozenset[str], regions: Sequence[str], is_number: IsNumber, more: Find | None
) -> Find:
    patterns = [pattern for pattern in PATTERNS if pattern.kind in wanted]

    def candidates(text: str) -> Iterator[tuple[str, Place]]:
        for pattern in patterns:
            yield from ((pattern.kind, place) for place in pattern.places(text))
        if "phone" in wanted:
            places = phone_places(text, regions, is_number)
            yield from (("phone", place) for place in places)
        if more is not None:
            yield from ((kind, place) for kind, place in more(text) if kind in wanted)

    def find(text: str) -> Iterator[tuple[str, Place]]:
        taken: list[Place] = []
        for kind, place in candidates(text):
            if _claimed(place, taken):
                yield kind, place

    return find


def _claimed(place: Place, taken: list[Place]) -> bool:
    """Add a place to others, which are sorted; return False where it overlaps one of them."""
    index = bisect.bisect(taken, place)
    before, after = taken[index - 1 : index], taken[index : index + 1]
    if any(other[1] > place[0] for other in before) or any(other[0] < place[1] for other in after):
        return False
    taken.insert(index, place)
    return True


def places_in(
    side: Side, rows: Sequence[Row], numbers: Sequence[int], find: Find
) -> list[PersonalPlace]:
    """Return where something stands, by row, field and kind.

    Every text and whole number of a row is looked at, in lists and objects too, and so are names of
    fields. A field in whose name something stands is reported by its position.

    Args:
        side: Set that the rows belong to.
        rows: Rows to look at.
        numbers: Their numbers in the source.
        find: Function of a `Detection`.
    """
    names: dict[str, tuple[str, Counter[str]]] = {}
    places = []
    for row, number in zip(rows, numbers, strict=True):
        for position, (name, value) in enumerate(row.items(), start=1):
            if name not in names:
                kinds = Counter(kind for kind, _ in find(name))
                shown = f"field {position}" if kinds else escaped(name)[:_MOST_NAME]
                names[name] = (shown, kinds)
            shown, kinds = names[name]
            total = kinds + Counter(kind for text in _texts(value) for kind, _ in find(text))
            places += [
                PersonalPlace(side=side, row=number, field=shown, kind=kind, count=count)
                for kind, count in sorted(total.items())
            ]
    return places


def _texts(value: object) -> Iterator[str]:
    """Yield every text and whole number in a value, wide digits and letters as usual ones."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            yield part if part.isascii() else unicodedata.normalize("NFKC", part)
        elif isinstance(part, int) and not isinstance(part, bool):
            yield str(part) if abs(part) < 10**20 else ""
        elif isinstance(part, Mapping):
            left += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple):
            left += part
