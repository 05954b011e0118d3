"""Code blocks of the documentation: commands parse, Python names what exists, YAML is a recipe.

Blocks that need no other machine or model are run here as well; `test_ab_docs.py`,
`test_documents.py` and others run more of them. Files of other programs are listed by name.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import plop_lora as plop
from plop_lora.cli import COMMANDS, command_of
from plop_lora.demo import DATA, MODEL

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
SCHEMA = json.loads((ROOT / "docs/reference/recipe.schema.json").read_text(encoding="utf-8"))
NO_RECIPES = {"docs/how-to/run-trials.md": ("kind: command",)}
"""Pages with YAML of other programs, by words of that block."""


def blocks(language: str) -> Iterator[Any]:
    """Yield the blocks of a language as parameters: page and text."""
    for path in PAGES:
        name = path.relative_to(ROOT).as_posix()
        found = BLOCK.findall(path.read_text(encoding="utf-8"))
        texts = [textwrap.dedent(text) for _, kind, text in found if kind == language]
        for number, text in enumerate(texts, 1):
            yield pytest.param(name, text, id=f"{name}-{number}")


# --------------------------------------------------------------------------- the shell


def commands(block: str) -> Iterator[list[str]]:
    """Yield the words of each `plop` command of a block, without what the shell adds."""
    for line in block.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a quotation over several lines
        if "plop" not in words[:3]:
            continue
        words = words[words.index("plop") + 1 :]
        ends = [
            words.index(sign) for sign in ("|", "||", "&&", ";", "&", ">", "2>") if sign in words
        ]
        yield words[: min(ends, default=len(words))]


def parse(words: list[str]) -> None:
    """Parse a command as the program does, without running it.

    Raises:
        click.UsageError: An option or a value is none.
    """
    if not words or words[0].startswith("-"):
        return
    name = next(
        (each for each in sorted(COMMANDS, key=len, reverse=True)
         if words[: len(each.split())] == each.split()), None,
    )  # fmt: skip
    assert name is not None, f"no such verb: {' '.join(words[:2])}"
    rest = words[len(name.split()) :]
    if "--help" in rest or "-h" in rest:
        return
    try:
        command_of(name).make_context(name, list(rest))
    except Exception:
        if "…" not in rest:
            raise
        command_of(name).make_context(name, [word for word in rest if word != "…"])


@pytest.mark.parametrize(("page", "block"), [*blocks("sh")])
def test_commands_parse(page: str, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renamed option stays in a page for years."""
    monkeypatch.setenv("PLOP_EXPERIMENT", "experiment.json")  # as the page of A/B tests does
    for words in commands(block):
        try:
            parse(words)
        except Exception as error:
            pytest.fail(f"{page}: plop {shlex.join(words)}: {error or type(error).__name__}")


@pytest.mark.parametrize(
    "words",
    [["score"], ["score", "M", "--dta", "f"], ["plce", "s.json"], ["place", "s", "--top", "x"]],
)
def test_a_command_that_is_none_is_found(words: list[str]) -> None:
    """The control of the test above."""
    with pytest.raises(Exception):  # noqa: B017, PT011 - of the parser, or of the search for a verb
        parse(words)


# --------------------------------------------------------------------------- Python


def names_of(tree: ast.AST) -> dict[str, Any]:
    """Return what a block imports from this package, by the name that it has there."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "plop_lora":
                    found[alias.asname or "plop_lora"] = importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "plop_lora":
            module = importlib.import_module(node.module)
            for alias in node.names:
                made = getattr(module, alias.name, None)
                if made is None:
                    made = importlib.import_module(f"{node.module}.{alias.name}")
                found[alias.asname or alias.name] = made
    return found


def check_python(block: str) -> None:
    """Check imports of this package, attributes of what was imported, and arguments of calls."""
    tree = ast.parse(block)
    names = {"plop": plop, **names_of(tree)}

    def value_of(node: ast.AST) -> Any:
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Attribute) and (owner := value_of(node.value)) is not None:
            return getattr(owner, node.attr)
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            value_of(node)
        if not isinstance(node, ast.Call) or (called := value_of(node.func)) is None:
            continue
        if any(keyword.arg is None for keyword in node.keywords) or isinstance(called, type(ast)):
            continue
        if any(isinstance(each, ast.Starred) or ast.unparse(each) == "..." for each in node.args):
            continue
        inspect.signature(called).bind_partial(
            *node.args, **{keyword.arg: keyword.value for keyword in node.keywords}
        )


@pytest.mark.parametrize(("page", "block"), [*blocks("python")])
def test_python_names_what_exists(page: str, block: str) -> None:
    check_python(block)


@pytest.mark.parametrize(
    "block",
    [
        "import plop_lora.no_such",
        "from plop_lora import no_such",
        "import plop_lora as plop\nplop.no_such()",
        "import plop_lora as plop\nplop.load_documents('rows.jsonl', txet='question')",
        "def",
    ],
)
def test_python_that_is_wrong_is_found(block: str) -> None:
    """The control of the test above."""
    with pytest.raises((ImportError, AttributeError, TypeError, SyntaxError)):
        check_python(block)


# --------------------------------------------------------------------------- YAML and JSON


@pytest.mark.parametrize(("page", "block"), [*blocks("yaml")])
def test_yaml_is_a_recipe(page: str, block: str) -> None:
    if any(words in block for words in NO_RECIPES.get(page, ())):
        return
    errors = [*jsonschema.Draft202012Validator(SCHEMA).iter_errors(yaml.safe_load(block))]
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


@pytest.mark.parametrize(("page", "block"), [*blocks("json")])
def test_json_is_json(page: str, block: str) -> None:
    for line in [block] if block.startswith("{\n") else block.splitlines():
        json.loads(line)


def test_a_recipe_with_a_key_that_is_none_is_found() -> None:
    """The control of the tests above."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"scroe": {"stop": "fixed"}}, SCHEMA)


# --------------------------------------------------------------------------- run


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a page in a folder, without a network."""
    return subprocess.run(
        [sys.executable, "-m", "plop_lora", *words],
        capture_output=True, text=True, cwd=folder, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def page_commands(page: str, wanted: str = "") -> list[list[str]]:
    """Return the commands of a page below a heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if wanted:
        text = text.partition(wanted)[2].partition("\n## ")[0]
    found = [block for _, kind, block in BLOCK.findall(text) if kind == "sh"]
    return [words for block in found for words in commands(block)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rows of a user, as given and split, and the scores of the bundled model."""
    here = tmp_path_factory.mktemp("pages")
    rows = (DATA / "problems.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, part in (("rows", rows), ("train", rows[:120]), ("eval", rows[120:])):
        (here / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    for words in (
        ("acquire", "--train", "rows.jsonl", "--folder", "acquired"),
        ("score", str(MODEL), "--data", "rows.jsonl", "--text", "question", "-o", "scores.json"),
    ):
        done = run(here, *words)
        assert done.returncode == 0, done.stderr
    return here


@pytest.mark.slow
@pytest.mark.parametrize("words", page_commands("docs/how-to/place.md"), ids=shlex.join)
def test_the_commands_of_placing_run(folder: Path, words: list[str]) -> None:
    blocks_of_the_model = ["0-5" if word == "0-11" else word for word in words]
    done = run(folder, *blocks_of_the_model)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_python_of_placing_runs(folder: Path) -> None:
    (block,) = (
        each.values[1] for each in blocks("python") if each.values[0].endswith("to/place.md")
    )
    names = {"plop": plop, "scores": plop.Scores.load(folder / "scores.json")}
    exec(compile(block, "place.md", "exec"), names)
    assert names["placement"].budget == 10_000_000


@pytest.mark.slow
def test_the_first_stage_of_the_guide_runs(folder: Path) -> None:
    """Whoever follows the guide meets these commands first."""
    stage = page_commands("docs/adoption.md", "## 1. Look")
    steps = ["demo", "init", "acquire", "score", "place", "report"]
    assert [words[0] for words in stage] == steps
    for words in stage:
        given = [str(MODEL) if word == "MODEL" else word for word in words]
        if words[0] == "score":
            given += ["--text", "question"]
        if words[0] == "init":
            given += ["--yes"]
        done = run(folder, *given)
        assert done.returncode == 0, (words, done.stderr)
    assert (folder / "report.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/adoption.md", "docs/questions.md"])
def test_what_only_plans_runs(folder: Path, page: str) -> None:
    """`--plan` of the guide and of the questions, and the plan of an A/B test."""
    planned = [
        words for words in page_commands(page) if "--plan" in words or words[:2] == ["ab", "plan"]
    ]
    for words in planned:
        if words[0] in ("gate", "finetune"):
            continue  # needs an adapter; test_gate.py runs it
        extra = ["--prompt", "{question}", "--completion", "{answer}"] if "--task" in words else []
        task = words[words.index("--task") + 1] if "--task" in words else ""
        if task == "grpo":
            continue  # needs a reward; test_grpo.py runs it
        done = run(folder, *words, *extra)
        assert done.returncode == 0, (words, done.stderr)


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    """Its demo, verification and report, with the exit codes that it names."""
    assert run(tmp_path, "demo").returncode == 0
    by_hand, (split, verify), (report,) = (
        list(commands(each.values[1])) for each in list(blocks("sh")) if
        each.values[0] == "docs/tutorial.md" and "Qwen" not in each.values[1]
    )  # fmt: skip
    for words in by_hand:
        given = [word.replace("$DEMO", str(MODEL.parent)) for word in words]
        done = run(tmp_path, *given)
        assert done.returncode == 0, (words, done.stderr)
    rows = str(DATA / "problems.jsonl")
    assert run(tmp_path, *[rows if word == "$ROWS" else word for word in split]).returncode == 0
    done = run(tmp_path, *verify)
    assert done.returncode in (0, 3, 4), done.stderr
    done = run(tmp_path, *report)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").is_file()
