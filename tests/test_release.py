"""What a release is made of: bounds and versions that ran, archives, workflows, image, citation."""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from plop_lora._version import __version__

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "scripts" / "release"
NAMES = ("environments", "versions", "distribution", "notes")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TRIED = json.loads((ROOT / "benchmarks" / "results" / "versions.json").read_text("utf-8"))
PYTHON = "Programming Language :: Python :: 3."
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(FOLDER), str(ROOT / "scripts" / "experiments")]
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path[:] = before
        for name in {*NAMES, "pages"} - known:
            sys.modules.pop(name, None)


# --------------------------------------------------------------------------- versions


def requirements(*extras: str) -> Iterator[Requirement]:
    for text in PROJECT["dependencies"]:
        yield Requirement(text)
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra]:
            if not text.startswith("plop-lora"):
                yield Requirement(text)


def lowest(*extras: str) -> dict[str, str]:
    (found,) = (
        one["versions"]
        for one in TRIED
        if one["resolution"] == "lowest-direct" and one["extras"] == list(extras)
    )
    return found


@pytest.mark.parametrize("extras", sorted({tuple(one["extras"]) for one in TRIED}))
def test_the_bounds_are_the_versions_that_were_tried(extras: tuple[str, ...]) -> None:
    """Three bounds could not be installed at all, and with four others nothing ran."""
    if not any(one["resolution"] == "lowest-direct" for one in TRIED if one["extras"] == [*extras]):
        pytest.skip(f"the lowest versions were not tried with {', '.join(extras)}")
    joined = PROJECT["optional-dependencies"]["all"][0]
    members = re.search(r"\[(.*)\]", joined)[1].split(",") if extras else ()
    bounds: dict[str, Version] = {}
    for one in requirements(*members):
        (bound,) = (Version(part.version) for part in one.specifier)
        name = one.name.lower().replace("_", "-")
        if one.marker is None or one.marker.evaluate({"python_version": "3.11", "extra": ""}):
            bounds[name] = max(bound, bounds.get(name, bound))
    versions = {name: Version(version) for name, version in lowest(*extras).items()}
    assert {name: str(versions[name]) for name in bounds if versions[name] != bounds[name]} == {}


def test_the_declared_pythons_are_those_that_ran() -> None:
    ran = {".".join(one["python"].split(".")[:2]) for one in TRIED if not one["failed"]}
    declared = {
        text.removeprefix("Programming Language :: Python :: ")
        for text in PROJECT["classifiers"]
        if text.startswith(PYTHON)
    }
    assert declared == ran
    first = min(ran, key=Version)
    assert PROJECT["requires-python"] == f">={first}"


def test_what_was_tried_passed() -> None:
    assert len(TRIED) >= 4
    for one in TRIED:
        assert one["failed"] == [], one["name"]
        assert one["passed"] > 100, one["name"]
        for name in one["tests"]:
            assert (ROOT / "tests" / f"test_{name}.py").is_file()


def test_the_page_shows_what_was_tried(scripts: dict[str, ModuleType]) -> None:
    versions = scripts["versions"]
    pages = importlib.import_module("pages")
    shown = pages.part_below(versions.PAGE, versions.MARK, versions.END)
    assert shown == versions.table(versions.saved().values())


def test_named_tests_are_there(scripts: dict[str, ModuleType]) -> None:
    """A file of tests that was renamed would be missing from every environment."""
    versions = scripts["versions"]
    for name in (*versions.CORE, *versions.EXTRAS):
        assert (ROOT / "tests" / f"test_{name}.py").is_file(), name


def test_the_environments_of_each_command(scripts: dict[str, ModuleType]) -> None:
    versions, release = scripts["versions"], scripts["environments"]
    some: dict[str, Path | None] = {"3.11": None, "3.12": Path("a"), "3.13": Path("b")}
    cases = {what: versions.cases(what, some) for what in ("lowest", "newest", "pythons")}
    assert [(one.python, one.extras) for one in cases["lowest"]] == [
        ("3.12", ()),
        ("3.12", ("all",)),
    ]
    assert [one.python for one in cases["newest"]] == ["3.13"]
    assert [one.python for one in cases["pythons"]] == ["3.12", "3.13"]
    with pytest.raises(release.ReleaseError, match=r"no Python of 3\.11"):
        versions.cases("pythons", {"3.11": None})


def test_extras_of_extras_are_recorded(scripts: dict[str, ModuleType]) -> None:
    """The packages of `serve` were in no record, since it also names `ab`."""
    members = set(scripts["versions"]._members(["all"]))
    assert members == {*PROJECT["optional-dependencies"]} - {"dev"}


def test_a_report_of_tests_is_counted(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    versions, release = scripts["versions"], scripts["environments"]
    report = tmp_path / "tests.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="a" name="one"/>'
        '<testcase classname="a" name="two"><skipped/></testcase>'
        '<testcase classname="b" name="three"><failure/></testcase>'
        "</testsuite></testsuites>"
    )
    assert versions.counted(report) == (1, ["b::three"], 1)
    report.write_text("<testsuites><testsuite/></testsuites>")
    with pytest.raises(release.ReleaseError, match="No test ran"):
        versions.counted(report)


def test_interpreters_run(scripts: dict[str, ModuleType]) -> None:
    """Pyenv has a command on the PATH for versions that do not run."""
    found = scripts["environments"].interpreters()
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert own not in found or found[own] is not None


def test_a_failed_command_says_what_it_printed(scripts: dict[str, ModuleType]) -> None:
    release = scripts["environments"]
    with pytest.raises(release.ReleaseError, match=r"ended with 3:\nsaid"):
        release.run([sys.executable, "-c", "print('said'); raise SystemExit(3)"])


# --------------------------------------------------------------------------- archives


def wheel_of(folder: Path, names: set[str]) -> Path:
    path = folder / "plop_lora-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in {*names, "plop_lora-0.1.0.dist-info/licenses/LICENSE"}:
            archive.writestr(name, "")
    return path


def sdist_of(folder: Path, names: set[str]) -> Path:
    path = folder / "plop_lora-0.1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (*names, "PKG-INFO"):
            archive.addfile(tarfile.TarInfo(f"plop_lora-0.1.0/{name}"), io.BytesIO())
    return path


DEMO = "plop_lora/demo/model/config.json"


@pytest.mark.parametrize(
    ("added", "removed", "message"),
    [
        ({"tests/test_cli.py"}, set(), "does not belong there: tests/test_cli.py"),
        (set(), {DEMO}, f"lacks {DEMO}"),
    ],
    ids=["a test is inside", "the model is missing"],
)
def test_what_is_in_the_archives(
    scripts: dict[str, ModuleType],
    tmp_path: Path,
    added: set[str],
    removed: set[str],
    message: str,
) -> None:
    distribution = scripts["distribution"]
    error = scripts["environments"].ReleaseError
    package = distribution.shipped()
    assert {DEMO, "plop_lora/py.typed"} < package
    distribution.check_wheel(wheel_of(tmp_path, package))
    with pytest.raises(error, match=re.escape(message)):
        distribution.check_wheel(wheel_of(tmp_path, (package | added) - removed))
    beside = set(distribution.BESIDE)
    distribution.check_sdist(sdist_of(tmp_path, {f"src/{name}" for name in package} | beside))
    names = (package | added) - removed
    with pytest.raises(error, match=re.escape(message.replace("plop_lora/", "src/plop_lora/"))):
        distribution.check_sdist(
            sdist_of(
                tmp_path, {f"src/{name}" if name in package else name for name in names} | beside
            )
        )


def test_the_version_of_an_archive_is_the_one_that_is_printed(
    scripts: dict[str, ModuleType],
) -> None:
    distribution = scripts["distribution"]
    distribution._check_version(Path("plop_lora-0.1.0.tar.gz"), "plop-lora 0.1.0\n")
    with pytest.raises(scripts["environments"].ReleaseError, match=r"says 0\.2\.0"):
        distribution._check_version(Path("plop_lora-0.1.0.tar.gz"), "plop-lora 0.2.0\n")


# --------------------------------------------------------------------------- notes


CHANGES = "# Changelog\n\n## 0.2.0 (2026-01-31)\n\n- New.\n\n## 0.1.0 (unreleased)\n\n- Old.\n"


def test_the_notes_of_a_release(scripts: dict[str, ModuleType]) -> None:
    notes = scripts["notes"].notes
    assert notes("v0.2.0", "0.2.0", CHANGES, "version: 0.2.0\n") == "- New.\n"


@pytest.mark.parametrize(
    ("tag", "version", "citation", "message"),
    [
        ("v0.2.1", "0.2.0", "0.2.0", "the package has version 0.2.0"),
        ("v0.2.0", "0.2.0", "0.1.0", "does not say version: 0.2.0"),
        ("v0.1.0", "0.1.0", "0.1.0", "write the day of the release"),
        ("v0.3.0", "0.3.0", "0.3.0", "no section 0.3.0"),
    ],
)
def test_what_cannot_be_released(
    scripts: dict[str, ModuleType], tag: str, version: str, citation: str, message: str
) -> None:
    """PyPI takes a version once: a wrong one cannot be replaced."""
    with pytest.raises(scripts["notes"].NotesError, match=re.escape(message)):
        scripts["notes"].notes(tag, version, CHANGES, f"version: {citation}\n")


def test_this_version_has_its_section(scripts: dict[str, ModuleType]) -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {__version__} " in text
    version = (ROOT / "src/plop_lora/_version.py").read_text(encoding="utf-8")
    assert scripts["notes"].package_version(version) == __version__


# --------------------------------------------------------------------------- workflows


def workflow(name: str) -> dict[Any, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


WORKFLOWS = sorted(path.name for path in (ROOT / ".github" / "workflows").iterdir())


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned(name: str) -> None:
    """A tag of an action can be moved to other code; a commit cannot."""
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    used = [step["uses"] for job in workflow(name)["jobs"].values() for step in job["steps"]
            if "uses" in step]  # fmt: skip
    assert used
    for one in used:
        assert PINNED.fullmatch(one), one
    assert len(re.findall(r"uses: \S+ # v\d+\.\d+\.\d+$", text, re.MULTILINE)) == len(used)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_workflow_can_do_more_than_it_needs(name: str) -> None:
    found = workflow(name)
    assert found["permissions"] in ({}, {"contents": "read"})
    for job in found["jobs"].values():
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
            # A name of a branch or a tag is text of somebody else: only through the environment.
            assert "${{ github" not in step.get("run", "")


def test_only_the_job_that_publishes_has_an_identity() -> None:
    found = workflow("release.yml")
    # YAML 1.1 reads the key `on` as true.
    assert found[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+*"]}}
    jobs = found["jobs"]
    assert {name: job["permissions"] for name, job in jobs.items()} == {
        "test": {"contents": "read"},
        "build": {"contents": "read"},
        "publish": {"id-token": "write"},
        "github": {"contents": "write"},
    }
    publish = jobs["publish"]
    assert set(publish["needs"]) == {"test", "build"}
    assert publish["environment"]["name"] == "pypi"
    assert not any("run" in step for step in publish["steps"])
    (action,) = (one for one in publish["steps"] if "pypi-publish" in one["uses"])
    assert action["with"] == {"attestations": True}
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    assert jobs["github"]["needs"] == "publish"


def test_what_workflows_call_is_there() -> None:
    targets = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    known = {word for line in targets for word in line.split()}
    for name in WORKFLOWS:
        for job in workflow(name)["jobs"].values():
            matrix = job.get("strategy", {}).get("matrix", {}).get("include", [])
            assert {one["what"] for one in matrix} <= known
            for step in job["steps"]:
                run = step.get("run", "")
                assert set(re.findall(r"^make ([a-z]+)", run)) <= known
                for script in re.findall(r"[\w.]+/[\w/]+\.py|\.ci/run", run):
                    assert (ROOT / script).is_file(), script


# --------------------------------------------------------------------------- image


def instructions(name: str) -> list[tuple[str, str]]:
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]  # type: ignore[misc]


def test_the_image_is_built_from_what_the_sdist_holds(scripts: dict[str, ModuleType]) -> None:
    copied = {
        word
        for kind, rest in instructions("Dockerfile")
        if kind == "COPY"
        for word in rest.split()[:-1]
    }
    assert copied == {*scripts["distribution"].BESIDE, "src"}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied


def test_the_image_runs_plop_without_rights() -> None:
    found = instructions("Dockerfile")
    kinds = [kind for kind, _ in found]
    last = len(kinds) - 1 - kinds[::-1].index("FROM")
    final = dict(found[last:])
    assert json.loads(final["ENTRYPOINT"]) == ["plop"]
    assert int(final["USER"]) >= 1000
    assert kinds.index("USER") > max(i for i, kind in enumerate(kinds) if kind == "RUN")
    images = {rest.split()[0] for kind, rest in found if kind == "FROM"}
    (version,) = {re.fullmatch(r"python:(3\.\d+)-slim", image)[1] for image in images}
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_image_takes_torch_first_and_without_cuda() -> None:
    """The index of packages has torch with CUDA, which is several gigabytes larger."""
    runs = [rest for kind, rest in instructions("Dockerfile") if kind == "RUN"]
    installs = [run for run in runs if "pip install" in run]
    (bound,) = (text for text in PROJECT["dependencies"] if text.startswith("torch"))
    assert f'/whl/cpu "{bound}"' in installs[0]
    assert installs[1].endswith("/wheels/*.whl")


# --------------------------------------------------------------------------- citation, numbers


def test_the_citation_agrees_with_the_package() -> None:
    """`make dist` holds the file to its schema."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert (cited["title"], cited["version"]) == (PROJECT["name"], __version__)
    assert cited["license"] == PROJECT["license"]
    assert [list(author) for author in cited["authors"]] == [["name"]]
    (paper,) = cited["references"]
    assert [one["family-names"] for one in paper["authors"]] == ["Hayou", "Ghosh", "Yu"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert paper["url"] in readme
    assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in readme


def test_torch_is_asked_for_its_accelerator_in_one_place() -> None:
    """The default build for Linux names CUDA as its accelerator on machines without a driver."""
    source = ROOT / "src" / "plop_lora"
    asking = [
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if "current_accelerator" in path.read_text(encoding="utf-8")
    ]
    assert asking == ["models/loading.py"]


def test_every_extra_is_described() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    assert described == {*PROJECT["optional-dependencies"]} - {"dev"}


def test_published_numbers_are_those_of_the_benchmark() -> None:
    newest = sorted((ROOT / "benchmarks" / "results").glob("install-*.md"))[-1]
    rows = [line for line in newest.read_text("utf-8").splitlines() if line.startswith("| ")]
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert len(rows) > 5
    assert [row for row in rows if row not in page] == []
    assert newest.stem.removeprefix("install-") in page
