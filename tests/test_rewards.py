from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from plop_lora.errors import DataError, UsageError
from plop_lora.evaluation.numbers import last_number, marked_number
from plop_lora.evaluation.rewards import (
    REWARDS,
    call_reward,
    checked,
    columns_of,
    find_reward,
    try_rewards,
)

ROWS = [
    {"prompt": "How many?", "answer": "There are 6 / 2 = 3.\n#### 3"},
    {"prompt": "How much?", "answer": "It costs\n#### $1,250.50"},
]


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("It is\n#### 1250.5", True),
        ("#### 1,250.50", True),
        ("#### $1,250.50.", True),
        ("####1250.50 dollars", True),
        ("#### 3\n#### €1250.5", True),
        ("#### 1250.5\n#### 3", False),
        ("#### -1250.5", False),
        ("#### about 1250.5", False),
        ("1250.5", False),
        ("####", False),
        ("", False),
    ],
)
def test_number(completion: str, right: bool) -> None:
    """Only the number right after the last mark counts, and it counts as a number."""
    assert call_reward(find_reward("number"), ROWS[1:], [completion]) == [float(right)]


@pytest.mark.parametrize(
    ("reference", "completion"),
    [("#### -3", "#### −3"), ("42", "#### 42.0"), ("so 7 - 2 = 5", "#### 5"), ("10-5", "#### 5")],
)
def test_number_of_references(reference: str, completion: str) -> None:
    row = {"prompt": "?", "answer": reference}
    assert call_reward(find_reward("number"), [row], [completion]) == [1.0]


def test_reference_is_answer_then_solution_then_completion() -> None:
    """TRL hides the column `completion` from reward functions, so it travels as `solution`."""
    rows = [
        {"prompt": "?", "answer": "#### 1", "solution": "#### 2", "completion": "#### 3"},
        {"prompt": "?", "solution": "#### 2", "completion": "#### 3"},
        {"prompt": "?", "completion": "#### 3"},
        {"prompt": "?", "completion": [{"role": "assistant", "content": "#### 4"}]},
    ]
    right = ["#### 1", "#### 2", "#### 3", "#### 4"]
    assert call_reward(find_reward("number"), rows, right) == [1.0] * 4
    assert "completion" not in columns_of(rows)
    with pytest.raises(DataError, match="answer, solution, completion"):
        call_reward(find_reward("number"), [{"prompt": "?"}], ["#### 1"])
    with pytest.raises(DataError, match="no number in the reference 'none'"):
        call_reward(find_reward("number"), [{"prompt": "?", "answer": "none"}], ["#### 1"])


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("6 / 2 = 3\n#### 3\n\n", True),
        ("#### $1,000", True),
        ("#### 3 weeks", False),
        ("#### 3\nSo it is three.", False),
        ("#### three", False),
        ("3", False),
        ("", False),
    ],
)
def test_format(completion: str, right: bool) -> None:
    """The mark and its number must be the last line, whatever the number."""
    assert call_reward(find_reward("format"), ROWS[:1], [completion]) == [float(right)]


def test_chats_are_read_by_their_last_message() -> None:
    rows = [{"prompt": [{"role": "user", "content": "?"}], "answer": "#### 5"}]
    assert call_reward(find_reward("number"), rows, ["#### 5"]) == [1.0]


def test_last_number() -> None:
    assert last_number("no number") is None
    assert last_number("1,000 and then -2.5.") == Decimal("-2.5")


USER = '''
calls = []
def length(prompts, completions, answer, **rest):
    """Also tells which arguments came."""
    calls.append(sorted(rest))
    return [float(len(text)) for text in completions]
def breaks(completions, **rest):
    if any("bad" in text for text in completions):
        raise KeyError("weight")
    return [0.0] * len(completions)
def short(completions, **rest):
    return [1.0]
async def later(completions, **rest):
    return [1.0]
value = 3
'''


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "plop_test_rewards.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "plop_test_rewards", raising=False)
    return "plop_test_rewards"


def test_a_function_of_the_user(user_module: str) -> None:
    """It is found beside the recipe, called as TRL calls it, and named as TRL should log it."""
    reward = find_reward(f"{user_module}:length")
    assert call_reward(reward, ROWS, ["ab", "c"]) == [2.0, 1.0]
    assert reward.__name__ == f"{user_module}:length"
    import plop_test_rewards

    assert plop_test_rewards.calls == [
        ["completion_ids", "log_extra", "log_metric", "trainer_state"]
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nummber", "Did you mean 'number'"),
        ("", "Allowed: number, format, or a function"),
        ("{module}:", "module:function"),
        ("plop_no_such_module:f", "there is no module 'plop_no_such_module'"),
        ("{module}.py:length", "without .py"),
        ("{module}:lenght", "Did you mean 'length'"),
        ("{module}:value", "has no function 'value'"),
        ("{module}:later", "asynchronous"),
    ],
)
def test_functions_that_there_are_not(user_module: str, name: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        find_reward(name.format(module=user_module))


def test_a_module_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package inside the user's module must not read as a missing module."""
    (tmp_path / "plop_test_broken.py").write_text("import plop_no_such_package")
    (tmp_path / "plop_test_syntax.py").write_text("def f(:")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"its module fails with .*plop_no_such_package"):
        find_reward("plop_test_broken:f")
    with pytest.raises(UsageError, match="SyntaxError"):
        find_reward("plop_test_syntax:f")


def test_an_exception_names_the_function_and_the_completion(user_module: str) -> None:
    reward = find_reward(f"{user_module}:breaks")
    with pytest.raises(DataError, match=r":breaks' raised KeyError: 'weight'.*'a bad one'"):
        call_reward(reward, ROWS, ["good", "a bad one"])


def test_a_wrong_length_names_both(user_module: str) -> None:
    with pytest.raises(DataError, match="1 values for 2 completions"):
        call_reward(find_reward(f"{user_module}:short"), ROWS, ["a", "b"])


@pytest.mark.parametrize("value", ["1.0", float("nan"), float("inf"), [1.0], {}, object()])
def test_what_is_no_number_is_refused(value: object) -> None:
    reward = checked(lambda completions, **rest: [0.0, value], "mine")
    with pytest.raises(DataError, match=r"'mine' returned .* for the completion 'second'"):
        call_reward(reward, ROWS, ["first", "second"])


@pytest.mark.parametrize("values", [None, "12", 1.0, {"a": 1, "b": 2}])
def test_what_is_no_list_is_refused(values: object) -> None:
    with pytest.raises(DataError, match="must return a list"):
        call_reward(checked(lambda **given: values, "mine"), ROWS, ["a", "b"])


def test_none_arrays_and_truths_are_allowed() -> None:
    arrays = checked(lambda **given: np.array([0.5, 1.0], dtype=np.float32), "arrays")
    mixed = checked(lambda **given: (None, True), "mixed")
    assert call_reward(arrays, ROWS, ["a", "b"]) == [0.5, 1.0]
    assert call_reward(mixed, ROWS, ["a", "b"]) == [None, 1.0]


def test_rewards_that_apply_to_no_row_are_refused(tmp_path: Path, monkeypatch) -> None:
    """Training ran to its end with a reward of NaN."""
    (tmp_path / "silent_rewards.py").write_text(
        "def none(prompts, completions, **columns):\n    return [None] * len(prompts)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="None for each of the first 2 rows"):
        try_rewards(("silent_rewards:none",), ROWS)
    try_rewards(("silent_rewards:none", "format"), ROWS)


def test_trying_refuses_before_training(user_module: str) -> None:
    """A reward that needs a column which the rows lack must not fail after an hour."""
    try_rewards((*REWARDS, f"{user_module}:length"), ROWS)
    with pytest.raises(UsageError, match="needs a reward function"):
        try_rewards((), ROWS)
    with pytest.raises(DataError, match=r":length' raised TypeError.*answer"):
        try_rewards((f"{user_module}:length",), [{"prompt": "?", "question": "?"}])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 1,2,3", None),
        ("#### 12,34", None),
        ("#### 1.2.3", None),
        ("#### 1e5", 100_000),
        ("#### 1.5E-3", Decimal("0.0015")),
        ("#### 1,234,567.5", Decimal("1234567.5")),
        ("#### 3, since", 3),
        ("#### 3.", 3),
        ("#### -.5", Decimal("-0.5")),
    ],
)
def test_what_is_one_number(text: str, number: object) -> None:
    """A list "1,2,3" was read as 123, and "1e5" as 5: wrong answers were rewarded."""
    assert marked_number(text) == number
    assert last_number(text.removeprefix("#### ")) == number
