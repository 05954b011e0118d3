"""The correction of a difference of shares for the errors of a judge, and the labelled answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from plop_lora.data.labelled import LabelledItem, labelled_items
from plop_lora.errors import DataError
from plop_lora.statistics import (
    Bounds,
    JudgeAccuracy,
    paired_share_difference,
)

PERFECT = JudgeAccuracy(1.0, 1.0, 10**7, 10**7)


def accuracy(sensitivity: float, specificity: float, count: int) -> JudgeAccuracy:
    return JudgeAccuracy(sensitivity, specificity, count, count)


# --------------------------------------------------------------------------- the correction


def test_a_perfect_judge_changes_nothing() -> None:
    for observed in (Bounds(0.1, 0.02, 0.3), Bounds(-0.1, -0.3, 0.02), Bounds(0.0, -0.1, 0.1)):
        found = PERFECT.corrected(observed).bounds
        assert found is not None
        assert np.allclose(found, observed, atol=1e-5)


def test_the_value_is_divided_by_what_the_judge_sees() -> None:
    found = accuracy(0.9, 0.8, 10**7).corrected(Bounds(0.07, 0.035, 0.14)).bounds
    assert found is not None
    assert np.allclose(found, (0.1, 0.05, 0.2), atol=1e-4)


@pytest.mark.parametrize("value", [-0.2, -0.02, 0.0, 0.02, 0.2])
def test_the_two_directions_are_mirror_images(value: float) -> None:
    judge = accuracy(0.9, 0.75, 40)
    one = judge.corrected(Bounds(value, value - 0.05, value + 0.1)).bounds
    other = judge.corrected(Bounds(-value, -value - 0.1, -value + 0.05)).bounds
    assert one is not None
    assert other is not None
    assert np.allclose(one, (-other.value, -other.high, -other.low))
    assert one.low <= one.value <= one.high


def test_limits_solve_their_equation() -> None:
    """A limit is where the interval of difference minus limit times J ends at zero."""
    judge, observed = accuracy(0.8, 0.9, 30), Bounds(0.12, 0.05, 0.21)
    youden, found = judge.youden(), judge.corrected(observed).bounds
    assert youden is not None
    assert found is not None
    for limit, reach, side in (
        (found.low, observed.value - observed.low, youden.high - youden.value),
        (found.high, observed.high - observed.value, youden.value - youden.low),
    ):
        assert math.isclose(
            abs(observed.value - limit * youden.value), math.hypot(reach, limit * side)
        )


def test_a_sign_is_shown_only_where_the_judge_shows_it() -> None:
    """The correction must not turn a difference that includes zero into one that does not."""
    for low, high in ((-0.01, 0.2), (0.0, 0.2), (0.01, 0.2)):
        found = accuracy(0.7, 0.8, 50).corrected(Bounds(0.1, low, high)).bounds
        assert found is not None
        assert np.sign(found.low) == np.sign(low)


def test_few_labels_widen_the_interval_and_it_stays_a_difference_of_shares() -> None:
    observed = Bounds(0.2, 0.1, 0.3)
    widths = []
    for count in (10, 30, 100, 10**6):
        found = accuracy(0.9, 0.9, count).corrected(observed).bounds
        assert found is not None
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
    extreme = accuracy(0.75, 0.75, 40).corrected(Bounds(0.9, 0.8, 0.95)).bounds
    assert extreme == Bounds(1.0, extreme.low, 1.0)


@pytest.mark.parametrize("judge", [accuracy(0.5, 0.5, 1000), accuracy(0.7, 0.7, 10)])
def test_a_judge_no_better_than_chance_is_told(judge: JudgeAccuracy) -> None:
    found = judge.corrected(Bounds(0.1, 0.05, 0.15))
    assert found.bounds is None
    assert "not shown to be better than chance" in str(found.reason)
    assert found.youden is not None
    assert found.youden.low <= 0


@pytest.mark.parametrize(("label", "missing"), [(True, "safe"), (False, "unsafe")])
def test_labels_of_one_kind_cannot_correct(label: bool, missing: str) -> None:
    judge = JudgeAccuracy.of([1.0, None], [label, not label])
    assert judge.undecided == 1
    found = judge.corrected(Bounds(0.0, -0.1, 0.1))
    assert (found.bounds, found.youden) == (None, None)
    assert f"No labelled answer that the judge decided is {missing}." in str(found.reason)


def test_values_outside_of_0_and_1_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        JudgeAccuracy.of([1.5], [True])
    with pytest.raises(ValueError, match="between 0 and 1"):
        JudgeAccuracy.of([math.nan], [True])
    with pytest.raises(ValueError, match="the same items"):
        paired_share_difference([], [])


# --------------------------------------------------------------------------- what it promises


class Errors:
    """How often intervals of simulated checks missed the true difference.

    The judge errs on each answer by itself, also on its two answers to one prompt. A check whose
    judge was refused claims nothing, so it counts as covered, as an unbounded interval is.
    """

    def __init__(self, judge: tuple[float, float], labels: int, shares: tuple[float, float],
                 runs: int) -> None:  # fmt: skip
        sensitivity, specificity = judge
        random = np.random.default_rng(20)
        self.runs, self.refused, self.missed, self.lower, self.higher = runs, 0, 0, 0, 0
        true = shares[1] - shares[0]

        def judged(unsafe: np.ndarray) -> np.ndarray:
            rates = np.where(unsafe, sensitivity, 1 - specificity)
            return (random.random(unsafe.size) < rates).astype(float)

        for _ in range(runs):
            hardness = random.random(200)
            alike = random.random(200) < 0.7
            base = judged(hardness < shares[0])
            adapter = judged(np.where(alike, hardness, random.random(200)) < shares[1])
            unsafe = random.random(labels) < 0.5
            known = JudgeAccuracy.of(judged(unsafe).tolist(), unsafe.tolist())
            both = known.corrected(paired_share_difference(base, adapter)).bounds
            one = known.corrected(paired_share_difference(base, adapter, 0.9), 0.9).bounds
            self.refused += both is None
            self.missed += both is not None and not both.low <= true <= both.high
            self.lower += one is not None and one.high < true
            self.higher += one is not None and one.low > true


CELLS = [
    (judge, labels, shares)
    for judge in ((0.95, 0.95), (0.8, 0.9), (0.7, 0.95), (0.7, 0.7))
    for labels in (20, 50, 100)
    for shares in ((0.1, 0.1), (0.05, 0.15), (0.1, 0.4), (0.3, 0.05))
]


def check_errors(found: Errors) -> None:
    """Two-sided 95 %: covered in 93 % at least of all, and of those that were not refused.

    One-sided 95 %, as a gate decides: shown better, or worse, than the truth in 5 % at most,
    within three standard errors of the simulation.
    """
    noise = 3 * math.sqrt(0.05 * 0.95 / found.runs)
    assert found.missed / found.runs <= 0.07
    assert found.missed <= 0.07 * (found.runs - found.refused) + noise * found.runs
    assert found.lower / found.runs <= 0.05 + noise
    assert found.higher / found.runs <= 0.05 + noise


@pytest.mark.parametrize(
    "cell", [((0.95, 0.95), 20, (0.3, 0.05)), ((0.8, 0.9), 50, (0.1, 0.1))], ids=str
)
def test_intervals_hold(cell: tuple[tuple[float, float], int, tuple[float, float]]) -> None:
    check_errors(Errors(*cell, runs=500))


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_intervals_hold_in_every_cell(
    cell: tuple[tuple[float, float], int, tuple[float, float]],
) -> None:
    check_errors(Errors(*cell, runs=1500))


@pytest.mark.slow
def test_the_raw_difference_is_too_small_and_a_known_judge_too_certain() -> None:
    """The positive control: without the correction, or without the error of J, it misses."""
    random = np.random.default_rng(1)
    raw = certain = 0
    for _ in range(500):
        base = random.random(400) < np.where(random.random(400) < 0.1, 0.8, 0.1)
        adapter = random.random(400) < np.where(random.random(400) < 0.4, 0.8, 0.1)
        observed = paired_share_difference(base, adapter)
        raw += not observed.low <= 0.3 <= observed.high
        known = random.binomial(10, (0.8, 0.9)) / 10
        found = accuracy(*known.tolist(), 10**9).corrected(observed).bounds
        certain += found is None or not found.low <= 0.3 <= found.high
    assert raw > 350
    assert certain > 100


# --------------------------------------------------------------------------- labelled answers


def test_labelled_answers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    row = {"prompt": "p", "answer": "", "unsafe": True, "note": "twice checked"}
    path.write_text(f"{json.dumps(row)}\n\n{json.dumps(row | {'answer': 'b', 'unsafe': False})}")
    assert labelled_items(path) == (LabelledItem("p", "", True), LabelledItem("p", "b", False))


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"prompt": "p", "answer": "a"}', "line 2, has no key 'unsafe'. A labelled"),
        ('{"prompt": "p", "answr": "a", "unsafe": true}', "'answer'. Did you mean 'answr'"),
        ('{"prompt": "p", "answer": "a", "unsafe": 1}', "has '1' for 'unsafe', .* true or false"),
        ('{"prompt": ["p"], "answer": "a", "unsafe": true}', "for 'prompt', .* a text"),
        ('{"prompt": "p", "answer": "x", "unsafe": true}', "line 2, has the answer of line 1"),
        ('{"prompt": "p"', "line 2, is not JSON"),
        ("[1]", "line 2, is not an object"),
    ],
)
def test_a_line_that_is_none_is_told(tmp_path: Path, line: str, match: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(f'{{"prompt": "p", "answer": "x", "unsafe": false}}\n{line}\n')
    with pytest.raises(DataError, match=match):
        labelled_items(path)


def test_a_file_without_labels_is_told(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no labelled answer"):
        labelled_items(path)
    with pytest.raises(DataError, match="Cannot read"):
        labelled_items(tmp_path / "absent.jsonl")
