"""Reward functions: the two that come along, the user's own, and a guard around each.

A reward function is called as TRL calls it, by keyword: `prompts`, `completions`, `completion_ids`,
`trainer_state`, `log_metric`, `log_extra`, and a list for every other column of the rows. It
returns a number for each completion, or None where it does not apply. Trials judge with the same
functions that they train with. Imports no torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from plop_lora.errors import DataError, PlopError, UsageError
from plop_lora.evaluation.chats import before_ends
from plop_lora.evaluation.judged import Row
from plop_lora.evaluation.numbers import (
    MARK,
    ends_in_number,
    marked_number,
    reference_number,
)
from plop_lora.user_code import find_function, parts_of

Reward = Callable[..., Sequence[float | None]]

_REFERENCES = ("answer", "solution", "completion")
_SHOWN = 200

# --------------------------------------------------------------------------- what rows hold


def text_of(value: object) -> str:
    """Return the text of a completion or reference: itself, or its last message's content.

    >>> text_of([{"role": "assistant", "content": "5"}]), text_of(5)
    ('5', '5')
    """
    if isinstance(value, list | tuple) and value and isinstance(value[-1], Mapping):
        value = value[-1].get("content")
        if isinstance(value, list):
            value = "".join(str(part.get("text", "")) for part in value)
    return "" if value is None else str(value)


def answer_of(row: Row) -> str | None:
    """Return a row's reference: its `answer`, else its `solution`, else its `completion`."""
    values = (row.get(name) for name in _REFERENCES)
    return next((text_of(value) for value in values if value is not None), None)


def columns_of(rows: Sequence[Row]) -> dict[str, list[object]]:
    """Return the columns that reward functions are given, absent values as None.

    TRL keeps `prompt` and `completion` to itself; a row that has its reference only in
    `completion` therefore has it in `solution` here.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {
        name: [row.get(name) for row in rows]
        for name in names
        if name not in ("prompt", "completion")
    }
    if any(row.get("completion") is not None for row in rows):
        columns["solution"] = [
            row.get("solution") if row.get("answer") is not None else answer_of(row) for row in rows
        ]
    return columns


def as_completion(prompt: object, text: str) -> object:
    """Return a generated text as reward functions see it: a message where the prompt is a chat."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


# --------------------------------------------------------------------------- what comes along


def number_reward(completions: Sequence[object], **columns: Any) -> list[float]:
    """Return 1 where the number after the last `####` equals the reference's, else 0.

    Numbers are compared as numbers, without commas, currency signs and emphasis; a fraction is
    one number. The reference is the number after its own `####`, or its last number where it has
    no such mark.

    Raises:
        DataError: A row has no reference, or the number of its reference cannot be read whole.
    """
    wanted = [
        _reference_number({name: columns[name][index] for name in _REFERENCES if name in columns})
        for index in range(len(completions))
    ]
    found = [marked_number(text_of(completion)) for completion in completions]
    return [float(a is not None and a == b) for a, b in zip(found, wanted, strict=True)]


def _reference_number(row: Row) -> Fraction:
    reference = answer_of(row)
    if reference is None:
        raise DataError(
            "The reward `number` finds no reference in a row: it reads the columns "
            f"{', '.join(_REFERENCES)}. Add one of them to the training rows."
        )
    return reference_number(reference, "The reward `number`")


def format_reward(completions: Sequence[object], **columns: object) -> list[float]:
    """Return 1 where the last line that is not empty is `####` and a number, else 0."""
    return [float(ends_in_number(text_of(completion))) for completion in completions]


REWARDS: dict[str, Reward] = {"number": number_reward, "format": format_reward}
"""Reward functions by the name that a recipe gives them."""

# --------------------------------------------------------------------------- the user's own


def check_named(names: Sequence[str]) -> None:
    """Refuse a name that can be no reward function; nothing is imported.

    Raises:
        UsageError: A name is neither one of `REWARDS` nor of the form `module:function`.
    """
    for name in names:
        if name not in REWARDS:
            parts_of(name, "reward", tuple(REWARDS))


def find_reward(name: str) -> Reward:
    """Return a reward function, guarded: one of `REWARDS`, or the user's `module:function`.

    Raises:
        UsageError: There is no such name, module or function, or the function is asynchronous.
    """
    return checked(REWARDS.get(name) or find_function(name, "reward", tuple(REWARDS)), name)


# --------------------------------------------------------------------------- the guard


def checked(reward: Reward, name: str | None = None) -> Reward:
    """Wrap a reward function so that whatever it does wrong names it and a completion.

    The result raises a DataError where the function raises, returns another number of rewards
    than completions, or something that is neither a finite number nor None.
    """
    title = name or str(getattr(reward, "__name__", type(reward).__name__))

    def guarded(**given: Any) -> list[float | None]:
        completions = given["completions"]
        try:
            values = reward(**given)
        except PlopError:
            raise
        except Exception as error:
            offender = _offender(reward, given)
            raise DataError(
                f"The reward function {title!r} raised {type(error).__name__}: {error}; "
                f"completion: {_shown(offender)}."
            ) from error
        return checked_values(title, values, completions)

    guarded.__name__ = title  # TRL logs rewards/<name>/mean
    return guarded


def until(ends: Sequence[str], reward: Reward) -> Reward:
    """Let a reward function see completions up to the first of the texts that end an answer."""
    if not ends:
        return reward

    @functools.wraps(reward)
    def judge(**given: Any) -> Sequence[float | None]:
        pairs = zip(given["prompts"], given["completions"], strict=True)
        cut = [
            as_completion(prompt, before_ends(text_of(completion), ends))
            for prompt, completion in pairs
        ]
        return reward(**{**given, "completions": cut})

    return judge


def _offender(reward: Reward, given: Mapping[str, Any]) -> object:
    """Return the first completion that the function fails on alone, else the first of all."""
    completions = given["completions"]
    for index in range(len(completions)):
        alone = {
            key: value[index : index + 1]
            if isinstance(value, list) and len(value) == len(completions)
            else value
            for key, value in given.items()
        }
        try:
            reward(**alone)
        except Exception:
            return completions[index]
    return completions[0] if completions else ""


def checked_values(
    title: str, values: object, completions: Sequence[object], *, optional: bool = True
) -> list[float | None]:
    """Return what a function of the user's returned as numbers, one for each completion.

    Args:
        title: Name of the function in errors.
        values: The value that the function returned.
        completions: The completions that it was called with.
        optional: Whether it may return None for a completion.

    Raises:
        DataError: There are more or fewer values than completions, or one is no finite number.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise DataError(
            f"The function {title!r} returned {type(values).__name__}; it must return a list with "
            "one number for each completion."
        )
    numbers = list(values)
    if len(numbers) != len(completions):
        raise DataError(
            f"The function {title!r} returned {len(numbers)} values for {len(completions)} "
            "completions; it must return one for each."
        )
    pairs = zip(numbers, completions, strict=True)
    return [_finite(title, value, completion, optional) for value, completion in pairs]


def _finite(title: str, value: Any, completion: object, optional: bool) -> float | None:
    if value is None and optional:
        return None
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        return number
    allowed = "a finite number or None" if optional else "a finite number"
    raise DataError(
        f"The function {title!r} returned {value!r} for the completion {_shown(completion)}; "
        f"allowed is {allowed}."
    )


def _shown(completion: object) -> str:
    text = text_of(completion)
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + " …")


# --------------------------------------------------------------------------- calling one


def call_reward(
    reward: Reward,
    rows: Sequence[Row],
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]] | None = None,
) -> list[float | None]:
    """Call a guarded reward function on rows as TRL does, outside of training.

    Args:
        reward: A function from `find_reward` or `checked`.
        rows: Rows with a `prompt`.
        texts: Text of the completion for each row.
        tokens: Token numbers of each completion, if they are known.
    """
    prompts = [row["prompt"] for row in rows]
    values = reward(
        prompts=prompts,
        completions=[as_completion(p, text) for p, text in zip(prompts, texts, strict=True)],
        completion_ids=[list(ids) for ids in tokens] if tokens else [[] for _ in rows],
        trainer_state=SimpleNamespace(global_step=0, max_steps=0, epoch=0.0),
        log_metric=_ignore,
        log_extra=_ignore,
        **columns_of(rows),
    )
    return list(values)


def _ignore(name: str, value: object) -> None:
    """Take what a reward function logs where there is no log."""


def try_rewards(names: Sequence[str], rows: Sequence[Row]) -> None:
    """Call every reward function once on the first two rows, before anything is trained.

    The references of `number` are read in all rows.

    Raises:
        UsageError: No function is named, or there is none of that name.
        DataError: A function raises on these rows or returns something it must not, or no
            function rewards them.
    """
    if not names:
        raise UsageError(
            "The task grpo needs a reward function. Name one or more in training.rewards: "
            f"{', '.join(REWARDS)}, or a function of yours as module:function."
        )
    first = rows[:2]
    if "number" in names:
        check_references(map(answer_of, rows), "The reward `number`")
    answers = [f"A short answer.\n{MARK} 0"] * len(first)
    values = [call_reward(find_reward(name), first, answers) for name in names]
    if first and all(value is None for given in values for value in given):
        raise DataError(
            f"{', '.join(names)}: None for each of the first {len(first)} rows, so nothing would "
            "be rewarded. Return a number where a reward applies, or name one that does."
        )


def check_references(references: Iterable[str | None], reader: str) -> None:
    """Refuse the first reference whose number cannot be read whole; None is passed over.

    Args:
        references: Reference of every row, in their order.
        reader: Name of the metric or reward that reads the numbers, for the error.

    Raises:
        DataError: The number of a reference cannot be read whole; the error names its row.
    """
    for number, reference in enumerate(references, start=1):
        if reference is None:
            continue
        try:
            reference_number(reference, reader)
        except DataError as error:
            raise DataError(f"Row {number}: {error}") from error
