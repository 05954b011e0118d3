"""A labelled text task from the standard library: which area does a docstring come from?

    python scripts/experiments/docstrings.py --output build/docstrings [--seed 0]

Reads the sources of the running interpreter's standard library, without importing them, and takes
the docstrings of functions, methods and classes. The label is the area. Names that would give it
away, those of all modules listed here and of the docstring's own file, are masked wherever they
are a part of a word (`HTTPServer`, `email.message`). Texts have 10 words or more and end after 60;
texts that begin alike count once. Files of one Python version give the same rows.

Writes `train.jsonl` and `eval.jsonl` with `text` and `label`. The texts are under the PSF licence
and are made here, not shipped. Imports no torch.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

AREAS: dict[str, tuple[str, ...]] = {
    "asynchronous": ("asyncio",),
    "parallel": ("multiprocessing", "concurrent", "threading", "queue", "sched", "_pyio"),
    "mail": ("email", "mailbox", "smtplib", "imaplib", "poplib", "nntplib", "ftplib"),
    "web": ("http", "urllib", "socketserver", "wsgiref", "xmlrpc", "html", "cgi", "webbrowser"),
    "interface": ("tkinter", "turtle"),
    "editor": ("idlelib",),
    "testing": ("unittest", "doctest"),
    "markup": ("xml", "plistlib"),
    "logging": ("logging", "warnings"),
    "files": ("pathlib", "shutil", "tempfile", "zipfile", "tarfile", "os", "posixpath", "gzip"),
    "numbers": ("_pydecimal", "decimal", "fractions", "statistics", "random", "numbers"),
    "dates": ("datetime", "_pydatetime", "calendar", "zoneinfo", "_strptime"),
    "source": ("ast", "inspect", "tokenize", "dis", "typing", "symtable", "lib2to3"),
    "imports": ("importlib", "pkgutil", "zipimport", "modulefinder", "distutils", "ensurepip"),
    "debugging": ("pdb", "bdb", "trace", "traceback", "profile", "cProfile", "pstats", "pydoc"),
    "containers": ("collections", "_collections_abc", "_weakrefset", "weakref", "heapq", "enum"),
    "text": ("string", "textwrap", "difflib", "re", "codecs", "encodings", "csv", "json"),
    "shell": ("argparse", "optparse", "cmd", "configparser", "getopt", "shlex", "subprocess"),
}
"""Areas and their modules and packages; what a Python version lacks is passed over."""

SKIPPED = frozenset({"test", "tests", "idle_test", "__pycache__"})
FEWEST_WORDS, MOST_WORDS, ALIKE_WORDS = 10, 60, 10
SMALLEST_AREA, LARGEST_AREA = 60, 115
EVALUATION_SHARE = 0.25
MASK = "[name]"

_TOKEN = re.compile(r"[A-Za-z_][\w.]*")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_NAMES = frozenset(name.strip("_").lower() for names in AREAS.values() for name in names)
_ORDINARY = frozenset({"re", "string", "numbers", "enum"})
"""Module names that are everyday words of any docstring: they give nothing away as a word."""


@dataclass(frozen=True)
class Docstring:
    """A masked docstring, and where it comes from."""

    area: str
    source: str
    text: str


def masked(text: str, stem: str) -> str:
    """Replace every word that has a masked name in it.

    >>> masked("An HTTPServer for email.message objects, as in mailboxes.", "server")
    'An [name] for [name] objects, as in [name].'
    """
    hidden = (_NAMES | {stem.strip("_").lower()}) - _ORDINARY
    long = tuple(name for name in hidden if len(name) >= 5)

    def replace(match: re.Match[str]) -> str:
        word = match.group()
        ending = "." if word.endswith(".") else ""
        lower = word.lower().rstrip(".")
        parts = {part.lower() for part in _PART.findall(word)} | set(lower.split("."))
        given_away = parts & hidden or any(name in lower for name in long)
        return MASK + ending if given_away else word

    return _TOKEN.sub(replace, text)


def files_of(root: Path, name: str) -> list[Path]:
    """Return the source files of a module or package, in order."""
    if (root / f"{name}.py").is_file():
        return [root / f"{name}.py"]
    files = sorted((root / name).rglob("*.py"))
    return [file for file in files if not SKIPPED.intersection(file.relative_to(root).parts)]


def documented(source: str) -> Iterator[tuple[str, str]]:
    """Yield the qualified name and docstring of every function, method and class."""

    def visit(node: ast.AST, path: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            inner = path
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{path}.{child.name}"
                text = ast.get_docstring(child)
                if text:
                    yield inner, text
            yield from visit(child, inner)

    yield from visit(ast.parse(source), "")


def read_area(root: Path, area: str) -> Iterator[Docstring]:
    """Yield what an area has to say, masked and cut, in the order of its files."""
    for name in AREAS[area]:
        for file in files_of(root, name):
            try:
                found = list(documented(file.read_text(encoding="utf-8")))
            except (SyntaxError, UnicodeDecodeError):
                continue
            for qualified, text in found:
                words = masked(text, file.stem).split()[:MOST_WORDS]
                if sum(word != MASK for word in words) >= FEWEST_WORDS:
                    where = f"{file.relative_to(root)}:{qualified}"
                    yield Docstring(area, where, " ".join(words))


def alike(text: str) -> str:
    """Return what two texts share that count as one: their first words, without punctuation."""
    return " ".join(re.findall(r"[a-z]+", text.lower())[:ALIKE_WORDS])


def build(root: Path, seed: int) -> tuple[list[Docstring], list[Docstring]]:
    """Return the rows to train on and those to judge by, shuffled, each area in both.

    A text that two areas share belongs to neither; of a property's functions the first counts.
    """
    collected = [row for area in AREAS for row in read_area(root, area)]
    areas_of: dict[str, set[str]] = {}
    for row in collected:
        areas_of.setdefault(alike(row.text), set()).add(row.area)
    seen: set[str] = set()
    by_area: dict[str, list[Docstring]] = {}
    for row in collected:
        key = alike(row.text)
        if len(areas_of[key]) == 1 and not seen.intersection({key, row.source}):
            seen.update({key, row.source})
            by_area.setdefault(row.area, []).append(row)
    rng = random.Random(seed)
    train: list[Docstring] = []
    evaluation: list[Docstring] = []
    for rows in by_area.values():
        if len(rows) >= SMALLEST_AREA:
            chosen = rng.sample(rows, min(len(rows), LARGEST_AREA))
            cut = round(len(chosen) * EVALUATION_SHARE)
            evaluation += chosen[:cut]
            train += chosen[cut:]
    rng.shuffle(train)
    rng.shuffle(evaluation)
    return train, evaluation


def library() -> Path:
    """Return the folder of the standard library's sources."""
    return Path(sysconfig.get_paths()["stdlib"])


def main() -> None:
    """Write the two files and print how many rows each area has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/docstrings"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    parts = dict(zip(("train", "eval"), build(library(), options.seed), strict=True))
    counts = {part: Counter(row.area for row in rows) for part, rows in parts.items()}
    for part, rows in parts.items():
        lines = (json.dumps({"text": row.text, "label": row.area}) + "\n" for row in rows)
        (options.output / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    for area in sorted(counts["train"]):
        print(f"{area:14} {counts['train'][area]:5} {counts['eval'][area]:5}")
    print(f"{'all':14} {len(parts['train']):5} {len(parts['eval']):5}")


if __name__ == "__main__":
    main()
