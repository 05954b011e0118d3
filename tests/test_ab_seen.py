"""From stored events to observations, against a slow reading of the rules. Needs no torch."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import timedelta

import pytest
from experiments import START, arm, experiment
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import MINUTE, visit

from plop_lora.ab import Metric, MetricKind, Observation, PerUnit
from plop_lora.ab.events import BEFORE, EXPOSURE, VALUE, Event, exposure, measured
from plop_lora.ab.store import LeftOut, Store

ARMS = ("now", "next", "other")
DESIGN = experiment(
    arms=tuple(arm(name, weight) for name, weight in zip(ARMS, (0.5, 0.25, 0.25), strict=True)),
    metrics=(
        Metric(name="resolved", kind=MetricKind.SHARE),
        Metric(name="latency", higher_is_better=False, cuped=True),
        Metric(name="spent", per_unit=PerUnit.SUM, cuped=True),
    ),
)


@pytest.fixture
def run(tmp_path):
    """An experiment of three arms that has been started."""
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        found = store.run(DESIGN)
        found.start(START)
        yield found


def seen(run) -> list[tuple[str, str, float, dict[str, float]]]:
    """Return unit, arm, minutes after the start, and values of all observations."""
    return [
        (one.unit, one.arm, (one.exposed_at - START) / MINUTE, dict(one.values))
        for one in run.observations()
    ]


def test_values_of_one_time_make_one_observation(run) -> None:
    """A request logs several values, and a unit makes many requests."""
    run.write(visit("u", "now", 10, [("latency", 1, 0), ("resolved", 1, 0), ("latency", 2, 3)]))
    assert seen(run) == [
        ("u", "now", 10, {"latency": 1, "resolved": 1}),
        ("u", "now", 13, {"latency": 2}),
    ]


def test_values_of_one_name_and_time_are_all_kept(run) -> None:
    """Two requests that end in the same moment would count as one."""
    run.write(visit("u", "now", 0, [("latency", 1, 1), ("latency", 2, 1), ("resolved", 0, 1)]))
    rows = [values for _, _, _, values in seen(run)]
    assert sorted(row["latency"] for row in rows) == [1, 2]
    assert [row["resolved"] for row in rows if "resolved" in row] == [0]


def test_a_unit_without_values_is_seen(run) -> None:
    """Units of an arm that fails before it logs anything would be missing from the ratio."""
    run.write(visit("u", "next", 7))
    assert seen(run) == [("u", "next", 7, {})]


def test_a_unit_in_two_arms_is_seen_in_both(run) -> None:
    """It has to be counted as crossed, and each value belongs to the arm that it followed."""
    run.write(visit("u", "now", 0, [("latency", 1, 1), ("latency", 3, 20)]))
    run.write(visit("u", "next", 10))
    run.write(visit("v", "now", 0, [("latency", 1, 1)]) + visit("v", "next", 10))
    assert seen(run) == [
        ("u", "now", 1, {"latency": 1}),
        ("u", "next", 20, {"latency": 3}),
        ("v", "now", 1, {"latency": 1}),
        ("v", "next", 10, {}),
    ]


def test_values_from_long_before_the_exposure_are_left_out(run) -> None:
    """History that is imported as values would hide the effect; clocks differ by seconds."""
    run.write(visit("u", "now", 60, [("latency", 1, -6), ("latency", 2, -5), ("latency", 3, -1)]))
    assert seen(run) == [("u", "now", 60, {"latency": 2}), ("u", "now", 60, {"latency": 3})]
    assert run.left_out() == LeftOut(before_exposure=1)


def test_values_of_a_unit_that_was_never_exposed_are_left_out(run) -> None:
    """They belong to no arm."""
    run.write([measured("w", "latency", 1, START), measured("w", "latency", 1, START)])
    run.write([measured("w", "latency", 9, START, kind=BEFORE)])
    assert seen(run) == []
    assert run.left_out() == LeftOut(unknown_unit=2)
    assert run.left_out().total == 2


def test_values_from_while_the_arm_was_off_are_left_out(run) -> None:
    """Units of an arm that is off get the control, whose values would be those of the arm."""
    run.write(visit("u", "next", 0, [("latency", minute, minute) for minute in (1, 5, 7, 9)]))
    run.write(visit("v", "now", 0, [("latency", 6, 6)]))
    run.switch("next", on=False, reason="slow", at=START + 5 * MINUTE)
    run.switch("next", on=True, reason="mended", at=START + 9 * MINUTE)
    assert seen(run) == [
        ("u", "next", 1, {"latency": 1}),
        ("u", "next", 9, {"latency": 9}),
        ("v", "now", 6, {"latency": 6}),
    ]
    assert run.left_out() == LeftOut(switched_off=2)


def test_values_from_after_the_end_are_left_out(run) -> None:
    """All units have one adapter then, and the difference of the arms would fade."""
    run.write(visit("u", "next", 0, [("latency", 1, 4), ("latency", 2, 5), ("latency", 3, 6)]))
    run.stop("ship", "next", "better", START + 5 * MINUTE)
    assert [values for *_, values in seen(run)] == [{"latency": 1}, {"latency": 2}]
    assert run.left_out() == LeftOut(after_end=1)


def test_values_from_before_go_with_every_observation(run) -> None:
    """The burn-in may drop the first one, and the spread would not be taken away any more."""
    earlier = [("latency", 1), ("latency", 3), ("spent", 4), ("spent", 6)]
    run.write([measured("u", name, value, START, kind=BEFORE) for name, value in earlier])
    run.write(visit("u", "now", 5, [("latency", 1, 1), ("latency", 2, 2)]))
    for one in run.observations():
        assert one.before == {"latency": 2, "spent": 10}


def test_values_that_no_metric_has_stay_in_the_store(run) -> None:
    """The router logs five values of a request, and an experiment uses two of them."""
    run.write(visit("u", "now", 0, [("tokens_in", 7, 1), ("latency", 2, 1)]))
    assert seen(run) == [("u", "now", 1, {"latency": 2})]
    assert run.counts().events == {"latency": 1, "tokens_in": 1}
    assert run.left_out().total == 0


# --------------------------------------------------------------------------- a slow reading


def reference(events: list[Event], off: list[tuple[str, int, int]], end: int | None):
    """Return what the rules say, one value at a time, from all events in any order."""
    found: dict[tuple[str, str], list[tuple[object, str, float]]] = defaultdict(list)
    left = {"unknown_unit": 0, "before_exposure": 0, "switched_off": 0, "after_end": 0}
    met: dict[str, dict[str, object]] = defaultdict(dict)
    for event in events:
        if event.kind is EXPOSURE:
            known = met[event.unit].get(event.arm, event.at)
            met[event.unit][event.arm] = min(known, event.at)
    for event in events:
        if event.kind is not VALUE:
            continue
        arms = met.get(event.unit)
        if not arms:
            left["unknown_unit"] += 1
            continue
        first = min(arms.values())
        at = max(first, event.at)
        name = max((exposed, arm) for arm, exposed in arms.items() if exposed <= at)[1]
        if event.at < first - timedelta(minutes=5):
            left["before_exposure"] += 1
        elif end is not None and at > START + end * MINUTE:
            left["after_end"] += 1
        elif any(
            one == name and START + a * MINUTE <= at < START + b * MINUTE for one, a, b in off
        ):
            left["switched_off"] += 1
        else:
            found[event.unit, name].append((at, event.name, event.value))
    return met, found, left


MINUTES = st.integers(-12, 40)
EVENTS = st.lists(
    st.one_of(
        st.builds(
            lambda unit, arm_name, at: exposure(unit, arm_name, START + at * MINUTE),
            st.sampled_from("uvw"), st.sampled_from(ARMS), MINUTES,
        ),
        st.builds(
            lambda unit, name, value, at: measured(unit, name, value, START + at * MINUTE),
            st.sampled_from("uvwx"), st.sampled_from(("resolved", "latency")),
            st.sampled_from((0.0, 0.25, 1.0)), MINUTES,
        ),
    ),
    max_size=24,
)  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(
    events=EVENTS,
    spans=st.lists(st.tuples(st.sampled_from(ARMS[1:]), st.integers(0, 8), st.integers(1, 9)),
                   max_size=3),
    end=st.none() | st.integers(30, 40),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_observations_follow_the_rules(tmp_path_factory, events, spans, end, seed) -> None:
    """The quick reading goes over the events once, in the order of the database."""
    folder = tmp_path_factory.mktemp("seen")
    random.Random(seed).shuffle(events)
    unique = {event.id: event for event in reversed(events)}
    off = []
    with Store.open(f"sqlite:///{folder}/s.db") as store:
        run = store.run(DESIGN)
        run.start(START)
        run.write(events[: len(events) // 2])
        run.write(events[len(events) // 2 :])
        for index, (name, start, length) in enumerate(spans):
            first = index * 20 + start  # one after the other, as changes are
            run.switch(name, on=False, reason="", at=START + first * MINUTE)
            run.switch(name, on=True, reason="", at=START + (first + length) * MINUTE)
            off.append((name, first, first + length))
        if end is not None:
            run.stop("keep", "now", "", START + end * MINUTE)
        result = run.seen()
    met, found, left = reference(list(unique.values()), off, end)
    assert result.left_out == LeftOut(**left)
    by_arm: dict[tuple[str, str], list[Observation]] = defaultdict(list)
    for one in result.observations:
        by_arm[one.unit, one.arm].append(one)
    assert by_arm.keys() == {(unit, name) for unit, arms in met.items() for name in arms}
    for key, rows in by_arm.items():
        values = [(one.exposed_at, *item) for one in rows for item in one.values.items()]
        assert sorted(values) == sorted(found[key])
        if not found[key]:
            assert [one.exposed_at for one in rows] == [met[key[0]][key[1]]]
        else:
            assert all(one.values for one in rows)
        times = [one.exposed_at for one in rows]
        assert times == sorted(times)
