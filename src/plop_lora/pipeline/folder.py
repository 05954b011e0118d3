"""The folder of a run: whose it is, which stages are done, and whether their files have changed.

    root/
        run.json              what the folder is; written first
        lock                  held by the process that works here
        recipe.yaml           the recipe of the last start, with the options of the command line
        stages/NAME-KEY/      the files of a stage: configuration.json first, DONE last
        scratch/NAME/         trials that outlive the key of a stage
        pipeline.json         the record of the last start, written after every stage

All paths inside are relative, so that a folder that was moved goes on. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plop_lora._version import __version__
from plop_lora.errors import RecordError, UsageError
from plop_lora.files import atomic_file, check_writable, file_digest, try_lock

MARK, LOCK, DONE, RECORD = "run.json", "lock", "DONE", "pipeline.json"
CONFIGURATION, ASKED = "configuration.json", "recipe.yaml"
FORMAT = 1
"""Version of the layout; a folder of a newer one is refused."""
_KIND = "plop-run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What `DONE` says of a stage.

    Attributes:
        key: Key of the stage.
        seconds: Time of the start that finished it.
        files: Path of each file in the folder of the stage → its SHA-256.
        plop_version: Version that made it.
    """

    key: str
    seconds: float
    files: Mapping[str, str]
    plop_version: str


@contextlib.contextmanager
def opened(root: Path) -> Iterator[None]:
    """Hold the folder of a run for this process, and make it where there is none.

    Raises:
        UsageError: Another process works in it, or it holds something else than a run.
        RecordError: A newer version has written it, or its mark is damaged.
        OutputError: It cannot be written.
    """
    check_run_folder(root)
    check_writable(root / MARK)
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("w") as lock:
        if not try_lock(lock):
            raise UsageError(
                f"Another plop run works in {root}. Wait for it, or name another folder with "
                "--folder."
            )
        if not (root / MARK).exists():
            with atomic_file(root / MARK) as file:
                json.dump({"kind": _KIND, "format": FORMAT}, file)
        yield


def is_busy(root: Path) -> bool:
    """Whether a process works in the folder of a run."""
    try:
        with (root / LOCK).open("r+") as lock:
            return not try_lock(lock)
    except OSError:
        return False


_ANOTHER = "Give the folder of a run, or a new or an empty one to begin a run."


def check_run_folder(root: Path) -> None:
    """Refuse a folder that is not one of a run of this version. An absent or empty one passes.

    Raises:
        UsageError: It holds something else, or is a file.
        RecordError: A newer version has written it, or its mark is damaged.
    """
    if not root.exists():
        return
    if not root.is_dir():
        raise UsageError(f"{root} is a file, and a run has a folder. {_ANOTHER}")
    mark = root / MARK
    if not mark.exists():
        if any(entry.name != LOCK and entry.name[0] != "." for entry in root.iterdir()):
            raise UsageError(
                f"The folder {root} holds something else than a run of plop. {_ANOTHER}"
            )
        return
    document = _read(mark, "Remove the folder if it is a run that you do not need.")
    if document.get("kind") != _KIND:
        raise UsageError(
            f"The folder {root} belongs to another verb of plop. Name another one with --folder."
        )
    if not isinstance(document.get("format"), int) or document["format"] > FORMAT:
        raise RecordError(
            f"The folder {root} was written by a newer plop-lora (format "
            f"{document.get('format')!r}; this one knows {FORMAT}). Upgrade with: pip install "
            "--upgrade plop-lora"
        )


def finished(folder: Path, key: str) -> Finished | None:
    """Return what is known of a finished stage, or None if it is not finished.

    Raises:
        RecordError: A file of the stage has changed since, is missing, or `DONE` is damaged. The
            text names it.
    """
    path = folder / DONE
    if not path.exists():
        return None
    hint = f"Remove the folder {folder} to make the stage again."
    document = _read(path, hint)
    try:
        done = Finished(**document)
        files = dict(done.files)
    except (TypeError, ValueError) as error:
        raise RecordError(f"{path} is damaged: {error}. {hint}") from error
    if done.key != key:
        raise RecordError(f"{path} belongs to another stage than its folder says. {hint}")
    for name, digest in files.items():
        _check_file(folder / name, digest, hint)
    return done


def _check_file(path: Path, digest: str, hint: str) -> None:
    try:
        found = file_digest(path)
    except OSError as error:
        raise RecordError(
            f"{path} of a finished stage cannot be read: {error.strerror or error}. {hint}"
        ) from error
    if found != digest:
        raise RecordError(
            f"{path} has changed since its stage was finished, so that what follows would rest on "
            f"something else than was computed. Put it back as it was. {hint}"
        )


def finish(folder: Path, key: str, seconds: float) -> Finished:
    """Say that a stage is finished, with the digest of each of its files.

    Raises:
        OutputError: The folder cannot be written.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DONE)
    files = {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}
    done = Finished(key=key, seconds=seconds, files=files, plop_version=__version__)
    with atomic_file(folder / DONE) as file:
        json.dump(asdict(done), file, indent=1)
    return done


def _read(path: Path, hint: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is damaged: {error}. {hint}") from error
    if not isinstance(document, dict):
        raise RecordError(f"{path} is damaged: it holds no JSON object. {hint}")
    return document
