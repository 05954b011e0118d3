"""Numbers in references are read whole, or refused before anything is trained."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from finetunes import spec

from plop_lora.errors import DataError, PlopError
from plop_lora.evaluation.metrics import is_numeric
from plop_lora.evaluation.numbers import reference_number
from plop_lora.evaluation.rewards import call_reward, find_reward, try_rewards
from plop_lora.recipe import VerifyRecipe
from plop_lora.records import TrialData
from plop_lora.study.checks import compares_numbers
from plop_lora.study.splits import prepare_splits
from plop_lora.training.tasks import SFT
from plop_lora.training.trial import run_trial


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("3/4", "3/8", False),
        ("3/4", "0.75", True),
        ("5 m2", "12 m2", False),
        ("12 m2", "12 m^2", True),
        ("42", "**42**", True),
        ("3 1/2", "3.5", True),
        (r"\frac{3}{4}", "0.75", True),
        ("-1/2", "−0.5", True),
        ("0.1", "1/10", True),
        ("1/0", "1", None),
        ("1,000", "1000.0", True),
    ],
)
def test_numbers_are_compared_whole(reference: str, answer: str, right: bool | None) -> None:
    """`3/8` passed for `3/4` and `12 m2` for `5 m2`; `0.75` failed for `3/4`, `**42**` for 42."""
    for mark in ("", "#### "):
        row = {"prompt": "?", "answer": mark + reference}
        if right is None:
            with pytest.raises(DataError, match="finds no number"):
                is_numeric(mark + answer, mark + reference)
            continue
        assert is_numeric(mark + answer, mark + reference) is right
        assert call_reward(find_reward("number"), [row], [f"#### {answer}"]) == [float(right)]


@pytest.mark.parametrize(
    "reference",
    ["10:30", "#### 10:30", "#### 3 to 4", "#### 3 x 10^5", "2^10", "1/2/2024", "day 3 at 10:30",
     "#### 1, 2", "#### 3 / 4"],
)  # fmt: skip
def test_what_is_read_in_part_is_refused(reference: str) -> None:
    with pytest.raises(DataError, match=r"finds no number|only a part"):
        reference_number(reference, "The metric `numeric`")


def test_what_surrounds_a_number() -> None:
    for text in ("#### 12 m2", "The area is 12 m2.", "#### *12*", "#### 12 CO2", "so 3 * 4 = 12"):
        assert reference_number(text, "x") == Fraction(12)


def test_all_references_are_read_before_training(tmp_path: Path) -> None:
    """The row that cannot be read may be the last, hours after the first."""
    rows = [{"prompt": f"What is {n}?", "completion": f"{n}"} for n in range(60)]
    rows[50]["completion"] = "at 10:30"
    paths = {"train": tmp_path / "train.jsonl", "eval": tmp_path / "eval.jsonl"}
    for path, part in zip(paths.values(), (rows[:40], rows[40:]), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in part))
    files = {name: str(path) for name, path in paths.items()}
    prepare_splits(VerifyRecipe(task="sft", **files))
    recipe = VerifyRecipe(task="sft", **files, evaluation={"metric": "numeric"})
    with pytest.raises(DataError, match=r"eval.jsonl: .*'at 10:30'"):
        prepare_splits(recipe, numbers_for=compares_numbers(SFT, recipe.training, "numeric"))
    with pytest.raises(DataError, match=r"Row 51: .*'at 10:30'"):
        try_rewards(("number",), rows)


FILES = ("train.jsonl", "eval.jsonl")
NO_MODEL = "no-such-model"
"""A trial that came to its training would fail to load this."""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "sft", "metric": "numeric"}, "eval.jsonl: Row 2: .*'at 10:30'"),
        ({"task": "grpo", "metric": "numeric", "rewards": ("format",)}, "Row 2: .*'at 10:30'"),
        ({"task": "grpo", "rewards": ("number",)}, "Row 2: .*'at 10:30'"),
        ({"task": "sft", "metric": "no_such_module:judge"}, "no_such_module"),
    ],
)
def test_a_trial_alone_reads_its_references_before_training(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    """`plop trial` trained for hours, and then met the reference that is no number."""
    rows = [{"prompt": f"What is {n}?", "completion": f"{n}"} for n in range(8)]
    judged = [rows[0], {**rows[1], "completion": "at 10:30"}]
    for name, part in (("train.jsonl", rows), ("eval.jsonl", judged)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    made = dataclasses.replace(spec(**settings), model=NO_MODEL)
    digests = [hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() for n in FILES]
    data = TrialData(FILES[0], digests[0], FILES[1], digests[1])
    with pytest.raises(PlopError, match=message):
        run_trial(dataclasses.replace(made, data=data), tmp_path)
    assert not (tmp_path / "result.json").exists()
