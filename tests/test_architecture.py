"""The shape of the code: import order, public surface, documentation that follows."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import plop_lora as plop

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "plop_lora"
ORDER = [
    "_version",
    "errors",
    "escapes",
    "files",
    "journal",
    "quiet",
    "options",
    "user_code",
    "ray_cluster",
    "launcher",
    "status",
    "records",
    "recipe",
    "statistics",
    "models",
    "indicators",
    "placement",
    "cost",
    "comparison",
    "data",
    "acquisition",
    "scoring",
    "exports",
    "shortcuts",
    "evaluation",
    "training",
    "variants",
    "study",
    "verification",
    "tuning",
    "gating",
    "finetuning",
    "ab",
    "local_server",
    "reports",
    "pipeline",
    "installation",
    "demo",
    "cli",
]


@functools.cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return every node of a file, which more than one test goes through."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


RIGHTWARDS = {("records/base.py", "reports"), ("records/placement.py", "exports")}
"""What a record does for its user: it draws itself, and it exports itself. Imported when called."""


def _targets(node: ast.AST) -> list[str]:
    """Return the modules of this package that an import names, in every form of it."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.startswith("plop_lora.")]
    if not isinstance(node, ast.ImportFrom) or node.level:
        return []
    if node.module == "plop_lora":
        return [f"plop_lora.{alias.name}" for alias in node.names]
    return [node.module] if (node.module or "").startswith("plop_lora.") else []


def test_imports_go_left() -> None:
    """A file imports only what stands to its left, or its own package; also inside functions."""
    for path in SOURCE.rglob("*.py"):
        place = path.relative_to(SOURCE)
        own = place.parts[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        for other in (name.split(".")[1] for node in _nodes(path) for name in _targets(node)):
            if other in ORDER and (place.as_posix(), other) not in RIGHTWARDS:
                assert ORDER.index(other) <= ORDER.index(own), f"{place} imports {other}"


@pytest.mark.parametrize("package", ["evaluation", "training", "study"])
def test_a_trial_needs_nothing_of_scoring(package: str) -> None:
    """What both share stands to the left of scoring."""
    for path in (SOURCE / package).rglob("*.py"):
        names = {name for node in _nodes(path) for name in _targets(node)}
        assert not {name for name in names if name.startswith("plop_lora.scoring")}, path


def test_no_module_is_imported_by_a_string() -> None:
    """Neither a reader nor a type checker follows such an import."""
    # Lazy names, extras, the user's modules.
    own = {"__init__.py", "ab/__init__.py", "errors.py", "user_code.py"}
    for path in SOURCE.rglob("*.py"):
        calls = {"import_module", "__import__"}
        named = {n.attr for n in _nodes(path) if isinstance(n, ast.Attribute)}
        named |= {n.id for n in _nodes(path) if isinstance(n, ast.Name)}
        assert path.relative_to(SOURCE).as_posix() in own or not named & calls, path


def _top_level(path: Path) -> set[str]:
    """Return the modules that a file imports when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {name for node in tree.body for name in _targets(node)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("plop_lora"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.slow
def test_no_circle_inside_packages() -> None:
    """Two files that need each other are one file, or a third."""
    files = {
        f"plop_lora.{'.'.join(path.relative_to(SOURCE).with_suffix('').parts)}": path
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py"
    }
    needs = {name: _top_level(path) & files.keys() - {name} for name, path in files.items()}
    graphlib.TopologicalSorter(needs).prepare()  # raises CycleError with the circle


def test_the_guide_for_contributors_is_current() -> None:
    """Its order of imports had gone stale, and the places that it names had moved."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (printed,) = re.findall(r"```text\n(.*?)```", guide, flags=re.DOTALL)
    assert printed.replace("\n", " ").strip().split(" < ") == ORDER
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)", guide)) <= set(targets)
    named = re.findall(r"`([\w./-]+\.(?:py|md|txt|toml))`", guide)
    places = (ROOT, SOURCE)
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
    for file, test in re.findall(r"(tests/\w+\.py)::(\w+)", guide):
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8")


def test_public_names_are_real() -> None:
    assert set(plop.__all__) == {*plop._HOMES, "__version__"}
    assert len(plop.__all__) <= 20
    for name in plop.__all__:
        assert getattr(plop, name) is not None


def test_importing_the_package_is_light() -> None:
    code = "import sys, plop_lora; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_and_functions_stay_small() -> None:
    for path in SOURCE.rglob("*.py"):
        assert path.read_text(encoding="utf-8").count("\n") <= 450, path
        for node in _nodes(path):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                assert lines <= 50, f"{path}: {node.name} has {lines} lines"


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_reference_is_current() -> None:
    """Help text is generated into the docs; `python docs/generate.py` renews it."""
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert page == _generator().cli_page()


@pytest.mark.slow
def test_table_of_architectures_is_current() -> None:
    """What the documentation claims of each family and trainer is what a run of today gives."""
    page = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert page == _generator().architectures_page()
