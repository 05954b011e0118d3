"""The files that events go to first: segments of lines in a folder that one process owns.

    spill/                                  folder that is given, for all processes
        3f2a…-8c1d…/                        folder of one process, as long as it has events there
            lock                            locked while the process lives
            00000001.jsonl                  a line for each event
        damaged-3f2a…-8c1d….jsonl           lines that could not be read

A lock of the system ends with its process, however that ends, so that the next process can tell
which folders nobody owns any more. Imports the standard library, events and the files; no database.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from plop_lora.ab.events import Event, EventKind
from plop_lora.errors import DataError, MachineError, OutputError
from plop_lora.files import atomic_folder

_LOCK = "lock"
_SEGMENT = re.compile(r"\d{8}\.jsonl")
_ONLY_MINE = 0o700
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW


# --------------------------------------------------------------------------- lines


def encode(events: Sequence[Event]) -> bytes:
    """Return a line for each event, which begins with a checksum of the rest of it."""
    return b"".join(map(_line, events))


def _line(event: Event) -> bytes:
    values = [
        event.id, event.kind, event.unit, event.at.astimezone(UTC).isoformat(), event.arm,
        event.name, event.value,
    ]  # fmt: skip
    body = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> Event:
    """Return the event of a line without its end.

    Raises:
        DataError: The line is not as `encode` wrote it.
    """
    try:
        checksum, body = line[:8], line[9:]
        if int(checksum, 16) != zlib.crc32(body):
            raise DataError("its checksum is another one")
        identity, kind, unit, at, arm, name, value = json.loads(body)
        return Event(
            id=identity, kind=EventKind(kind), unit=unit, at=datetime.fromisoformat(at), arm=arm,
            name=name, value=float(value),
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise DataError(f"The line is damaged: {error}") from error


# --------------------------------------------------------------------------- the folder


def make_folder(folder: Path) -> None:
    """Make the folder of all processes, which only this user can read.

    Raises:
        OutputError: It cannot be made, or other users may write into it.
    """
    try:
        folder.mkdir(mode=_ONLY_MINE, parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        raise OutputError(
            f"Cannot make the folder of events {folder}: {error.strerror or error}. Give the path "
            "of another folder."
        ) from error
    if mode & 0o022:
        raise OutputError(
            f"Other users may write into the folder of events {folder}, and so add events. Give "
            f"another folder, or type: chmod 700 {folder}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Queue:
    """The folder of one process, which is locked as long as this object is not released.

    Attributes:
        path: Path of the folder.
        lock: Descriptor of the open and locked file.
    """

    path: Path
    lock: int

    @classmethod
    def make(cls, folder: Path, digest: str) -> Self:
        """Make the folder of this process.

        Args:
            folder: Folder of all processes.
            digest: Digest of the experiment, which the name begins with.

        Raises:
            OutputError: It cannot be made, or the file system has no locks.
        """
        path = folder / f"{digest[:16]}-{uuid.uuid4().hex[:16]}"
        with atomic_folder(path) as temporary:
            # It is locked before it has its name, or another process would take it for abandoned.
            lock = os.open(temporary / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            _lock(lock)
        path.chmod(_ONLY_MINE)
        sync_folder(folder)
        return cls(path, lock)

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Return the folder of a process that has ended, or None if it lives or is not there."""
        lock = -1
        try:
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            _lock(lock)
        except OSError:
            if lock >= 0:
                os.close(lock)
            return None
        return cls(path, lock)

    def segments(self) -> list[Path]:
        """Return the files of lines, the oldest first."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(one for one in self.path.iterdir() if _SEGMENT.fullmatch(one.name))
        return []

    def release(self) -> None:
        """Give the folder up, and remove it if it has no segment."""
        if not self.segments():
            with contextlib.suppress(OSError):
                (self.path / _LOCK).unlink()
            with contextlib.suppress(OSError):
                self.path.rmdir()
        with contextlib.suppress(OSError):
            os.close(self.lock)


def _lock(descriptor: int) -> None:
    """Lock a file for this process.

    Raises:
        MachineError: The system has no such locks, without which nobody could tell whose events
            are left.
        OSError: Another process holds the lock, or the file system has none.
    """
    try:
        import fcntl
    except ImportError as error:
        raise MachineError(
            "This system has no file locks, by which the events of a process that has ended are "
            "found. Keep events on Linux or macOS, or store them at once with StoredRun.write."
        ) from error
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def abandoned(folder: Path, digest: str) -> Iterator[Queue]:
    """Yield the folders of processes that have ended, of an experiment, each locked."""
    name = re.compile(f"{digest[:16]}-[0-9a-f]{{16}}")
    for path in sorted(folder.iterdir()):
        if name.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            queue = Queue.take(path)
            if queue is not None:
                yield queue


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can say so."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --------------------------------------------------------------------------- segments


class Segment:
    """A file that lines are appended to.

    Attributes:
        path: Path of the file.
        usable: Whether lines may be appended; what is left of one ends its use.
    """

    def __init__(self, path: Path) -> None:
        """Make the file, which only this user can read."""
        self.path = path
        self._file = os.open(path, _APPEND | os.O_EXCL, 0o600)
        self.usable = True
        self._size = 0
        self._named = False

    def append(self, data: bytes) -> None:
        """Append lines; whatever was written of them is taken back if not all can be.

        Raises:
            OSError: They cannot be written, such as on a full disk.
        """
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            try:
                os.ftruncate(self._file, self._size)
            except OSError:
                self.usable = False
            raise
        self._size += len(data)

    def sync(self) -> None:
        """Wait until the file is on the disk, and its name.

        Raises:
            OSError: The disk reports an error.
        """
        os.fsync(self._file)
        if not self._named:
            sync_folder(self.path.parent)
            self._named = True

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            os.close(self._file)


@dataclass(slots=True, eq=False)
class Part:
    """A segment as far as it has been shipped.

    Attributes:
        path: Path of the segment.
        size: Bytes of the lines in it that were acknowledged.
        lines: Number of lines that are not shipped yet.
        shipped: Bytes that are shipped.
        closed: Whether nothing is appended any more.
    """

    path: Path
    size: int = 0
    lines: int = 0
    shipped: int = 0
    closed: bool = False

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return a segment of another process; an incomplete last line was never acknowledged.

        Raises:
            OSError: It cannot be read.
        """
        size = lines = position = 0
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                if b"\n" in block:
                    lines += block.count(b"\n")
                    size = position + block.rindex(b"\n") + 1
                position += len(block)
        return cls(path, size=size, lines=lines, closed=True)

    def next_lines(self, most: int) -> tuple[list[bytes], int]:
        """Return the next lines without their ends, and how many bytes they have with them.

        There are none where someone has removed or cut the file.

        Raises:
            OSError: They cannot be read.
        """
        lines: list[bytes] = []
        length = 0
        if not self.path.exists():
            return lines, length
        with self.path.open("rb") as file:
            file.seek(self.shipped)
            while len(lines) < most and self.shipped + length < self.size:
                line = file.readline()
                if not line:
                    break
                length += len(line)
                lines.append(line.removesuffix(b"\n"))
        return lines, length
