"""Build the wheel and the sdist, look into both, and use each from an environment of its own.

    python scripts/release/distribution.py [--output dist] [--python python3.13] [--shared FOLDER]

The sdist is built from the working tree and the wheel from the sdist. twine and
check-wheel-contents check them, and `check_wheel` and `check_sdist` what is in them. Then each is
installed in an empty environment, where `plop --version`, `plop doctor` and `plop demo` run and the
package says where it was imported from. Both environments are removed again.

By default everything that plop-lora requires is installed too, as a user's `pip install` does. With
`--shared FOLDER` it is taken from the site-packages of another environment instead, which needs
seconds; plop-lora itself is always the one that was built.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import environments
from environments import ROOT, Environment, ReleaseError

SOURCE = ROOT / "src" / "plop_lora"
NOT_SHIPPED = ("tests", "build", "dist", "docs", "benchmarks", "scripts", "examples", "site")
"""Folders of the repository that neither archive holds."""
BESIDE = ("LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "pyproject.toml")
"""Files at the top that the sdist holds."""
SETTINGS = {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Archives:
    """The two files of a release."""

    wheel: Path
    sdist: Path


def build(output: Path) -> Archives:
    """Build the sdist, and the wheel from it; earlier files of the folder are removed.

    Raises:
        ReleaseError: The build fails, or leaves anything but one wheel and one sdist.
    """
    output.mkdir(parents=True, exist_ok=True)
    for old in (*output.glob("*.whl"), *output.glob("*.tar.gz")):
        old.unlink()
    environments.run([environments.uv(), "build", "--quiet", "--out-dir", output, ROOT])
    wheels, sdists = list(output.glob("*.whl")), list(output.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        raise ReleaseError(f"{output} has {len(wheels)} wheels and {len(sdists)} sdists.")
    return Archives(wheels[0], sdists[0])


def shipped() -> set[str]:
    """Return the files of the package, without what Python writes when it runs."""
    return {
        path.relative_to(SOURCE.parent).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def check_wheel(wheel: Path) -> None:
    """Check that a wheel holds the package with its data and licence, and nothing else.

    Raises:
        ReleaseError: A file is missing, or one is there that does not belong to it.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    about = {name for name in names if PurePosixPath(name).parts[0].endswith(".dist-info")}
    if not any(name.endswith("/licenses/LICENSE") for name in about):
        raise ReleaseError(f"{wheel.name} has no licence.")
    _compare(wheel.name, names - about, shipped())


def check_sdist(sdist: Path) -> None:
    """Check that an sdist holds the package and the files of `BESIDE`, and nothing else.

    Raises:
        ReleaseError: A file is missing, or one is there that does not belong to it.
    """
    with tarfile.open(sdist) as archive:
        paths = [PurePosixPath(one.name) for one in archive.getmembers() if one.isfile()]
    names = {PurePosixPath(*path.parts[1:]).as_posix() for path in paths}
    # hatchling adds both by itself.
    names -= {"PKG-INFO", ".gitignore"}
    _compare(sdist.name, names, {f"src/{name}" for name in shipped()} | set(BESIDE))


def _compare(archive: str, found: set[str], wanted: set[str]) -> None:
    missing, foreign = sorted(wanted - found), sorted(found - wanted)
    if missing or foreign:
        raise ReleaseError(
            f"{archive} lacks {_first(missing)}; it has what does not belong there: "
            f"{_first(foreign)}."
        )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "nothing") + more


def check(archives: Archives) -> None:
    """Run every check of the files themselves.

    Raises:
        ReleaseError: One of them fails.
    """
    both = [archives.wheel, archives.sdist]
    environments.run([sys.executable, "-m", "twine", "check", "--strict", *both])
    environments.run([sys.executable, "-m", "check_wheel_contents", archives.wheel])
    check_wheel(archives.wheel)
    check_sdist(archives.sdist)


def used(archive: Path, python: str, shared: Path | None) -> Mapping[str, float]:
    """Install an archive in an empty environment, use it, and return the seconds of each step.

    Raises:
        ReleaseError: It cannot be installed, a command fails, or another plop-lora is imported.
    """
    taken: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        made = environments.make(here / "environment", python)
        plop = made.folder / "bin" / "plop"

        def step(name: str, act: Callable[[], object]) -> object:
            started = time.perf_counter()
            result = act()
            taken[name] = time.perf_counter() - started
            return result

        def command(*words: str) -> str:
            return environments.run([plop, *words], cwd=here, environment=SETTINGS)

        step("install", lambda: install(made, archive, shared))
        version = str(step("plop --version", lambda: command("--version")))
        _check_version(archive, version)
        imported = step("import plop_lora", lambda: _imported_from(made, here))
        if made.folder not in Path(str(imported)).parents:
            raise ReleaseError(f"{archive.name} is installed, but {imported} is imported.")
        step("plop doctor", lambda: command("doctor"))
        step("plop demo", lambda: command("demo"))
        if not (here / "plop-demo" / "adapter" / "adapter_config.json").is_file():
            raise ReleaseError(f"plop demo of {archive.name} wrote no adapter.")
    return taken


def install(made: Environment, archive: Path, shared: Path | None) -> None:
    """Install an archive, with what it requires or beside that of another environment."""
    if shared is None:
        made.install(str(archive))
        return
    made.install("--no-deps", str(archive))
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(environments.run([made.python, "-c", code]).strip())
    (own / "shared.pth").write_text(f"{shared.resolve()}\n", encoding="utf-8")


def _imported_from(made: Environment, folder: Path) -> str:
    code = "import plop_lora; print(plop_lora.__file__)"
    return environments.run([made.python, "-c", code], cwd=folder).strip()


def _check_version(archive: Path, printed: str) -> None:
    version = printed.split()[-1]
    if not archive.name.startswith(f"plop_lora-{version}"):
        raise ReleaseError(f"plop --version of {archive.name} says {version}.")


def lines(archives: Archives, taken: Iterable[tuple[str, Mapping[str, float]]]) -> Iterable[str]:
    """Yield what was built, and the seconds of every step."""
    for path in (archives.wheel, archives.sdist):
        yield f"{path.name}: {path.stat().st_size / 1e6:.1f} MB"
    for what, steps in taken:
        said = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in steps.items())
        yield f"{what}: {said}"


def main() -> int:
    """Build, check and use; the exit code is 1 where a step fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--python", default=sys.executable, help="The Python of the environments.")
    parser.add_argument("--shared", type=Path, help="Site-packages that hold what it requires.")
    options = parser.parse_args()
    try:
        archives = build(options.output)
        check(archives)
        both = (("wheel", archives.wheel), ("sdist", archives.sdist))
        taken = [(name, used(path, options.python, options.shared)) for name, path in both]
    except ReleaseError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines(archives, taken)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
