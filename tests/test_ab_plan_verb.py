"""`plop ab plan` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from plop_lora.records import ExperimentPlan

Run = Callable[..., tuple[int, str, str]]


def test_units_and_days_from_a_rate(run: Run, tmp_path: Path) -> None:
    """7,678 units by the textbook; 500 a day, of which half take part, come in 31 days."""
    kept = tmp_path / "plan.json"
    words = ("--baseline", "0.10", "--effect", "0.02", "--traffic", "500", "--coverage", "50%")
    code, output, _ = run("ab", "plan", *words, "-o", str(kept))
    assert code == 0
    assert "fixed        7,678  3,839 + 3,839    31   0.02" in output
    assert ExperimentPlan.load(kept).coverage == 0.5


def test_the_effect_that_a_number_of_units_shows_from_past_data(run: Run, tmp_path: Path) -> None:
    past = tmp_path / "past.csv"
    rows = "".join(f"u{n % 300},{int(n % 10 == 0)},{n % 7}\n" for n in range(900))
    past.write_text(f"account,resolved,tokens\n{rows}")
    words = ("ab", "plan", "--past", str(past), "--units", "8000", "--format", "json")
    code, output, _ = run(*words, "--metric", "resolved", "--unit", "account", "--kind", "share")
    assert code == 0
    assert json.loads(output)["mean"] == pytest.approx(0.1)
    code, output, _ = run(*words, "--metric", "tokens/resolved", "--kind", "ratio")
    assert code == 0
    assert json.loads(output)["mean"] > 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--baseline 0.10 for a share"),
        (("--baseline", "5", "--effect", "1"), "give its standard deviation over units with --sd"),
        (("--baseline", "0.1"), "exactly one of --effect, --margin and --units"),
        (("--baseline", "0.1", "--effect", "0.02", "--weights", "half"), "--weights is 'half'"),
        (("--baseline", "0.1", "--effect", "0.02", "--coverage", "5%"), "Give --traffic as well"),
        (
            ("--baseline", "0.1", "--effect", "0.02", "--traffic", "9", "--coverage", "5"),
            "Write 5% or 0.05",
        ),
        (("--past", "p.csv", "--effect", "1"), "Give the column of p.csv"),
        (("--past", "p.csv", "--metric", "a", "--kind", "ratio"), "needs two columns"),
        (("--baseline", "x"), "--baseline cannot be 'x': give a number. Type plop ab plan --help"),
        (("--kind", "rate"), "Type plop ab plan --help"),
        (("--effct", "1"), "Type plop ab plan --help"),
    ],
)
def test_what_cannot_be_planned(run: Run, words: tuple[str, ...], message: str) -> None:
    code, output, errors = run("ab", "plan", *words)
    assert (code, output) == (2, "")
    assert message in errors


def test_the_group_shows_its_verbs(run: Run) -> None:
    """`plop ab` alone ended in an error of the parser, and a slip in a verb in no hint."""
    code, output, _ = run("ab")
    assert code == 0
    assert "plan" in output
    code, _, errors = run("ab", "pla")
    assert code == 2
    assert "Did you mean 'plan'" in errors
