"""Files and folders that appear under their name complete or not at all.

A temporary name holds its machine and process, so that the next write into the same folder can
remove what a killed process left. Imports the standard library and the errors only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from plop_lora.errors import OutputError, UsageError

_WEIGHTS = re.compile(r"(adapter_|pytorch_)?model\b.*\.(safetensors|bin)|.*\.gguf")
_TEMPORARY = re.compile(r"\.plop-(?P<host>[0-9a-f]+)-(?P<process>\d+)-.*\.tmp")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[str]]:
    """Open a text file that appears under its name only when it is complete.

    The text goes to a temporary file in the same folder, is synced, and then renamed. Whatever
    ends the block early (an exception, Ctrl-C, a full disk) leaves an older file untouched and
    no temporary file behind; what a kill leaves goes with the next write into the folder. A link
    is followed, an older file's permissions are kept.

    Raises:
        OutputError: The folder or the file cannot be written, or the disk is full.
    """
    temporary: str | None = None
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent)
        handle, temporary = tempfile.mkstemp(**_naming(), dir=target.parent, text=True)
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


def try_lock(file: IO[str]) -> bool:
    """Lock an open file for this process, until it is closed or the process ends.

    Where the system or the file system has no locks, as on Windows and on some clusters, nothing
    is locked and the result is True: two runs in one folder would then repeat each other.

    Returns:
        Whether this process may go on; False where another one holds the lock.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the name `path` only when the block is complete.

    Until then it has a temporary name beside `path`. A folder already at `path` is replaced and
    deleted; an exception inside the block leaves it untouched and nothing else behind. The caller
    decides whether it may be replaced.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        temporary = Path(tempfile.mkdtemp(**_naming(), dir=path.parent))
        yield temporary
        temporary.chmod(0o755)
        _swap(temporary, path)
    except OSError as error:
        raise OutputError(_write_failure(path, error)) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Replace a folder by another; if that fails, the old one is put back."""
    if not path.exists():
        os.replace(new, path)
        return
    old = Path(tempfile.mkdtemp(**_naming(), dir=path.parent))
    try:
        os.replace(path, old)
        try:
            os.replace(new, path)
        except OSError:
            os.replace(old, path)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def cache_folder() -> Path | None:
    """Return the folder of what may be computed again, `$XDG_CACHE_HOME/plop-lora` or `~/.cache`.

    None where `PLOP_CACHE` says that nothing is kept, and for a user without a home.
    """
    if os.environ.get("PLOP_CACHE", "1").lower() in ("0", "false", "no", "off"):
        return None
    base = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RuntimeError):
        return (Path(base) if base else Path.home() / ".cache") / "plop-lora"
    return None


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files and folders whose process of this machine is gone.

    Those of a living process, of another machine that shares the disk, and whatever else lies
    there stay. What cannot be removed is left for the next time.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if not found or found["host"] != _host() or _is_alive(int(found["process"])):
                continue
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def _naming() -> dict[str, str]:
    """Return the prefix of a temporary name, with its machine and process, and the suffix."""
    return {"prefix": f".plop-{_host()}-{os.getpid()}-", "suffix": ".tmp"}


def _host() -> str:
    """Return a name of the machine or container that the process ids belong to."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_alive(process: int) -> bool:
    """Whether a process of this machine runs; True where the system does not tell."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


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
            f"Cannot write {path}: it is not a plain file. To print a record, use -o -."
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


def check_not_input(path: Path, *inputs: str | Path | None) -> None:
    """Refuse an output path that is one of the inputs, by whatever name or link.

    Raises:
        UsageError: The output path is an input, which the text names.
    """
    for source in inputs:
        if source is not None and _is_same_file(path, source):
            raise UsageError(
                f"-o {path} is {source}, which is read here and would be lost. "
                "Give another path with -o."
            )


def _is_same_file(path: Path, other: str | Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):  # one is not there, or is the name of a data set
        return False


def check_not_foreign(path: Path, ours: Callable[[Path], bool]) -> None:
    """Refuse to replace a file that is not ours, and to write among the files of a model.

    Args:
        path: Path of the file to be written.
        ours: Function that says whether an existing file is one of ours and may be replaced.

    Raises:
        UsageError: The file is not ours, or its folder holds weights. The text says how to write
            there all the same.
    """
    anyway = "Give another path with -o, or write there all the same with --force."
    if path.is_file() and path.stat().st_size and not ours(path):
        raise UsageError(f"{path} is there already and was not written by plop-lora. {anyway}")
    weights = weights_in(path.parent)
    if weights is not None:
        raise UsageError(
            f"{path.parent} is the folder of a model or of a trained adapter: it holds {weights}. "
            f"{anyway}"
        )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the content of a file, as hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_in(folder: Path) -> str | None:
    """Return the name of a file of weights in the folder of a model or adapter, else None."""
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return None
    names = sorted(entry.name for entry in folder.iterdir() if _WEIGHTS.fullmatch(entry.name))
    return next(iter(names), None)


def size(number: int) -> str:
    """Return a number of bytes as a person reads it.

    >>> size(0), size(1536), size(3 * 2**30)
    ('0 bytes', '1.5 KiB', '3.0 GiB')
    """
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} bytes"


def _write_failure(path: Path, error: OSError) -> str:
    reason = _REASONS.get(error.errno or 0)
    if reason is None:
        return (
            f"Cannot write {path}: the system says {error.strerror or error}. "
            "Choose another path with -o."
        )
    return f"Cannot write {path}: {reason}"


_FULL = "the disk is full. Nothing was changed; free some space or choose another path with -o."
_QUOTA = (
    "your share of the disk is used up. Nothing was changed; free some space or choose another "
    "path with -o."
)
_RIGHTS = "you have no right to write there. Choose a path that you may write with -o."
_REASONS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _QUOTA,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "the disk is mounted read-only. Choose a path on another disk with -o.",
    errno.ENOTDIR: "a part of the path is a file, not a folder. Choose another path with -o.",
    errno.EEXIST: "a part of the path is a file, not a folder. Choose another path with -o.",
    errno.ENAMETOOLONG: "the name is too long for this disk. Choose a shorter one with -o.",
    errno.ELOOP: "its links lead in a circle. Choose another path with -o.",
    errno.EIO: "the disk reports an error. Choose a path on another disk with -o.",
}
"""Reason for each error code of the system, with what the user can do about it."""
