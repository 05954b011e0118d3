"""Try plop-lora with its lowest and its newest versions, and on every Python of this machine.

    python scripts/release/versions.py lowest | newest | pythons [--save] [--folder .venv-versions]

Each try is an environment of its own, which uv resolves from pyproject.toml. In it `plop demo`
runs, and then the tests of `CORE`, or of `EXTRAS` where every extra is installed. `lowest` takes
the lowest version of each direct dependency, by itself and with every extra; `newest` takes the
newest of all with every extra on the newest Python; `pythons` takes the newest without extras on
every Python that is found, and says which were not. With `--save` each try goes into
`benchmarks/results/versions.json` in place of the earlier one of its name, and the table of
docs/install.md is renewed.

On Linux the package index has torch with CUDA, several gigabytes, which runs without a GPU or its
driver. `UV_TORCH_BACKEND=cpu` takes the smaller one where torch's own index can be reached.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import environments
from environments import ROOT, Environment, ReleaseError

sys.path.insert(0, str(ROOT / "scripts" / "experiments"))
RECORD = ROOT / "benchmarks" / "results" / "versions.json"
PAGE = ROOT / "docs" / "install.md"
MARK, END = "<!-- versions -->", "<!-- end of versions -->"
SHOWN = ("torch", "transformers", "peft", "numpy")
"""The versions that the table shows; the record has every direct dependency."""
LOWEST, NEWEST = "lowest-direct", "highest"
CORE = (
    "cli", "doctor", "documents", "export", "golden_scores", "import", "loading", "measurement",
    "placement", "recipe", "records", "sites", "stacked_experts", "start", "statistics",
    "streaming",
)  # fmt: skip
"""The tests of what needs no extra: scoring, placement, exports, records and the command line."""
EXTRAS = (
    "ab_migrations", "ab_router", "ab_store", "acquire_personal", "classify", "gguf", "judges",
    "learned", "logs", "quantised", "ray_tasks", "readback", "sft", "trial", "tune",
)  # fmt: skip
"""The tests of every extra: trainers, quantisation, Ray, searches, the gate and A/B tests."""
TEST_TOOLS = ("pytest", "hypothesis", "jsonschema")
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_COLOR": "1",
}


@dataclass(frozen=True)
class Case:
    """An environment to try: a Python, a resolution and extras."""

    name: str
    python: str
    resolution: str
    extras: tuple[str, ...] = ()

    @property
    def tests(self) -> tuple[str, ...]:
        """The names of the files of tests, without `test_` and `.py`."""
        return EXTRAS if self.extras else CORE


@dataclass(frozen=True)
class Tried:
    """What ran in an environment."""

    name: str
    date: str
    python: str
    resolution: str
    extras: list[str]
    machine: str
    versions: dict[str, str]
    tests: list[str]
    passed: int
    failed: list[str]
    skipped: int


def cases(what: str, found: Mapping[str, Path | None]) -> list[Case]:
    """Return the environments that `lowest`, `newest` or `pythons` is made of.

    Raises:
        ReleaseError: No Python is found that the package supports.
    """
    present = [version for version, path in found.items() if path is not None]
    if not present:
        raise ReleaseError(f"There is no Python of {', '.join(found)} on this machine.")
    first, last = present[0], present[-1]
    if what == "lowest":
        return [
            Case(f"lowest, Python {first}", first, LOWEST),
            Case(f"lowest with all extras, Python {first}", first, LOWEST, ("all",)),
        ]
    if what == "newest":
        return [Case(f"newest with all extras, Python {last}", last, NEWEST, ("all",))]
    return [Case(f"newest, Python {version}", version, NEWEST) for version in present]


def attempt(case: Case, python: Path, folder: Path) -> Tried:
    """Make an environment, run the demo and the tests in it, and return what came of it.

    Raises:
        ReleaseError: The environment cannot be made, the demo fails or no test runs.
    """
    made = environments.make(folder / case.name.replace(",", "").replace(" ", "-"), python)
    named = f"[{','.join(case.extras)}]" if case.extras else ""
    bounds = environments.bounds("dev")
    tools = [str(bounds[name]) for name in TEST_TOOLS]
    made.install("--resolution", case.resolution, "--editable", f"{ROOT}{named}", *tools)
    with tempfile.TemporaryDirectory() as empty:
        command = made.folder / "bin" / "plop"
        environments.run([command, "demo"], cwd=Path(empty), environment=SETTINGS)
    passed, failed, skipped = tested(made, case.tests)
    installed = made.versions()
    direct = environments.bounds(*_members(case.extras))
    return Tried(
        name=case.name,
        date=str(datetime.date.today()),
        python=environments.run([made.python, "--version"]).split()[1],
        resolution=case.resolution,
        extras=list(case.extras),
        machine=f"{platform.system()} {platform.machine()}",
        versions={name: installed[name] for name in sorted(direct) if name in installed},
        tests=list(case.tests),
        passed=passed,
        failed=failed,
        skipped=skipped,
    )


def _members(extras: Sequence[str]) -> Iterator[str]:
    """Yield extras, and those that they are made of."""
    for extra in extras:
        yield extra
        for one in environments.project()["optional-dependencies"][extra]:
            if one.startswith("plop-lora["):
                yield from _members(one.removeprefix("plop-lora[").removesuffix("]").split(","))


def tested(made: Environment, names: Iterable[str]) -> tuple[int, list[str], int]:
    """Run the tests that are not slow; return how many passed, which failed, how many skipped.

    Warnings of other libraries are no failure here, since their versions are not those that the
    project pins.

    Raises:
        ReleaseError: pytest itself failed, or ran no test.
    """
    with tempfile.TemporaryDirectory() as empty:
        report = Path(empty) / "tests.xml"
        files = [f"tests/test_{name}.py" for name in names]
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default"]
        words += ["-m", "not slow", f"--junitxml={report}", *files]
        try:
            environments.run([made.python, *words], cwd=ROOT, environment=SETTINGS)
        except ReleaseError as error:
            if not report.is_file():
                raise
            print(error, file=sys.stderr)
        return counted(report)


def counted(report: Path) -> tuple[int, list[str], int]:
    """Return how many tests of a JUnit report passed, which failed, and how many were skipped.

    Raises:
        ReleaseError: The report has no test.
    """
    passed, failed, skipped = 0, [], 0
    for test in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in test}
        if kinds & {"failure", "error"}:
            failed.append(f"{test.get('classname')}::{test.get('name')}")
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    if not passed + len(failed):
        raise ReleaseError("No test ran.")
    return passed, failed, skipped


def saved() -> dict[str, Tried]:
    """Return what has been tried, by its name."""
    if not RECORD.is_file():
        return {}
    return {one["name"]: Tried(**one) for one in json.loads(RECORD.read_text("utf-8"))}


def save(tried: Tried) -> None:
    """Write a try into the record, and renew the table on the page."""
    from pages import write_below

    every = saved() | {tried.name: tried}
    rows = [asdict(every[name]) for name in sorted(every)]
    RECORD.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    write_below(PAGE, MARK, table(every.values()), END)


def table(every: Iterable[Tried]) -> str:
    """Return the tries as a table in Markdown, the lowest versions first."""
    import pages

    head = ("versions", "Python", *SHOWN, "tests passed", "failed", "date")
    ordered = sorted(every, key=lambda one: (one.resolution != LOWEST, len(one.extras), one.name))
    return pages.table(head, [_row(one) for one in ordered]) + "\n"


def _row(one: Tried) -> tuple[str, ...]:
    what = one.name.partition(", Python")[0]
    shown = (one.versions.get(name, "") for name in SHOWN)
    return (what, one.python, *shown, str(one.passed), str(len(one.failed)), one.date)


def main() -> int:
    """Try what was asked for; the exit code is 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("lowest", "newest", "pythons"))
    parser.add_argument("--save", action="store_true", help="Write the record and the table.")
    parser.add_argument("--keep", action="store_true", help="Keep the environments.")
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv-versions")
    options = parser.parse_args()
    found = environments.interpreters()
    for version, path in found.items():
        print(f"Python {version}: {path or 'not found on this machine'}")
    failures = 0
    for case in cases(options.what, found):
        try:
            tried = attempt(case, found[case.python], options.folder)
        except ReleaseError as error:
            print(f"{case.name}: {error}", file=sys.stderr)
            failures += 1
            continue
        failures += len(tried.failed)
        print(f"{tried.name}: {tried.passed} passed, {len(tried.failed)} failed")
        if options.save:
            save(tried)
    if not options.keep:
        shutil.rmtree(options.folder, ignore_errors=True)
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())
