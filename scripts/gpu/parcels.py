"""Make the parcels that a GPU machine without a network needs: wheels, study data, networks.

    python scripts/gpu/parcels.py [--pair PAIR …] [--network NAME …] [--output build/parcels]

Each numbered folder under `build/parcels` fits into one transfer and is carried as it is, in the
order of the numbers: what is needed first comes first. Every folder holds `SHA256SUMS` and
`plan.json`, which lists the files of all of them, so that the other side knows what is missing.

Without names it takes every pair of the study that is prepared, and their networks. Imports the
standard library and `packaging` only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))
from pairs import PAIRS, Pair

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "scripts" / "experiments"
PREPARED = "scores.json"
"""What `study.py prepare` writes last."""
MIB = 1 << 20
TRANSFER = 63 * MIB
"""Bytes of one transfer, the working tree among them."""
LARGEST = 58 * MIB
"""Bytes of a parcel, where the working tree leaves room for that."""

WHEELS = (
    "pydantic", "pydantic_core", "typing-inspection", "typing_extensions", "annotated-types",
    "datasets", "dill", "multiprocess", "fsspec", "trl", "peft", "gguf", "hqq",
    "termcolor",
)  # fmt: skip
LATE_WHEELS = ("bitsandbytes",)
"""Large, and needed by a single measurement, which leaves it out where it has not come."""
SDISTS = ("hqq",)
"""Published without a wheel; pure Python, so that one is built here."""
PINS = {"bitsandbytes": "0.50.2"}
"""Versions of what constraints.txt does not list."""
MACHINE = {
    "accelerate": "1.15.0", "aiohttp": None, "einops": None, "filelock": None,
    "huggingface-hub": "1.33.0", "jinja2": None, "numpy": "2.5.2", "packaging": None,
    "pandas": None, "protobuf": None, "psutil": None, "pyarrow": None, "pytest": None,
    "pyyaml": None, "requests": None, "rich": None, "safetensors": "0.8.0", "scipy": None,
    "sentencepiece": None, "tokenizers": "0.23.2", "torch": "2.11.0", "tqdm": None,
    "transformers": "5.17.0", "typer": None, "xxhash": None,
}  # fmt: skip
"""What the machine has, with the version where it is known."""
PLATFORMS = (
    "manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64",
    "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64",
)  # fmt: skip
ENVIRONMENT = {
    "python_version": "3.12", "python_full_version": "3.12.3", "sys_platform": "linux",
    "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix",
    "implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": "",
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """A file and its place in a parcel."""

    source: Path
    place: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.source.stat().st_size


# --------------------------------------------------------------------------- wheels


def pinned(names: Sequence[str]) -> list[str]:
    """Return `name==version` by constraints.txt, or by `PINS`.

    Raises:
        SystemExit: neither has a version.
    """
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    known = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in (PINS | known).items()}
    missing = [name for name in names if canonicalize_name(name) not in versions]
    if missing:
        raise SystemExit(f"constraints.txt has no version of {', '.join(missing)}. Add one.")
    return [f"{name}=={versions[canonicalize_name(name)]}" for name in names]


def fetch(names: Sequence[str], folder: Path) -> None:
    """Download the wheels for the other machine, and build those that are published as source."""
    wheels = pinned([name for name in names if name not in SDISTS])
    sources = pinned([name for name in names if name in SDISTS])
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    target = ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    if wheels:
        _run([*pip, "download", *quiet, *target, *platforms, "-d", str(folder), *wheels])
    if sources:
        _run([*pip, "wheel", *quiet, "-w", str(folder), *sources])


def build_own(folder: Path) -> None:
    """Build this project's wheel."""
    _run([sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command[:5])} … failed:\n{(done.stdout + done.stderr)[-3000:]}"
        )


def unmet(wheels: Iterable[Path]) -> Iterator[str]:
    """Go through the requirements that neither a carried wheel nor the machine meets."""
    headers = {wheel: _metadata(wheel) for wheel in wheels}
    have = {canonicalize_name(name): version for name, version in MACHINE.items()}
    have |= {canonicalize_name(h["Name"]): h["Version"] for h in headers.values()}
    for wheel, header in headers.items():
        for text in header.get_all("Requires-Dist") or ():
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate(ENVIRONMENT):
                continue
            name = canonicalize_name(requirement.name)
            if name not in have:
                yield f"{wheel.name} needs {text}, which is neither carried nor there"
            elif have[name] and not requirement.specifier.contains(have[name], prereleases=True):
                yield f"{wheel.name} needs {text}, and {name} is {have[name]}"


def _metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        pattern = re.compile(r"[^/]+\.dist-info/METADATA")
        name = next(name for name in archive.namelist() if pattern.fullmatch(name))
        return HeaderParser().parsestr(archive.read(name).decode("utf-8"))


# --------------------------------------------------------------------------- other contents


def split_networks(names: Iterable[str], folder: Path, part_mib: int) -> dict[str, list[str]]:
    """Split networks into parts, and return the files of each by its name."""
    made: dict[str, list[str]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        before = {path.name for path in folder.iterdir()}
        command = [sys.executable, str(EXPERIMENTS / "models.py"), name]
        _run([*command, "--split", str(folder), "--part-mib", str(part_mib)])
        made[name] = sorted({path.name for path in folder.iterdir()} - before)
    return made


def prepared(folder: Path, names: Sequence[str] | None) -> list[Pair]:
    """Return the pairs to carry, the shortest first; all that are prepared if none is named.

    Raises:
        SystemExit: a pair that is named is not prepared.
    """
    if names is None:
        names = [name for name in PAIRS if (folder / name / PREPARED).exists()]
    for name in names:
        if name not in PAIRS or not (folder / name / PREPARED).exists():
            raise SystemExit(
                f"{folder / name} is not prepared: scripts/experiments/study.py prepare {name}. "
                f"Pairs: {', '.join(PAIRS)}."
            )
    return sorted((PAIRS[name] for name in names), key=lambda pair: pair.order)


def study_items(folder: Path, pairs: Iterable[Pair]) -> Iterator[Item]:
    """Go through the prepared files of pairs."""
    for pair in pairs:
        for path in sorted((folder / pair.name).iterdir()):
            if path.is_file() and not path.name.startswith("."):
                yield Item(path, f"study/{pair.name}/{path.name}")


# --------------------------------------------------------------------------- grouping


def grouped(items: Iterable[Item], limit: int) -> list[list[Item]]:
    """Put each file into the first parcel that has room for it, in their order.

    Raises:
        SystemExit: a file is larger than a parcel.
    """
    parcels: list[list[Item]] = []
    for item in items:
        if item.size > limit:
            raise SystemExit(
                f"{item.source.name} has {item.size / MIB:.1f} MiB, and a parcel takes "
                f"{limit / MIB:.1f}. Split it into smaller parts."
            )
        room = (parcel for parcel in parcels if sum(i.size for i in parcel) + item.size <= limit)
        parcel = next(room, None)
        if parcel is None:
            parcels.append([item])
        else:
            parcel.append(item)
    return parcels


def written(parcels: list[list[Item]], output: Path, networks: dict[str, list[str]]) -> list[Path]:
    """Write the parcels in place of older ones, and return their folders."""
    folders = [output / f"{number:02}" for number in range(1, len(parcels) + 1)]
    files = {
        folder.name: [item.place for item in parcel]
        for folder, parcel in zip(folders, parcels, strict=True)
    }
    plan = json.dumps({"parcels": files, "networks": networks}, indent=1)
    shutil.rmtree(output, ignore_errors=True)
    for folder, parcel in zip(folders, parcels, strict=True):
        for item in parcel:
            target = folder / item.place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(item.source, target)
        (folder / "plan.json").write_text(plan)
        places = [*files[folder.name], "plan.json"]
        sums = (f"{digest(folder / place)}  {place}\n" for place in sorted(places))
        (folder / "SHA256SUMS").write_text("".join(sums))
    return folders


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_limit() -> int:
    """Return the bytes that one transfer leaves for a parcel beside the working tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (ROOT / name for name in done.stdout.split("\0") if name)
    tree = sum(path.stat().st_size for path in paths if path.is_file())
    return min(LARGEST, TRANSFER - tree)


def main() -> None:
    """Make the parcels and say how to carry them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "parcels")
    parser.add_argument("--study", type=Path, default=ROOT / "build" / "study")
    parser.add_argument("--pair", action="append", help="of the study; all if left out")
    parser.add_argument("--network", action="append", help="those of the pairs if left out")
    parser.add_argument("--part-mib", type=int, help="of a network's parts; as a parcel takes")
    parser.add_argument("--limit-mib", type=float, help="of a parcel")
    parser.add_argument("--wheels", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    limit = default_limit() if options.limit_mib is None else int(options.limit_mib * MIB)
    if options.part_mib is None:
        options.part_mib = max(1, limit // MIB)
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        items, late, networks = collected(options, temporary)
        parcels = grouped([*items, *late], limit)
        for folder in written(parcels, options.output, networks):
            print(told(folder))


def told(folder: Path) -> str:
    """Return a line on a parcel: what to carry, how large it is, what it holds."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    kinds = sorted({path.relative_to(folder).parts[0] for path in files if path.parent != folder})
    size = sum(path.stat().st_size for path in files) / MIB
    return f"{folder}: {size:.1f} MiB, {len(files)} files: {', '.join(kinds)}"


def collected(
    options: argparse.Namespace, temporary: Path
) -> tuple[list[Item], list[Item], dict[str, list[str]]]:
    """Make everything in a temporary folder, and return it in the order of need.

    Raises:
        SystemExit: a wheel needs what will not be there.
    """
    early, late = temporary / "early", temporary / "late"
    if options.wheels:
        build_own(early)
        fetch(WHEELS, early)
        fetch(LATE_WHEELS, late)
        lacking = list(unmet([*early.glob("*.whl"), *late.glob("*.whl")]))
        if lacking:
            raise SystemExit("\n".join(lacking))
    items = [Item(path, f"wheels/{path.name}") for path in sorted(early.glob("*.whl"))]
    pairs = prepared(options.study, options.pair)
    items += study_items(options.study, pairs)
    parts = temporary / "networks"
    names = options.network or dict.fromkeys(pair.network for pair in pairs)
    networks = split_networks(names, parts, options.part_mib)
    items += [
        Item(parts / file, f"networks/{file}") for files in networks.values() for file in files
    ]
    return items, [Item(p, f"wheels/{p.name}") for p in sorted(late.glob("*.whl"))], networks


if __name__ == "__main__":
    main()
