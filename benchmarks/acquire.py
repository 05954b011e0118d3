"""Time, memory, recall and precision of `plop acquire` on rows with planted repeats and leaks.

    python benchmarks/acquire.py [--rows 10000 100000] [--save]

The rows are made-up texts of 30 to 90 words whose frequencies follow Zipf's law, or of Japanese
characters, so that everything that is found beside what was planted is an error. Planted are exact
copies in other letter case and spacing, near copies with one word in twenty (one
character in sixty) replaced, and training
rows that hold an evaluation row: as a copy, as a near copy, and as a passage inside other text.
Among the near copies count those whose Jaccard index, computed pair by pair, reaches the threshold.
A corpus from one template is the hardest case of the index: all of its n-grams are common. Every
line is a process of its own; its peak memory includes Python and the rows themselves.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NEAR, LEAK = 0.02, 0.02
"""Share of the training rows that are planted near copies, and exact copies; and that leak."""
KINDS = ("words", "Japanese", "template")


def drawn_text(draw: random.Random, kind: str) -> list[str]:
    """Return the pieces of a made-up text."""
    if kind == "template":
        name, count, price = draw.randrange(2000), draw.randrange(1000), draw.randrange(1000)
        return (
            f"Person{name} buys {count} apples at the market for {price} cents each and gives half "
            f"of them to a friend . How many cents did Person{name} pay for all of the apples ?"
        ).split()
    length = draw.randrange(30, 91)
    if kind == "Japanese":
        return [chr(0x4E00 + int(draw.paretovariate(0.6)) % 2500) for _ in range(2 * length)]
    return [f"w{int(draw.paretovariate(0.5)) % 20_000}" for _ in range(length)]


def replaced(draw: random.Random, pieces: list[str], kind: str) -> list[str]:
    """Return a near copy: one word in twenty, or one character in sixty, is another one."""
    fresh = (lambda: chr(0x3400 + draw.randrange(2000))) if kind == "Japanese" else (
        lambda: f"x{draw.randrange(10**6)}")  # fmt: skip
    places = set(
        draw.sample(range(len(pieces)), max(1, len(pieces) // (60 if kind == "Japanese" else 20)))
    )
    return [fresh() if place in places else piece for place, piece in enumerate(pieces)]


def jaccard(first: list[str], second: list[str], size: int) -> float:
    """Return the Jaccard index of the n-grams of two texts."""
    one, other = (
        {tuple(p[n : n + size]) for n in range(len(p) - size + 1)} for p in (first, second)
    )
    return len(one & other) / len(one | other)


def planted(folder: Path, rows: int, kind: str) -> dict[str, list[int]]:
    """Write training and evaluation rows; return the numbers of those that are planted."""
    draw = random.Random(f"{kind} {rows}")
    size, join = (5, "") if kind == "Japanese" else (3, " ")
    evaluation = [drawn_text(draw, kind) for _ in range(rows // 10)]
    base = [drawn_text(draw, kind) for _ in range(round(rows * (1 - 2 * NEAR - LEAK)))]
    made: list[tuple[str, str]] = [("", join.join(pieces)) for pieces in base]
    if kind != "template":
        for first in draw.sample(base, round(rows * NEAR)):
            made.append(("exact", f" {join.join(first).upper()} "))
        for first in draw.sample(base, round(rows * NEAR)):
            near = replaced(draw, first, kind)
            made.append(("near" if jaccard(first, near, size) >= 0.8 else "", join.join(near)))
        for number, held in enumerate(draw.sample(evaluation, round(rows * LEAK))):
            around = [drawn_text(draw, kind) for _ in range(2)]
            passage = [*around[0], *held, *around[1]]
            text = (held, replaced(draw, held, kind), passage)[number % 3]
            made.append(("leak", join.join(text)))
    head, tail = made[: len(base)], made[len(base) :]
    draw.shuffle(tail)
    truth: dict[str, list[int]] = {"exact": [], "near": [], "leak": []}
    for number, (what, _) in enumerate([*head, *tail], start=1):
        truth.get(what, []).append(number)
    texts = {"train": [text for _, text in [*head, *tail]], "eval": map(join.join, evaluation)}
    for name, lines in texts.items():
        text = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return truth


def measured(folder: Path) -> dict[str, object]:
    """Acquire in this process; return processor times, peak memory and the rows found."""
    from plop_lora.acquisition import acquire

    found: dict[str, object] = {}
    for name, kinds in (("seconds", []), ("with personal", None)):
        settings = {} if kinds is None else {"personal": {"kinds": kinds}}
        started = time.process_time()
        record = acquire(
            train=str(folder / "train.jsonl"), eval=str(folder / "eval.jsonl"),
            folder=folder / "out", acquire=settings,
        )  # fmt: skip
        found[name] = time.process_time() - started
        found.setdefault("MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    words = {
        "exact duplicate": "exact",
        "near duplicate": "near",
        "holds an evaluation row": "leak",
    }
    for one in record.findings:
        if one.side == "train" and str(one.reason) in words:
            found[words[str(one.reason)]] = one.rows
    return found


def line(rows: int, kind: str) -> str:
    """Return a row of the table: sizes, times, memory, recall and precision."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = planted(folder, rows, kind)
        words = (sys.executable, __file__, "--measure", name)
        found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    cells = [f"{rows:,}", kind, f"{found['seconds']:.1f}", f"{found['with personal']:.1f}",
             f"{found['MiB']:,}"]  # fmt: skip
    for what, wanted in truth.items():
        got, right = set(found.get(what, ())), set(wanted)
        if not right:
            cells.append(f"{len(got):,} found")
            continue
        hit = len(got & right)
        cells.append(f"{hit:,} of {len(right):,}, {len(got) - hit:,} wrong")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print; with `--save` into benchmarks/results as well."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(Path(options.measure))))
        return
    lines = [
        f"# Acquiring rows, {datetime.date.today()}\n",
        f"Python {platform.python_version()}, {os.cpu_count()} cores; seconds of one "
        "processor, since others share the machine. The evaluation rows are a tenth of the "
        "training rows.\n",
        "| training rows | texts | seconds | with the search for personal data | peak MiB "
        "| exact | near | leaked |",
        "|---:|---|---:|---:|---:|---|---|---|",
    ]
    for rows in options.rows:
        for kind in KINDS:
            lines.append(line(rows, kind))
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.save:
        results = Path(__file__).parent / "results"
        (results / f"acquire-{datetime.date.today()}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
