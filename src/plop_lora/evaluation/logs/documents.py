"""JSON documents of a log: from a file, a line, or a member of a zip archive.

Errors name the place. An archive is read member by member, and a member that unpacks to more than
`LARGEST_MEMBER` is refused, so that a small file cannot fill the memory.
"""

from __future__ import annotations

import contextlib
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plop_lora.errors import DataError, require
from plop_lora.evaluation.logs.log import clean
from plop_lora.files import file_digest

LARGEST_MEMBER = 1 << 28
"""Most bytes that a member of an archive may have when it is unpacked."""
LARGEST_DOCUMENT = 1 << 30
"""Most bytes of a JSON file, which has to be in memory at once."""
_ZSTANDARD = 93
"""Number of the compression in the zip format. Python reads it from 3.14 on."""


def parsed(text: str | bytes, where: str) -> Mapping[str, Any]:
    """Return a JSON object.

    Args:
        text: The document.
        where: Place of the document, for errors.

    Raises:
        DataError: It is damaged, or not an object.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        line = f" in its line {error.lineno}" if error.lineno > 1 else ""
        raise DataError(
            f"{where} is not complete JSON ({error.msg}{line}). The file was cut off or damaged: "
            "copy it again, or run the suite again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} cannot be read as JSON: {clean(error)}.") from error
    if not isinstance(found, dict):
        raise DataError(f"{where} is a JSON {type(found).__name__}, and a log has an object there.")
    return found


def read_document(path: Path) -> Mapping[str, Any]:
    """Return the JSON object of a file.

    Raises:
        DataError: It cannot be read, is larger than `LARGEST_DOCUMENT`, or is no JSON object.
    """
    try:
        if path.stat().st_size > LARGEST_DOCUMENT:
            raise DataError(
                f"{path} has more than {LARGEST_DOCUMENT >> 20} MiB, which would have to be in "
                "memory at once. Convert an Inspect log: inspect log convert --to eval."
            )
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    return parsed(text, str(path))


def digest_of(path: Path) -> str:
    """Return the hash of the bytes of a file.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """An open zip archive, whose members are JSON objects.

    Attributes:
        path: Path of the archive.
        file: The open archive.
    """

    path: Path
    file: zipfile.ZipFile

    @property
    def names(self) -> list[str]:
        """The names of the members, in the order of the archive."""
        return self.file.namelist()

    def document(self, name: str) -> Mapping[str, Any]:
        """Return the JSON object of a member.

        Raises:
            DataError: The member is damaged, larger than `LARGEST_MEMBER`, or no JSON object.
        """
        where = f"{self.path}, member {clean(name)},"
        try:
            with self.file.open(name) as member:
                # The size that the archive states may be a lie, so one byte more is asked for.
                text = member.read(LARGEST_MEMBER + 1)
        except Exception as error:  # every method of compression raises errors of its own
            raise DataError(
                f"{where} is damaged or encrypted: {clean(error)}. Copy the log again."
            ) from error
        if len(text) > LARGEST_MEMBER:
            raise DataError(
                f"{where} unpacks to more than {LARGEST_MEMBER >> 20} MiB, which no sample of text "
                "needs. Run the suite without images: inspect eval --no-log-images."
            )
        return parsed(text, where)


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip archive.

    Raises:
        DataError: The file is no zip archive, or is damaged.
        MissingExtraError: The archive is compressed with Zstandard, which this version of Python
            reads with a package only.
    """
    try:
        file = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(
            f"{path} is no complete zip archive: {clean(error)}. The end of an archive is written "
            "last, so this one was cut off or damaged: copy it again."
        ) from error
    with file:
        packed = any(member.compress_type == _ZSTANDARD for member in file.infolist())
        if packed and sys.version_info < (3, 14):
            require("zipfile_zstd")  # teaches it to the standard library, as in Inspect itself
        yield Archive(path, file)
