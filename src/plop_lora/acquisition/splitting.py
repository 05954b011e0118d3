"""Evaluation rows held out of training rows: at random, by whole groups, or the latest.

No torch.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import random
from collections import defaultdict
from collections.abc import Hashable, Sequence

from plop_lora.acquisition.passages import Passage
from plop_lora.data.reading import Row
from plop_lora.data.recognising import demand_fields
from plop_lora.errors import DataError
from plop_lora.recipe.acquire import BY_GROUP, SplitSettings


def held_out(
    rows: Sequence[Row],
    passages: Sequence[Passage],
    numbers: Sequence[int],
    source: str,
    *,
    split: SplitSettings,
    seed: int,
) -> frozenset[int]:
    """Return the indices of the rows that become evaluation rows.

    Args:
        rows: Rows that are split.
        passages: Their texts. Rows that ask the same stay on one side where rows are drawn.
        numbers: Their numbers in the source, for errors.
        source: The user's name of the data.
        split: How to split.
        seed: Seed of the draw.

    Raises:
        DataError: The column is missing, or empty in a row; there is one group only; a time cannot
            be read; or one side would be empty.
    """
    column = split.column
    if column is not None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        demand_fields([column], names, source)
        _check_filled(rows, numbers, source, column)
    wanted = max(1, round(split.share * len(rows)))
    if column is None:
        return _of_groups([text.asked for text in passages], wanted, seed, source, "questions")
    values = [row[column] for row in rows]
    if split.by == BY_GROUP:
        what = f"values of the column {column!r}"
        return _of_groups([str(value) for value in values], wanted, seed, source, what)
    times = [
        _time(value, f"{source}, row {number}: the column {column!r}")
        for value, number in zip(values, numbers, strict=True)
    ]
    return _latest(times, wanted, source)


def _check_filled(rows: Sequence[Row], numbers: Sequence[int], source: str, column: str) -> None:
    for row, number in zip(rows, numbers, strict=True):
        value = row.get(column)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise DataError(
                f"{source}, row {number}, has nothing in the column {column!r}, by which rows are "
                "split. Fill it in, or leave the row out."
            )


def _of_groups(
    keys: Sequence[Hashable], wanted: int, seed: int, source: str, what: str
) -> frozenset[int]:
    """Return the rows of groups, in a random order, as far as they do not exceed the number."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        groups[key].append(index)
    if len(groups) < 2:
        raise DataError(
            f"{source} cannot be split: its {len(keys)} rows have {len(groups)} different {what}, "
            "and at least 2 are needed. Give evaluation rows with --eval."
        )
    order = sorted(groups.values())
    random.Random(seed).shuffle(order)
    chosen: list[int] = []
    for group in order:
        if len(chosen) + len(group) <= wanted:
            chosen += group
    smallest = min(range(len(order)), key=lambda place: len(order[place]))
    return frozenset(chosen or order[smallest])


def _latest(times: Sequence[float], wanted: int, source: str) -> frozenset[int]:
    """Return the latest rows; rows of the same time stand on the same side."""
    boundary = sorted(times, reverse=True)[wanted - 1]
    for chosen in (
        frozenset(index for index, time in enumerate(times) if time >= boundary),
        frozenset(index for index, time in enumerate(times) if time > boundary),
    ):
        if 0 < len(chosen) < len(times):
            return chosen
    raise DataError(
        f"{source} cannot be split by time: all of its {len(times)} rows have the same time. Split "
        "by row or by group, or give evaluation rows with --eval."
    )


def _time(value: object, where: str) -> float:
    """Return a time as a number; a time without a zone is in UTC."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, datetime.date):
        value = value.isoformat()
    text = value if isinstance(value, str) else ""
    for read in (float, _from_iso):
        with contextlib.suppress(ValueError, OverflowError):
            found = read(text)
            if math.isfinite(found):
                return found
    raise DataError(
        f"{where} holds no time. Write times as numbers, or as 2026-03-02T09:00:00+00:00."
    )


def _from_iso(text: str) -> float:
    found = datetime.datetime.fromisoformat(text.strip())
    return found.replace(tzinfo=found.tzinfo or datetime.UTC).timestamp()
