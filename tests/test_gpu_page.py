"""The page about GPUs claims what the records of the runs hold, and says what has no record."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "gpu.md").read_text(encoding="utf-8")
RESULTS = ROOT / "scripts" / "gpu" / "results"
FIRST = RESULTS / "2026-11-26-NVIDIA-H200"
ROWS = {
    "scoring ÷ plain forward": "score / plain forward",
    "the same with the denominators known": "score, denominators known / plain forward",
    "authors' procedure in float32 ÷ scoring": "authors' approach, float32 / score",
    "authors' procedure in TF32 ÷ scoring": "authors' approach, TF32 / score",
    "a leanest draw per token ÷ scoring": "lean draw / score",
}
"""Row of the page → name of the ratio in the record."""


def record(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def outcomes() -> dict[str, set[str]]:
    """Return the outcomes of every test function in all records."""
    found: dict[str, set[str]] = {}
    for path in RESULTS.glob("*/tests.json"):
        for name, row in record(path).items():
            function = name.partition("::")[2].partition("[")[0]
            found.setdefault(function, set()).add(row["outcome"])
    return found


def test_the_ratios_are_those_of_the_record() -> None:
    shapes = list(record(FIRST / "score.json").values())
    for row, name in ROWS.items():
        (line,) = re.findall(rf"^\| {re.escape(row)} \| (.+) \|$", PAGE, re.MULTILINE)
        for cell, shape in zip(line.split(" | "), shapes, strict=True):
            ratio = shape["ratios"][name]
            told = [float(number) for number in re.findall(r"[\d.]+", cell)]
            digits = len(cell.split()[0].partition(".")[2])
            assert told == [round(ratio[key], digits) for key in ("median", "low", "high")], row


def test_the_numbers_of_tests_are_those_of_the_records() -> None:
    first = [row["outcome"] for row in record(FIRST / "tests.json").values()]
    assert f"All {first.count('passed')} tests that ran passed" in PAGE
    assert first.count("skipped") == 1
    (second,) = RESULTS.glob("2026-11-27-*/tests.json")
    passed = [row["outcome"] for row in record(second).values()]
    assert set(passed) == {"passed"}
    assert f"the first {len(passed)} tests passed" in PAGE


def test_a_test_without_a_record_is_named_as_one_that_never_ran() -> None:
    """A claim that a test has passed, of which nobody kept the outcome, stood here for a day."""
    tree = ast.parse((ROOT / "tests" / "test_gpu.py").read_text(encoding="utf-8"))
    tests = {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.name[:5] == "test_"}
    passed = {name for name, found in outcomes().items() if "passed" in found}
    missing = tests - passed
    assert len(passed) > 8
    for name in missing | {name for name, found in outcomes().items() if found == {"skipped"}}:
        assert f"`{name}`" in PAGE


def test_four_bits_and_streaming_are_those_of_the_record() -> None:
    four = record(FIRST / "four-bit.json")
    assert {name: set(part["choices"]) for name, part in four.items()} == {
        "hqq": {"model", "smollm2"}, "bitsandbytes": {"model"},
    }  # fmt: skip
    for name, most in (("hqq", "0.6"), ("bitsandbytes", "0.8")):
        choices = four[name]["choices"].values()
        assert all(choice["same_choice"] for choice in choices)
        worst = max(100 * choice["largest_relative_difference"] for choice in choices)
        assert float(most) - 0.1 < worst <= float(most)
    assert re.search(r"0\.6 % with HQQ and 0\.8 % with bitsandbytes", PAGE)
    stream = record(FIRST / "stream.json")
    assert stream["scores"]["equal_to_the_last_bit"]
    assert f"{stream['ratios']['stream / memory']['median']:.1f} times" in PAGE
    assert f"{stream['peak_bytes']['stream'] / 1e9:.1f} GB on the card" in PAGE
    assert f"{stream['bytes'] / 1e9:.1f} GB" in PAGE


def test_the_card_is_that_of_the_records() -> None:
    environment = record(FIRST / "env.json")
    assert environment["card"] in PAGE
    for name in ("torch", "transformers", "peft", "trl"):
        version = environment["versions"][name]
        assert version in PAGE or version.rpartition(".")[0] in PAGE
