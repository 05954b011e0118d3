"""Events of an experiment, and the pseudonyms under which units stand in them. Needs no torch."""

from __future__ import annotations

import math
from datetime import datetime

import pytest
from experiments import SALT, START, experiment

from plop_lora.ab.events import BEFORE, EXPOSURE, Event, exposure, measured
from plop_lora.errors import DataError, UsageError


def test_a_pseudonym_is_fixed_and_tells_neither_the_unit_nor_its_arm() -> None:
    """Another process or version would store the same account under another name."""
    design = experiment()
    name = design.pseudonym("account-17")
    assert name == "6b84b995e4eea96182bcc3447334ed1e"
    assert name != experiment(salt=SALT[::-1]).pseudonym("account-17")
    names = {design.pseudonym(f"account-{number}") for number in range(2_000)}
    assert len(names) == 2_000
    firsts = [
        int(design.pseudonym(f"u{number}")[:8], 16) / 2**32
        for number in range(4_000)
        if design.assign(f"u{number}") == "next"
    ]
    spread = 1 / math.sqrt(12 * len(firsts))
    assert abs(sum(firsts) / len(firsts) - 0.5) < 4 * spread


def test_a_unit_is_a_text_that_is_not_empty() -> None:
    """All units without an id would be one unit."""
    for wrong in ("", None, 17):
        with pytest.raises(UsageError, match="not empty"):
            experiment().pseudonym(wrong)


def test_an_exposure_counts_once_in_each_arm() -> None:
    """A router that was started again would log every unit a second time."""
    first, later = exposure("u", "now", START), exposure("u", "now", START.replace(year=2027))
    assert first.id == later.id
    assert first.kind is EXPOSURE
    assert first.id != exposure("u", "next", START).id
    assert first.id != exposure("v", "now", START).id


def test_the_id_of_a_value_is_its_callers_or_new() -> None:
    """A retry would count twice, or two values of a unit would count as one."""
    assert measured("u", "a", 1, START, id="7").id == measured("u", "a", 2, START, id="7").id
    assert measured("u", "a", 1, START, id="7").id != measured("v", "a", 1, START, id="7").id
    before = measured("u", "a", 1, START, id="7", kind=BEFORE)
    assert before.id != measured("u", "a", 1, START, id="7").id
    assert measured("u", "a", 1, START).id != measured("u", "a", 1, START).id


def test_an_event_without_a_time_zone_or_a_finite_value_is_refused() -> None:
    """SQLite would drop the zone, and one infinite value would be the mean of its arm."""
    with pytest.raises(UsageError, match="no time zone"):
        exposure("u", "now", datetime(2026, 3, 2))
    with pytest.raises(DataError, match="finite"):
        measured("u", "latency", math.nan, START)
    with pytest.raises(DataError, match="1 to 64"):
        Event(id="", kind=EXPOSURE, unit="u", arm="now", at=START)
