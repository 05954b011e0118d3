"""Run a notebook's cells in their order and keep what they show: no Jupyter is needed.

    python scripts/notebook.py examples/placement.ipynb

A cell shows what it prints and, like in Jupyter, the value of its last expression, as text and, if
it is small, as HTML. Drawings hold programs that viewers of stored notebooks do not run, so that
only their titles are kept. Messages on stderr are not kept, since they differ by machine.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import plop_lora

LARGEST = 40_000
"""Characters above which HTML is not kept."""
PACKAGE = Path(plop_lora.__file__).parent


def read(path: Path) -> dict[str, Any]:
    """Return a notebook."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def source_of(cell: dict[str, Any]) -> str:
    """Return the text of a cell."""
    return "".join(cell["source"])


def run(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook with what its cells show now; an error in a cell is raised."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, number = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            cells.append(cell)
            continue
        number += 1
        outputs = outputs_of(source_of(cell), names, number)
        cells.append(cell | {"execution_count": number, "outputs": outputs})
    return notebook | {"cells": cells}


def outputs_of(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Run a cell in a namespace and return what it shows."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream",
                        "text": lines_of(printed.getvalue())})  # fmt: skip
    if value is not None:
        outputs.append({"data": data_of(value), "execution_count": number, "metadata": {},
                        "output_type": "execute_result"})  # fmt: skip
    return outputs


def data_of(value: object) -> dict[str, list[str]]:
    """Return a value as Jupyter keeps it."""
    data = {"text/plain": lines_of(repr(value))}
    draw = getattr(value, "_repr_html_", None)
    html = "" if draw is None else draw()
    if html and len(html) <= LARGEST and "<script" not in html:
        data["text/html"] = lines_of(html)
    return data


def lines_of(text: str) -> list[str]:
    """Return the lines of an output, without the place of the package on this machine."""
    return text.replace(str(PACKAGE), "…").splitlines(keepends=True)


def write(path: Path) -> None:
    """Run a notebook and write it back as Jupyter would."""
    text = json.dumps(run(read(path)), indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write(Path(argument))
