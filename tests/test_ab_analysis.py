"""From observations to a decision: the order of the steps, each verdict, and its words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from experiments import START, arm, drawn, experiment, observations
from scipy import stats

from plop_lora.ab import (
    Baseline,
    Metric,
    MetricKind,
    Observation,
    PerUnit,
    Ramp,
    analyze,
    plan,
)
from plop_lora.ab.comparisons import FEWEST_UNITS, Errors, scale_of
from plop_lora.errors import DataError, RecordError, UsageError
from plop_lora.records import Analysis, MetricComparison
from plop_lora.records.analysis import Action, Cause, Design, MetricVerdict

BOTH = {"now": 2000, "next": 2000}


def row(analysis: Analysis, metric: str, name: str = "next") -> MetricComparison:
    """Return the comparison of a metric of an arm."""
    return next(one for one in analysis.comparisons if (one.metric, one.arm) == (metric, name))


# -------------------------------------------------------------------------------- decisions


def test_a_better_arm_within_its_margins_ships() -> None:
    found = analyze(experiment(), drawn(BOTH, {"now": 0.5, "next": 0.6}))
    assert (found.action, found.exit_code, found.winner) == (Action.SHIP, 0, "next")
    assert [one.metric for one in found.comparisons] == ["latency", "resolved"]
    assert row(found, "resolved").verdict is MetricVerdict.BETTER
    assert row(found, "latency").verdict is MetricVerdict.NON_INFERIOR
    assert row(found, "resolved").difference == pytest.approx(0.1)
    (decision,) = found.decisions
    assert decision.reason == (
        "next: ship. The arm is better in resolved, and within its margin in latency."
    )
    assert found.lines[0].startswith("Sample ratio: units seen, of those expected: now 2,000 of")
    assert found.lines[1].startswith("Left out: 0 of 4,000 units")
    assert Analysis.from_dict(json.loads(found.to_json())) == found


def test_a_harmful_guardrail_stops_an_arm_that_is_better() -> None:
    """A gain must not buy a loss that nobody agreed to."""
    found = analyze(
        experiment(),
        drawn(BOTH, {"now": 0.5, "next": 0.6}, {"now": 1.0, "next": 1.4}),
    )
    (decision,) = found.decisions
    assert (decision.action, decision.cause) == (Action.STOP, Cause.HARM)
    assert "it is shown to be worse in latency" in decision.reason
    assert row(found, "resolved").verdict is MetricVerdict.BETTER
    assert "The arm is worse by at least 0.2" in row(found, "latency").reason
    assert found.exit_code == 3


def test_a_worse_primary_metric_is_harm_and_not_merely_not_significant() -> None:
    found = analyze(experiment(), drawn(BOTH, {"now": 0.5, "next": 0.4}))
    (decision,) = found.decisions
    assert (decision.action, decision.cause) == (Action.STOP, Cause.HARM)
    assert "worse in resolved" in decision.reason
    assert "not shown" not in decision.reason


def test_an_arm_all_of_whose_units_fail_is_harm() -> None:
    """No unit of either arm differs from the others of its arm, so that neither has a spread."""
    found = analyze(experiment(), drawn({"now": 200, "next": 200}, {"now": 1.0, "next": 0.0}))
    primary = next(row for row in found.comparisons if row.metric == "resolved")
    assert primary.verdict is MetricVerdict.HARM
    assert primary.difference == -1.0
    assert found.decisions[0].cause is Cause.HARM
    alike = analyze(experiment(), drawn({"now": 200, "next": 200}, {"now": 1.0, "next": 1.0}))
    primary = next(row for row in alike.comparisons if row.metric == "resolved")
    assert primary.verdict is MetricVerdict.UNDECIDED
    assert primary.low < 0 < primary.high


def test_a_small_loss_within_the_margin_is_no_harm() -> None:
    """With many units every difference is significant; the margin says which one matters."""
    many = {"now": 20_000, "next": 20_000}
    found = analyze(
        experiment(planned_units=40_000),
        drawn(many, {"now": 0.5, "next": 0.6}, {"now": 1.0, "next": 1.08}),
    )
    latency = row(found, "latency")
    assert latency.best is not None
    assert latency.best < 0
    assert latency.verdict is MetricVerdict.NON_INFERIOR
    assert found.action is Action.SHIP


def test_what_is_open_goes_on_until_the_planned_units_have_come() -> None:
    seen = drawn({"now": 400, "next": 400}, {"now": 0.5, "next": 0.55})
    found = analyze(experiment(), seen)
    (decision,) = found.decisions
    assert (decision.action, decision.cause) == (Action.CONTINUE, Cause.UNDECIDED)
    assert "that resolved is better" in decision.reason
    assert "3,200 of 4,000 planned units are still to come" in decision.change
    needed = row(found, "resolved").units_needed
    assert needed is not None
    assert 800 < needed < 10_000
    tiny = analyze(experiment(), drawn({"now": 400, "next": 400}, {"now": 0.5, "next": 0.51}))
    assert "would decide, more than are planned, if" in tiny.decisions[0].change
    ended = analyze(experiment(planned_units=800), seen)
    (decision,) = ended.decisions
    assert (decision.action, decision.cause) == (Action.STOP, Cause.NO_GAIN)
    assert "resolved may be worse by up to" in decision.reason
    assert "keep the control" in decision.reason
    assert ended.exit_code == 3


def test_the_units_needed_would_decide() -> None:
    """The number that a user plans with has to be enough, if the difference stays."""
    few = analyze(experiment(), drawn({"now": 400, "next": 400}, {"now": 0.5, "next": 0.55}))
    needed = row(few, "resolved").units_needed
    assert needed is not None
    half = math.ceil(1.02 * needed / 2)
    enough = analyze(experiment(), drawn({"now": half, "next": half}, {"now": 0.5, "next": 0.55}))
    assert row(enough, "resolved").verdict is MetricVerdict.BETTER
    half = math.floor(0.97 * needed / 2)
    less = analyze(experiment(), drawn({"now": half, "next": half}, {"now": 0.5, "next": 0.55}))
    assert row(less, "resolved").verdict is MetricVerdict.UNDECIDED


def test_several_arms_are_decided_one_by_one_with_a_shared_error() -> None:
    arms = (arm("now", 0.4), arm("next", 0.3), arm("other", 0.3))
    design = experiment(arms=arms, planned_units=10_000)
    counts = {"now": 4000, "next": 3000, "other": 3000}
    found = analyze(design, drawn(counts, {"now": 0.5, "next": 0.6, "other": 0.4}))
    assert [one.cause for one in found.decisions] == [Cause.BETTER, Cause.HARM]
    assert (found.action, found.winner) == (Action.SHIP, "next")
    assert Errors.of(design) == Errors(effect=0.025, margin=0.025, harm=0.025 / 4)
    assert scale_of(design, "next", Design.SEQUENTIAL).planned == pytest.approx(7000)
    both = analyze(design, drawn(counts, {"now": 0.5, "next": 0.6, "other": 0.65}))
    assert both.winner == "other"


# ------------------------------------------------------------------------- sample ratio, dropped


def test_a_void_sample_ratio_decides_before_any_metric() -> None:
    """Lost units are seldom average ones; a harmful arm may look best without them."""
    found = analyze(experiment(), drawn({"now": 2000, "next": 1600}, {"now": 0.5, "next": 0.7}))
    assert found.sample_ratio.mismatch
    (decision,) = found.decisions
    assert (decision.action, decision.cause) == (Action.STOP, Cause.MISMATCH)
    assert {one.verdict for one in found.comparisons} == {MetricVerdict.VOID}
    assert "the result is void" in found.sample_ratio.reason
    assert found.winner is None


def test_a_split_that_is_doubtful_at_one_look_ships_nothing() -> None:
    """A p of one look below 0.001 is no alarm at many looks, and no ground to ship on either."""
    seen = drawn({"now": 2000, "next": 1785}, {"now": 0.5, "next": 0.6})
    found = analyze(experiment(), seen)
    assert found.sample_ratio.p < 0.001 < found.sample_ratio.sequential_p
    assert found.action is Action.CONTINUE
    assert "would be a mismatch at a single look" in found.decisions[0].reason
    fixed = analyze(experiment(), seen, design="fixed")
    assert fixed.decisions[0].cause is Cause.MISMATCH


def test_units_in_two_arms_are_dropped_and_counted() -> None:
    seen = drawn(BOTH, {"now": 0.5, "next": 0.6})
    again = [
        replace(one, arm="next", exposed_at=one.exposed_at + timedelta(hours=1))
        for one in seen[:80]
    ]
    found = analyze(experiment(), seen + again)
    assert found.dropped.crossed == 80
    assert found.sample_ratio.units == {"now": 2000, "next": 2000}
    assert found.units == 3920
    assert "Left out: 80 of 4,000 units (2.00%) that were seen in two arms" in found.dropped.reason
    assert "More than 1 % is a fault" in found.dropped.reason
    assert analyze(experiment(), again + seen).comparisons == found.comparisons


def test_the_burn_in_counts_from_the_start() -> None:
    design = experiment(burn_in_hours=2.0)
    late = drawn(BOTH, {"now": 0.5, "next": 0.6})
    late = [replace(one, exposed_at=one.exposed_at + timedelta(hours=2)) for one in late]
    early = [
        Observation(unit=one.unit, arm=one.arm, exposed_at=START, values={"latency": 60.0})
        for one in late[:50]
    ]
    found = analyze(design, early + late)
    assert found.dropped.burn_in == 50
    assert found.units == 4000
    plain = analyze(experiment(), late)
    assert row(found, "latency") == row(plain, "latency")
    ramp = Ramp.of_start(design, START + timedelta(hours=10))
    with pytest.raises(RecordError, match="was changed after its start"):
        analyze(experiment(), late, ramp=ramp)
    none_left = analyze(design, late, ramp=ramp)
    assert none_left.dropped.burn_in == 4000
    assert {one.verdict for one in none_left.comparisons} == {MetricVerdict.NOT_ENOUGH_DATA}
    assert none_left.action is Action.CONTINUE


# ---------------------------------------------------------------------------------- metrics


def test_the_fixed_design_is_the_interval_of_welch_and_decides_once() -> None:
    draw = np.random.default_rng(4)
    one, two = draw.normal(10, 3, 900), draw.normal(10.8, 4, 900)
    design = experiment(
        metrics=(Metric(name="rating"),), primary="rating", guardrails=(), planned_units=1800
    )
    seen = observations("now", {"rating": one}) + observations("next", {"rating": two})
    fixed = row(analyze(design, seen, design="fixed"), "rating")
    interval = stats.ttest_ind(two, one, equal_var=False).confidence_interval(0.95)
    assert (fixed.low, fixed.high) == pytest.approx((interval.low, interval.high))
    sequential = row(analyze(design, seen), "rating")
    assert sequential.low < fixed.low < fixed.high < sequential.high
    assert analyze(design, seen, design="fixed").action is Action.SHIP
    early = analyze(replace(design, planned_units=4000), seen, design="fixed")
    assert early.action is Action.CONTINUE
    assert "decided once, when all planned units have come" in early.decisions[0].reason
    assert "hold for one look at 4,000 units, and not for this one" in early.notes[0]
    with pytest.raises(UsageError, match=r"no design 'fixd'; it is .* Did you mean 'fixed'"):
        analyze(design, seen, design="fixd")


def test_values_of_one_unit_are_put_together_first() -> None:
    """Ten requests of one account are not ten accounts; the interval was too narrow."""
    draw = np.random.default_rng(5)
    seen = []
    for name in ("now", "next"):
        levels = draw.normal(5, 1, 200)
        for copy in range(10):
            rows = observations(name, {"rating": levels + draw.normal(0, 0.1, 200)})
            seen += [replace(o, exposed_at=o.exposed_at + timedelta(hours=copy)) for o in rows]
    design = experiment(metrics=(Metric(name="rating"),), primary="rating", guardrails=())
    found = row(analyze(design, seen), "rating")
    assert found.units == 400
    error = (found.high - found.low) / 2
    quantile = scale_of(design, "next", Design.SEQUENTIAL).effect(400, math.inf)
    assert error / quantile == pytest.approx(math.sqrt(2 / 200), rel=0.1)
    summed = replace(design, metrics=(Metric(name="rating", per_unit=PerUnit.SUM),))
    total = row(analyze(summed, seen), "rating")
    assert total.difference == pytest.approx(10 * found.difference)


def test_a_ratio_counts_each_unit_by_its_denominator() -> None:
    draw = np.random.default_rng(6)
    cost = Metric(
        name="cost", kind=MetricKind.RATIO, numerator="tokens", denominator="requests",
        higher_is_better=False,
    )  # fmt: skip
    seen = []
    for name, per_request in (("now", 100.0), ("next", 120.0)):
        requests = draw.poisson(4, 1000) + 1
        tokens = requests * draw.gamma(10, per_request / 10, 1000)
        seen += observations(name, {"tokens": tokens, "requests": requests})
    design = experiment(metrics=(cost,), primary="cost", guardrails=())
    found = row(analyze(design, seen), "cost")
    assert found.control_value == pytest.approx(100, rel=0.05)
    assert found.verdict is MetricVerdict.HARM
    nothing = [replace(one, values={"tokens": 0.0, "requests": 0.0}) for one in seen]
    assert row(analyze(design, nothing), "cost").verdict is MetricVerdict.NOT_ENOUGH_DATA


@pytest.mark.parametrize("kind", [MetricKind.MEAN, MetricKind.RATIO])
def test_values_from_before_narrow_the_interval(kind: MetricKind) -> None:
    draw = np.random.default_rng(7)
    ratio = {"numerator": "tokens", "denominator": "requests"} if kind is MetricKind.RATIO else {}
    metric = Metric(name="use", kind=kind, **ratio)
    seen = []
    for name, gain in (("now", 0.0), ("next", 1.0)):
        level = draw.gamma(5, 10, 2000)
        both = [level + shift + draw.normal(0, 5, 2000) for shift in (gain, 0.0)]
        columns = [{"use": value, "tokens": value, "requests": np.ones(2000)} for value in both]
        seen += observations(name, columns[0], before=columns[1])
    design = experiment(metrics=(metric,), primary="use", guardrails=())
    plain = row(analyze(design, seen), "use")
    assert plain.reduction is None
    cuped = row(analyze(replace(design, metrics=(replace(metric, cuped=True),)), seen), "use")
    assert cuped.verdict is MetricVerdict.BETTER
    assert cuped.reduction == pytest.approx(500 / 525 * 500 / 525, abs=0.02)
    assert cuped.arm_value == plain.arm_value
    assert cuped.high - cuped.low < 0.4 * (plain.high - plain.low)
    assert cuped.low < 1.0 < cuped.high


def test_a_metric_that_one_arm_loses_is_void() -> None:
    """Whoever is content does not rate; the ratings that are left are a selection."""
    seen = drawn(BOTH, {"now": 0.5, "next": 0.6})
    cut = [
        replace(one, values={"latency": one.values["latency"]})
        if one.arm == "next" and number % 10 == 0
        else one
        for number, one in enumerate(seen)
    ]
    found = analyze(experiment(), cut)
    assert row(found, "resolved").verdict is MetricVerdict.VOID
    assert row(found, "resolved").missing == 200
    assert "More units of one arm have no value" in row(found, "resolved").reason
    assert found.action is not Action.SHIP
    worse = [replace(one, arm={"now": "next", "next": "now"}[one.arm]) for one in cut]
    assert analyze(experiment(), worse).decisions[0].cause is Cause.HARM
    spared = [
        replace(one, values={"latency": one.values["latency"]}) if number % 10 == 0 else one
        for number, one in enumerate(seen)
    ]
    assert row(analyze(experiment(), spared), "resolved").verdict is not MetricVerdict.VOID


def test_other_metrics_are_told_and_decide_nothing() -> None:
    design = experiment(guardrails=())
    worse = drawn(BOTH, {"now": 0.5, "next": 0.6}, {"now": 1.0, "next": 1.5})
    found = analyze(design, worse)
    assert row(found, "latency").verdict is MetricVerdict.WORSE
    assert found.action is Action.SHIP
    assert "interval lies on the worse side of 0" in row(found, "latency").reason


def test_a_metric_without_any_value_says_nothing() -> None:
    """Outcomes come days after exposures; an analysis before the first of them must not fail."""
    metrics = tuple(
        Metric(name=name, cuped=cuped) for name, cuped in (("late", False), ("later", True))
    )
    design = experiment(metrics=metrics, primary="late", guardrails=())
    found = analyze(design, drawn(BOTH, {"now": 0.5, "next": 0.6}))
    assert {one.verdict for one in found.comparisons} == {MetricVerdict.NOT_ENOUGH_DATA}
    assert row(found, "later").missing == 4000
    assert row(found, "later").control_value is None


def test_little_or_constant_data_say_nothing() -> None:
    few = FEWEST_UNITS - 1
    found = analyze(experiment(), drawn({"now": few, "next": few}, {"now": 0.0, "next": 1.0}))
    assert {one.verdict for one in found.comparisons} == {MetricVerdict.NOT_ENOUGH_DATA}
    assert "before both arms have 50 units" in found.comparisons[0].reason
    alike = {name: {"resolved": np.ones(2000), "latency": np.ones(2000)} for name in BOTH}
    constant = analyze(
        experiment(),
        [one for name, columns in alike.items() for one in observations(name, columns)],
    )
    assert row(constant, "latency").verdict is MetricVerdict.NOT_ENOUGH_DATA
    assert constant.action is Action.STOP
    assert "of latency nothing is known" in constant.decisions[0].reason
    assert row(constant, "resolved").verdict is MetricVerdict.UNDECIDED


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"arm": "old"}, DataError, "of the arm 'old', which the experiment 'support' does not"),
        ({"values": {"resolved": 1.5}}, DataError, "'resolved' is 1.5 in an observation"),
        ({"values": {"latency": math.nan}}, DataError, "'latency' is nan"),
        ({"before": {"latency": math.inf}}, DataError, "it must be a finite number"),
        ({"exposed_at": START.replace(tzinfo=None)}, UsageError, "has no time zone"),
    ],
)
def test_observations_that_cannot_be_are_refused(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    """The text names no unit, since ids of users do not belong into logs."""
    seen = drawn({"now": 5, "next": 5}, {"now": 0.5, "next": 0.5})
    with pytest.raises(error) as caught:
        analyze(experiment(), [*seen, replace(seen[0], **change)])
    assert message in str(caught.value)
    assert seen[0].unit not in str(caught.value)


def test_no_observations_and_negative_denominators_are_refused() -> None:
    with pytest.raises(DataError, match="There are no observations of the experiment 'support'"):
        analyze(experiment(), [])
    ratio = Metric(name="r", kind=MetricKind.RATIO, numerator="a", denominator="b")
    design = experiment(metrics=(ratio,), primary="r", guardrails=())
    with pytest.raises(DataError, match=r"'b' is -1\.0 in .* it must be 0 or more"):
        analyze(design, observations("now", {"a": [1.0], "b": [-1.0]}))


def test_sentences_are_whole() -> None:
    """Every line is one sentence or more, without a doubled stop or an unfilled field."""
    for seen in (
        drawn(BOTH, {"now": 0.5, "next": 0.6}),
        drawn(BOTH, {"now": 0.5, "next": 0.4}),
        drawn({"now": 30, "next": 30}, {"now": 0.5, "next": 0.4}),
        drawn({"now": 2000, "next": 1500}, {"now": 0.5, "next": 0.4}),
        drawn({"now": 300, "next": 300}, {"now": 0.5, "next": 0.5}),
    ):
        for line in analyze(experiment(), seen).lines:
            assert line.endswith(".")
            assert ".." not in line.replace("0.", "0")
            assert "None" not in line
            assert "  " not in line


def test_every_record_of_an_experiment_is_drawn() -> None:
    """What is saved can be read by people; the salt is not for them."""
    design = experiment(coverage=0.02, notes=("a note",))
    found = analyze(design, drawn(BOTH, {"now": 0.5, "next": 0.6}))
    planned = plan(Baseline.of_share(0.1), effect=0.02, traffic=(500.0, 0.5))
    margin = plan(Baseline.of_share(0.1), margin=0.02)
    ramp = Ramp.of_start(design, START).raised(0.2, START + timedelta(days=1), "no errors")
    for record, parts in (
        (
            design,
            ("Experiment support", "accepted: a test", "must not become worse by 0.2", "2.0%"),
        ),
        (ramp, ("20.0% now", "no errors", "2026-03-02T09:00+00:00")),
        (found, ("next: ship (better)", "non-inferior", "+0.1")),
        (planned, ("14,700", "59", "shows a difference of", "looked at once")),
        (margin, ("passes a margin of",)),
    ):
        text = str(record)
        assert [part for part in parts if part not in text] == []
        assert design.salt not in text + repr(record)
        assert "\n" not in repr(record)
    assert repr(found) == "<Analysis: support, 4,000 units: next ship>"
    assert "resolved decides" in repr(design)
