"""Files and folders that appear under their name complete or not at all.

Imports the standard library and the errors only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from plop_lora.errors import OutputError

_RANDOM_LETTERS = 8
"""At the end of the temporary names that `tempfile` makes."""


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[str]]:
    """Open a text file that appears under its name only when it is complete.

    The text goes to a temporary file in the same folder, is synced, and then renamed. Whatever
    ends the block early (an exception, Ctrl-C, a full disk) leaves an older file untouched and
    no temporary file behind. A link is followed, an older file's permissions are kept.

    Raises:
        OutputError: the folder or the file cannot be written, or the disk is full.
    """
    temporary: str | None = None
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=target.parent, text=True)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(target))
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise OutputError(_write_failure(path, error)) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _mode(path: Path) -> int:
    """Return the permissions of an older file there, or those of a new file."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder that takes the name `path` only when the block has filled it.

    It stands beside `path` under a temporary name. A folder already there is moved aside, replaced
    and deleted; whatever ends the block early leaves it untouched and nothing else behind. Whether
    it may be replaced is the caller's question.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield temporary
        temporary.chmod(0o755)
        _swap(temporary, path)
    except OSError as error:
        raise OutputError(_write_failure(path, error)) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove what a kill in the middle of `atomic_file` or `atomic_folder` has left behind.

    Args:
        folder: that no other process writes to now.
        names: of the files and folders that are written there.
    """
    for name in names:
        for path in folder.glob(f".{name}.{'?' * _RANDOM_LETTERS}"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


def _swap(new: Path, path: Path) -> None:
    """Put a folder in the place of another; the old one comes back if that fails."""
    if not path.exists():
        os.replace(new, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        os.replace(path, old)
        try:
            os.replace(new, path)
        except OSError:
            os.replace(old, path)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Refuse an output path now, before the work whose result it should hold.

    Raises:
        OutputError: `path` is a folder, a device or a read-only file, or the nearest existing
            folder above it takes no file.
    """
    if path.is_dir():
        raise OutputError(f"Cannot write {path}: it is a folder. Give a file name inside it.")
    if path.exists() and not path.is_file():
        raise OutputError(
            f"Cannot write {path}: it is not a plain file. To print a record, use --format json."
        )
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"Cannot write {path}: it is read-only. Choose another path with -o.")
    folder = Path(os.path.realpath(path)).parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(_write_failure(path, error)) from error


def _write_failure(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"Cannot write {path}: the disk is full. Nothing was changed; "
            "free some space or choose another path with -o."
        )
    reason = error.strerror or str(error)
    return f"Cannot write {path}: {reason}. Choose a path that you may write with -o."
