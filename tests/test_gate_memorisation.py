"""The decision on memorised rows: errors at the limit, honest zeros, rows that are in both."""

from __future__ import annotations

import numpy as np
import pytest

from plop_lora.errors import DataError, UsageError
from plop_lora.gating.memorisation import (
    LIMIT,
    Completed,
    decide_memorisation,
    excess_bounds,
)
from plop_lora.gating.suites.memorisation import distinct, shared_error, shared_rows
from plop_lora.records.gate import FAIL, NOT_ENOUGH_DATA, PASS

ERRS_AT_MOST = 0.05


def completed(gained: int, lost: int, rows: int, both: int = 0) -> Completed:
    kept = (0.0,) * (rows - gained - lost - both)
    base = (0.0,) * gained + (1.0,) * lost + (1.0,) * both + kept
    adapter = (1.0,) * gained + (0.0,) * lost + (1.0,) * both + kept
    return Completed(base, adapter)


def _errors(shares: tuple[float, ...], rows: tuple[int, int], draws: int) -> tuple[float, float]:
    """Return how often samples of these true shares are shown below and above the limit."""
    random = np.random.default_rng(sum(rows))
    counts = [
        random.multinomial(size, [gained, lost, 1 - gained - lost], draws)[:, :2]
        for size, gained, lost in zip(rows, shares[::2], shares[1::2], strict=True)
    ]
    found, numbers = np.unique(np.concatenate(counts, axis=1), axis=0, return_counts=True)
    bounds = np.array([
        excess_bounds(completed(*pairs[:2], rows[0]), completed(*pairs[2:], rows[1]))
        for pairs in found.tolist()
    ])  # fmt: skip
    return (
        float(numbers[bounds[:, 1] < LIMIT].sum() / draws),
        float(numbers[bounds[:, 0] > LIMIT].sum() / draws),
    )


TRUTHS = [
    (0.02, 0.0, 0.0, 0.0),
    (0.03, 0.0, 0.01, 0.0),
    (0.04, 0.02, 0.0, 0.0),
    (0.01, 0.0, 0.0, 0.01),
    (0.30, 0.10, 0.20, 0.02),
]
"""Shares of rows gained and lost of training and control, whose excess is exactly the limit."""


@pytest.mark.parametrize("shares", TRUTHS)
@pytest.mark.parametrize("rows", [(100, 100), (250, 1000), (1000, 250), (1000, 1000)])
def test_an_excess_at_the_limit_is_decided_in_five_percent(
    shares: tuple[float, ...], rows: tuple[int, int]
) -> None:
    draws = 1000
    slack = 3 * (ERRS_AT_MOST * (1 - ERRS_AT_MOST) / draws) ** 0.5
    assert max(_errors(shares, rows, draws)) <= ERRS_AT_MOST + slack


def test_what_is_there_is_found() -> None:
    """The control: the same rule decides where the truth lies off the limit."""
    assert _errors((0.0, 0.0, 0.0, 0.0), (300, 300), 10) == (1.0, 0.0)
    assert _errors((0.1, 0.0, 0.0, 0.0), (300, 300), 1000)[1] > 0.95


def test_none_of_a_few_rows_is_not_enough_data() -> None:
    """Nothing seen in 100 rows leaves a share of 3 % on either side."""
    few = decide_memorisation(completed(0, 0, 100), completed(0, 0, 100))
    assert few.verdict is NOT_ENOUGH_DATA
    assert few.bound_low < 0 < few.bound_high
    assert few.bound_high == pytest.approx(2**0.5 * (1 - 0.05**0.01))
    assert few.rows_needed > 200
    many = decide_memorisation(*[completed(0, 0, few.rows_needed)] * 2)
    assert (many.verdict, many.rows_needed) == (PASS, None)
    assert decide_memorisation(completed(9, 0, 9), completed(0, 0, 9)).verdict is NOT_ENOUGH_DATA


def test_what_anything_completes_is_no_memory_of_the_adapter() -> None:
    """Forms that every row shares are completed by the base, or by the adapter everywhere."""
    base = decide_memorisation(completed(0, 0, 400, both=200), completed(0, 0, 400, both=200))
    assert (base.verdict, base.training, base.excess) == (PASS, (0.5, 0.5), 0.0)
    form = decide_memorisation(completed(40, 0, 400), completed(40, 0, 400))
    assert (form.verdict, form.excess) == (NOT_ENOUGH_DATA, 0.0)
    learnt = decide_memorisation(completed(40, 0, 400), completed(1, 0, 400))
    assert learnt.verdict is FAIL
    assert learnt.training == (0.0, 0.1)
    assert 0.05 < learnt.bound_low < learnt.excess < learnt.bound_high


def test_the_number_of_rows_that_is_printed_decides() -> None:
    """The power at that number is what is promised."""
    few = decide_memorisation(completed(5, 0, 100), completed(0, 0, 50))
    rows = few.rows_needed
    power = _errors((0.05, 0.0, 0.0, 0.0), (rows, rows // 2), 1000)[1]
    assert 0.7 < power < 0.92
    exactly = decide_memorisation(completed(2, 0, 100), completed(0, 0, 100))
    assert (exactly.verdict, exactly.rows_needed) == (NOT_ENOUGH_DATA, None)


def test_input_that_cannot_be_decided() -> None:
    with pytest.raises(UsageError, match="must be above 0"):
        decide_memorisation(completed(0, 0, 10), completed(0, 0, 10), 0.0)
    with pytest.raises(DataError, match="no rows"):
        Completed((), ())
    for base, adapter in (((0.0,), (0.0, 1.0)), ((0.5,), (1.0,))):
        with pytest.raises(ValueError, match="0 or 1"):
            Completed(base, adapter)


def test_control_rows_that_were_trained_on() -> None:
    """They would be completed as often as the others, and hide what was learnt by heart."""
    training = [{"prompt": f"Question  {n}", "completion": "Yes"} for n in range(9)]
    control = [
        {"prompt": "question 3", "completion": " yes "},
        {"prompt": "Question 3", "completion": "No"},
        *({"text": f"Question {n} Yes"} for n in range(4)),
    ]
    shared = shared_rows(training, control)
    assert shared == [0, 2, 3, 4, 5]
    error = shared_error(control, shared, "control.jsonl")
    assert isinstance(error, DataError)
    assert "control.jsonl: 5 of 6 control rows" in str(error)
    assert "row 1 ('question 3'), row 3" in str(error)
    assert "and 2 more" in str(error)
    assert distinct([*control, control[0]]) == control[:-1]
