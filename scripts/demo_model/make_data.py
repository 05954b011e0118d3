"""Write the two demo tasks that ship with the package: word problems and Python snippets.

python scripts/demo_model/make_data.py
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from corpus import DATA
from problems import make_problem
from snippets import make_snippet

ROWS = 240
TASKS: dict[str, Callable[[random.Random], dict[str, str]]] = {
    "problems": make_problem,
    "snippets": make_snippet,
}


def main() -> None:
    """Write both files, `ROWS` different rows each, from a seed of their own."""
    DATA.mkdir(parents=True, exist_ok=True)
    for name, make in TASKS.items():
        rng = random.Random(f"shipped {name}")
        rows: dict[str, None] = {}
        while len(rows) < ROWS:
            rows[json.dumps(make(rng))] = None
        (DATA / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
