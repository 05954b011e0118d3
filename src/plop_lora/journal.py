"""A file of lines that is only ever appended to, by one process at a time.

A process that is killed leaves at most one line that is incomplete, which the next one removes. The
first line is the header, which says what the file is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from plop_lora.errors import OutputError, RecordError, UsageError
from plop_lora.files import check_writable, try_lock


@dataclass(frozen=True, slots=True, eq=False)
class Journal:
    """An open file with the lines that it held when it was opened, its header first.

    Attributes:
        path: Path of the file.
        what: What it holds, in one word, for errors: "evidence".
        lines: Its lines; none where it was made.
    """

    path: Path
    what: str
    lines: tuple[str, ...]
    _file: IO[str]

    def append(self, lines: list[str], *, sync: bool = True) -> None:
        """Append lines.

        Args:
            lines: Lines without their ends.
            sync: Whether to wait until they are on the disk.

        Raises:
            OutputError: The file cannot be written.
        """
        try:
            self._file.write("".join(f"{line}\n" for line in lines))
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise _not_written(self.path, self.what, error) from error


@contextlib.contextmanager
def opened_journal(path: Path, what: str, header: str) -> Iterator[Journal]:
    """Yield a journal that nobody else writes, and make it where there is none.

    The header of a file that was there is the first of its lines, which the reader checks.

    Args:
        path: Path of the file.
        what: What it holds, for errors.
        header: First line of a new file.

    Raises:
        OutputError: The file cannot be written.
        RecordError: It cannot be read, or is no file of lines that begins like this one.
        UsageError: Another process is writing it.
    """
    check_writable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8", newline="\n")
    except OSError as error:
        raise _not_written(path, what, error) from error
    with file:
        if not try_lock(file):
            raise UsageError(f"Another process is writing {path}. Wait for it to end.")
        lines, whole = complete_lines(path, what, header)
        journal = Journal(path, what, tuple(lines), file)
        try:
            file.truncate(whole)
        except OSError as error:
            raise _not_written(path, what, error) from error
        if not lines:
            journal.append([header])
        try:
            yield journal
        finally:
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())


def complete_lines(path: Path, what: str, header: str) -> tuple[list[str], int]:
    """Return the lines of a file, header included, and its length without an incomplete last line.

    Args:
        path: Path of the file.
        what: What it holds, for errors.
        header: First line of such a file, as far as it is known; an incomplete file may hold the
            beginning of it.

    Raises:
        RecordError: The file cannot be read, or holds no complete line and no beginning of one.
    """
    try:
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].decode("utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecordError(
            f"Cannot read the {what} {path}: {reason}. Remove the file, or give another path."
        ) from error
    if not lines and not header.encode().startswith(content):
        raise RecordError(f"{path} is no file of {what}. Give another path.")
    return lines, whole


def _not_written(path: Path, what: str, error: OSError) -> OutputError:
    return OutputError(
        f"Cannot write the {what} {path}: {error.strerror or error}. What is in the file is kept; "
        "make room, and run the same command again to go on."
    )
