"""Plans: numbers of units against textbook formulas, and baselines from files of past data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from plop_lora.ab import Baseline, Metric, MetricKind, PerUnit, plan, read_baseline
from plop_lora.errors import DataError, UsageError
from plop_lora.records import ExperimentPlan, SampleSize
from plop_lora.records.analysis import Design
from plop_lora.statistics import two_sided_quantile


def size(found: ExperimentPlan, design: Design) -> SampleSize:
    """Return what a plan says of a design."""
    return next(one for one in found.sizes if one.design is design)


def test_a_share_needs_what_the_textbook_says() -> None:
    """10 % to 12 % with a power of 0.8: 3,839 in each arm by the usual formula."""
    found = plan(Baseline.of_share(0.10), effect=0.02)
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    each = z**2 * (0.1 * 0.9 + 0.12 * 0.88) / 0.02**2
    assert size(found, Design.FIXED).units == pytest.approx((each, each), abs=1)
    assert size(found, Design.FIXED).units[0] == 3839


def test_a_mean_needs_what_the_noncentral_t_says() -> None:
    found = size(plan(Baseline.of_mean(100.0, 30.0), effect=5.0), Design.FIXED)
    each = found.units[0]
    freedom = 2 * each - 2
    shift = 5.0 / (30.0 * math.sqrt(2 / each))
    critical = stats.t.ppf(0.975, freedom)
    power = 1 - stats.nct.cdf(critical, freedom, shift)
    assert power == pytest.approx(0.8, abs=0.003)
    down = plan(Baseline.of_mean(100.0, 30.0), effect=-5.0)
    assert size(down, Design.FIXED) == found


def test_the_sequential_design_costs_what_its_quantile_says() -> None:
    found = plan(Baseline.of_mean(0.0, 1.0), effect=0.1)
    fixed, sequential = (size(found, design).total for design in (Design.FIXED, Design.SEQUENTIAL))
    quantile = float(two_sided_quantile(1, error=0.05, planned=1))
    z = stats.norm.ppf(0.8)
    assert sequential / fixed == pytest.approx(((quantile + z) / (1.959964 + z)) ** 2, rel=1e-3)
    assert 1.8 < sequential / fixed < 2.0


def test_units_and_effects_are_each_others_inverse() -> None:
    baseline = Baseline.of_mean(3.0, 2.0)
    weights, traffic = (0.8, 0.2), (500.0, 0.5)
    forth = plan(baseline, effect=0.2, weights=weights, traffic=traffic)
    for one in forth.sizes:
        back = plan(baseline, units=one.total, weights=weights, traffic=traffic)
        assert size(back, one.design).detectable == pytest.approx(0.2, rel=1e-3)
        assert size(back, one.design).days == one.days == math.ceil(one.total / 250)
        assert one.units[0] == pytest.approx(4 * one.units[1], abs=4)
    even = plan(baseline, effect=0.2)
    assert size(even, Design.FIXED).total < size(forth, Design.FIXED).total
    assert size(even, Design.FIXED).days is None


def test_a_margin_is_one_sided_and_more_arms_share_the_error() -> None:
    baseline = Baseline.of_mean(3.0, 2.0)
    margin = size(plan(baseline, margin=0.2), Design.FIXED)
    z = stats.norm.ppf(0.95) + stats.norm.ppf(0.8)
    assert margin.total == pytest.approx(4 * (z * 2 / 0.2) ** 2, abs=2)
    three = plan(baseline, effect=0.2, weights=(0.4, 0.3, 0.3))
    two = plan(baseline, effect=0.2)
    assert size(three, Design.FIXED).total > 1.3 * size(two, Design.FIXED).total
    assert three.notes == ("the error is shared out among 2 arms",)
    assert ExperimentPlan.from_dict(three.to_dict()) == three


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one of effect, margin and units"),
        ({"effect": 0.1, "units": 10}, "exactly one of effect, margin and units"),
        ({"effect": 0.0}, "effect is 0; it must be a finite number other than 0"),
        ({"margin": -0.1}, "margin is -0.1; it must be above 0"),
        ({"units": 1}, "1 units are too few"),
        ({"effect": 0.95}, "A share of 0.1 cannot change by +0.95"),
        ({"effect": 1e-9}, "would need more than 1,000,000,000,000 units"),
        ({"effect": 0.1, "weights": (0.5, 0.4)}, "not two or more that add up to 1"),
        ({"effect": 0.1, "traffic": (0.0, 1.0)}, "The traffic is 0 units a day"),
        ({"effect": 0.1, "power": 1.0}, "power is 1; it must be above 0 and below 1"),
        ({"effect": 0.1, "error": 0.0}, "error is 0; it must be above 0 and below 1"),
    ],
)
def test_what_cannot_be_planned_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(Baseline.of_share(0.1), **values)
    assert message in str(caught.value)


def test_baselines_that_cannot_be_are_refused() -> None:
    for share in (0.0, 1.0, math.nan):
        with pytest.raises(UsageError, match="must be above 0 and below 1"):
            Baseline.of_share(share)
    for mean, sd in ((1.0, 0.0), (math.inf, 1.0), (1.0, math.nan)):
        with pytest.raises(UsageError, match="the mean must be finite"):
            Baseline.of_mean(mean, sd)


# -------------------------------------------------------------------------------- past data


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_baseline_is_read_by_unit(tmp_path: Path) -> None:
    """Rows of one account are put together as in the experiment itself."""
    path = csv(
        tmp_path / "past.csv",
        "account,resolved,tokens,requests\na,1,100,1\na,0,300,3\nb,1,50,1\nc,0,40,2\n",
    )
    share = Metric(name="resolved", kind=MetricKind.SHARE)
    by_row = read_baseline(path, share)
    assert (by_row.mean, by_row.units, by_row.binary) == (0.5, 4, True)
    by_unit = read_baseline(path, share, unit="account")
    assert (by_unit.mean, by_unit.units, by_unit.binary) == (0.5, 3, False)
    assert by_unit.sd == pytest.approx(np.std([0.5, 1, 0], ddof=1))
    total = read_baseline(path, Metric(name="tokens", per_unit=PerUnit.SUM), unit="account")
    assert total.mean == pytest.approx((400 + 50 + 40) / 3)
    ratio = Metric(name="r", kind=MetricKind.RATIO, numerator="tokens", denominator="requests")
    found = read_baseline(path, ratio, unit="account")
    assert found.mean == pytest.approx(490 / 7)
    influences = (np.array([400, 50, 40]) - 70 * np.array([4, 1, 2])) / (7 / 3)
    assert found.sd == pytest.approx(influences.std(ddof=1))
    planned = plan(by_unit, effect=0.1)
    assert planned.source == str(path)
    assert "the spread comes from 3 units only" in planned.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("account,resolvd\na,1\nb,0\n", "no column 'resolved' in row 1; it has account, resolvd"),
        ("account,resolved\na,1\nb,yes\n", "row 2: 'resolved' is 'yes'; it must be a finite"),
        ("account,resolved\na,1\n", "has 1 units; at least 2 are needed"),
        ("account,resolved\na,1\nb,1\n", "'resolved' is 1 for every unit"),
        ("account,resolved\na,1\nb,7\n", "is not from 0 to 1"),
    ],
)
def test_past_data_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    path = csv(tmp_path / "past.csv", text)
    with pytest.raises(DataError) as caught:
        read_baseline(path, Metric(name="resolved", kind=MetricKind.SHARE), unit="account")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_ratio_needs_a_denominator_that_adds_up(tmp_path: Path) -> None:
    ratio = Metric(name="r", kind=MetricKind.RATIO, numerator="a", denominator="b")
    path = csv(tmp_path / "past.csv", "a,b\n1,0\n2,0\n")
    with pytest.raises(DataError, match=r"'b' of .* must be 0 or more in every unit"):
        read_baseline(path, ratio)
