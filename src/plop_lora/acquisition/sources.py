"""The rows of a source, with what identifies it: a SHA-256, or the commit of the hub. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plop_lora.acquisition.licences import Licence, licence_beside, licence_of_card
from plop_lora.data.lines import STDIN
from plop_lora.data.reading import Row, hub_name, open_rows
from plop_lora.data.revisions import commit_of, resolved
from plop_lora.errors import DataError, UsageError
from plop_lora.models.folders import expanded

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Rows that were read.

    Attributes:
        name: The user's name of the source.
        rows: All of its rows.
        sha256: SHA-256 of the file; None for the hub.
        revision: Commit on the hub; None for a file.
        licence: What is known of the licence.
    """

    name: str
    rows: Sequence[Row]
    sha256: str | None
    revision: str | None
    licence: Licence


def read_source(name: str, revision: str | None, stated: str | None) -> Source:
    """Read all rows of a file or of a data set of the hub.

    Args:
        name: File, folder of `datasets.save_to_disk`, or data set of the hub.
        revision: Branch, tag or commit on the hub.
        stated: Licence that the recipe states.

    Raises:
        DataError: There is no such data, a fault in it (with its line), or the file changes while
            it is read.
        UsageError: The source is standard input, which cannot be read again.
    """
    if name == STDIN:
        raise UsageError(
            "Standard input has no digest that could be recorded and compared. Save it as a file, "
            "and name that with --train or --eval."
        )
    path = Path(expanded(name))
    if path.exists():
        before = _digest(path)
        rows = list(open_rows(name))
        if _digest(path) != before:
            raise DataError(
                f"{name} changed while it was read. Wait until nothing writes it, and run the same "
                "command again."
            )
        return Source(name, rows, before, None, _stated(stated) or licence_beside(path))
    open_rows(name)  # says at once what is wrong with a name
    wanted = resolved(hub_name(name), revision)
    data = open_rows(name, revision=wanted.commit).read()
    commit = commit_of(data, wanted)
    return Source(name, list(data), None, commit, _stated(stated) or licence_of_card(wanted))


def _stated(licence: str | None) -> Licence | None:
    return None if licence is None else Licence(licence, "the recipe")


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the files of a folder with their names."""
    digest = hashlib.sha256()
    for file in _files(path):
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        try:
            with file.open("rb") as opened:
                while chunk := opened.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise DataError(f"Cannot read {file}: {error.strerror or error}.") from error
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    else:
        yield path
