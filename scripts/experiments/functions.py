"""Two tasks of prompt and completion from the functions of the standard library.

- `summaries`: from the signature of a function to the first sentence of its docstring. It asks for
  knowledge of the function and for the style of such a sentence.
- `signatures`: from a signature to its parameters as JSON. It asks for a form; the answer follows
  from the prompt alone.

Sources are read and never imported. The functions of one file are all trained on or all judged by,
no completion of `summaries` and no prompt of `signatures` stands in two rows, and a function whose
definition is in the passages of general text is in no row. Files of one Python version give the
same rows. Imports no torch.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Row = dict[str, str]
Function = ast.FunctionDef | ast.AsyncFunctionDef

FEWEST_WORDS = 4
"""Of the first sentence of a docstring."""
MOST_CHARACTERS = 300
"""Of a prompt and its completion: no row is longer than the tokens of a trial."""
FEWEST_PARAMETERS = 2
JUDGED_SHARE = 0.4
"""Share of the files whose functions are judged by."""


@dataclass(frozen=True)
class Found:
    """A public function or method, with the classes that it is in."""

    path: str
    node: Function

    @property
    def parameters(self) -> ast.arguments:
        """Return its parameters, with `self` or `cls`."""
        return self.node.args


def public(source: str) -> Iterator[Found]:
    """Yield the public functions and methods of a source, in order."""

    def visit(node: ast.AST, path: str) -> Iterator[Found]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, Function | ast.ClassDef) or child.name.startswith("_"):
                continue
            inner = f"{path}.{child.name}" if path else child.name
            if isinstance(child, ast.ClassDef):
                yield from visit(child, inner)
            else:
                yield Found(inner, child)

    yield from visit(ast.parse(source), "")


def summary(found: Found) -> Row | None:
    """Return the row of a function that has a docstring with a sentence to begin with.

    >>> source = "def dedent(text): 'Remove the whitespace before every line. Tabs count.'"
    >>> summary(next(public(source)))["completion"]
    ' Remove the whitespace before every line.'
    """
    paragraph = (ast.get_docstring(found.node) or "").partition("\n\n")[0]
    sentence, dot, _ = " ".join(paragraph.split()).partition(". ")
    if len(sentence.split()) < FEWEST_WORDS:
        return None
    prompt = f"Python: {found.path}({ast.unparse(found.parameters)})\nSummary:"
    return {"prompt": prompt, "completion": f" {sentence}{dot.strip()}"}


def signature(found: Found) -> Row | None:
    """Return the row of a function that has several parameters.

    >>> found = next(public("def open(path, mode='r', *rest): pass"))
    >>> json.loads(signature(found)["completion"])
    {'name': 'open', 'required': ['path'], 'optional': {'mode': "'r'"}, 'more': ['rest']}
    """
    given = found.parameters
    positional = [*given.posonlyargs, *given.args]
    without = len(positional) - len(given.defaults)
    pairs = list(zip(positional, [None] * without + given.defaults, strict=True))
    pairs += list(zip(given.kwonlyargs, given.kw_defaults, strict=True))
    if len(pairs) < FEWEST_PARAMETERS:
        return None
    described = {
        "name": found.node.name,
        "required": [each.arg for each, default in pairs if default is None],
        "optional": {each.arg: ast.unparse(default) for each, default in pairs if default},
        "more": [each.arg for each in (given.vararg, given.kwarg) if each],
    }
    prompt = f"Signature: {found.node.name}({ast.unparse(given)})\nJSON:"
    return {"prompt": prompt, "completion": f" {json.dumps(described)}"}


def split(
    sources: Iterable[str],
    read: Callable[[Found], Row | None],
    unique: str,
    avoided: str,
    seed: str,
    rows: int,
    judged: int,
) -> tuple[list[Row], list[Row]]:
    """Return rows to train on and to judge by, of different files.

    Args:
        sources: texts of Python files.
        read: makes the row of a function, or None.
        unique: the field that no two rows share.
        avoided: text whose functions are left out.
        seed: of the order of the rows.
        rows: how many to train on.
        judged: how many to judge by.
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    parts: tuple[list[Row], list[Row]] = ([], [])
    for source in sources:
        part = parts[rng.random() < JUDGED_SHARE]
        for found in public(source):
            row = read(found)
            if (
                row is not None
                and len(row["prompt"] + row["completion"]) <= MOST_CHARACTERS
                and row[unique] not in seen
                and f"def {found.node.name}(" not in avoided
            ):
                seen.add(row[unique])
                part.append(row)
    return rng.sample(parts[0], rows), rng.sample(parts[1], judged)
