"""What is known of the licence of data: a file beside them, or the card of a hub data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plop_lora.data.revisions import HubRevision
from plop_lora.escapes import escaped

_NAMES = ("LICENSE", "LICENCE", "COPYING")
_SUFFIXES = ("", ".txt", ".md")
_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence in words and where it stands; both None where nothing is known."""

    text: str | None = None
    stands_in: str | None = None


def licence_beside(path: Path) -> Licence:
    """Return the first line of a licence file in the folder of a file, or in the folder itself."""
    folder = path if path.is_dir() else path.parent
    for name in (f"{name}{suffix}" for name in _NAMES for suffix in _SUFFIXES):
        try:
            with (folder / name).open("rb") as file:
                head = file.read(1 << 12).decode("utf-8", "replace")
        except OSError:
            continue
        lines = (line.strip().lstrip("#").strip() for line in head.splitlines())
        first = next((line for line in lines if line), None)
        if first is not None:
            return Licence(escaped(first)[:_LONGEST], escaped(str(folder / name)))
    return Licence()


def licence_of_card(found: HubRevision) -> Licence:
    """Return the licence on the card of a hub data set."""
    if not found.licence:
        return Licence()
    return Licence(escaped(found.licence)[:_LONGEST], f"the card of {escaped(found.name)}")
