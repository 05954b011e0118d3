"""The pretraining text: what any machine has, and what the generators make.

Sources: the standard library's own source files and docstrings, generated word problems, stories
and snippets. Held-out text never occurs in training: library files are split by a hash of their
path, generated texts by seed, and a training text that equals a held-out or shipped one is
dropped.
"""

from __future__ import annotations

import ast
import hashlib
import json
import random
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from problems import make_problem
from snippets import make_snippet
from stories import make_story

DATA = Path(__file__).resolve().parents[2] / "src" / "plop_lora" / "demo" / "data"
SKIPPED = frozenset(
    [
        "site-packages",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "encodings",
        "pydoc_data",
        "turtledemo",
        "__pycache__",
        "ensurepip",
        "distutils",
    ]
)
HELD_OUT_SHARE = 25
"""One library file in this many is held out."""


@dataclass(frozen=True)
class Split:
    """Training and held-out texts of one source."""

    train: list[str]
    held_out: list[str]


def problem_text(row: dict[str, str]) -> str:
    """Return the text of a word problem as the model sees it."""
    return f"Question: {row['question']}\nAnswer: {row['answer']}"


def build(seed: int, characters: dict[str, int]) -> dict[str, Split]:
    """Return the texts of every source.

    Args:
        seed: of the generators; held-out text uses other seeds derived from it.
        characters: about how many training characters of each generated source.
    """
    shipped = shipped_texts()
    sources: dict[str, Callable[[random.Random], str]] = {
        "problems": lambda rng: problem_text(make_problem(rng)),
        "stories": make_story,
        "snippets": lambda rng: make_snippet(rng)["text"],
    }
    splits = {"library": library_split()}
    for name, make in sources.items():
        held_out = list(_generate(make, f"held-out {name} {seed}", characters[name] // 40))
        forbidden = shipped | set(held_out)
        train = [
            text
            for text in _generate(make, f"train {name} {seed}", characters[name])
            if text not in forbidden
        ]
        splits[name] = Split(train, held_out)
    return splits


def shipped_texts() -> set[str]:
    """Return the texts of the demo data, which training must not contain."""
    texts: set[str] = set()
    for path in sorted(DATA.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            texts.add(row["text"] if "text" in row else problem_text(row))
    return texts


def library_split() -> Split:
    """Split the standard library's files, each followed by its docstrings as prose."""
    train: list[str] = []
    held_out: list[str] = []
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED.intersection(relative.parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        code = int(hashlib.sha256(str(relative).encode()).hexdigest(), 16)
        chosen = held_out if code % HELD_OUT_SHARE == 0 else train
        chosen.append(source)
        chosen.extend(_docstrings(source))
    return Split(train, held_out)


def _docstrings(source: str) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented):
            text = ast.get_docstring(node)
            if text and len(text) > 80:
                yield text


def _generate(make: Callable[[random.Random], str], seed: str, characters: int) -> Iterator[str]:
    rng = random.Random(seed)
    while characters > 0:
        text = make(rng)
        characters -= len(text)
        yield text
