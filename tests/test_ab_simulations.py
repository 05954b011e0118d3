"""What an A/B test claims in simulated populations whose truth is known.

The populations are those of benchmarks/ab_simulations.py, whose results are in docs/ab-design.md.
Bounds allow for three standard errors of the number of runs.
"""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from experiments import experiment, observations

from plop_lora.ab import Baseline, Metric, MetricKind, analyze, plan
from plop_lora.records.analysis import Cause, Design

ROOT = Path(__file__).parents[1]
FEW, MANY = 1000, 4000


def benchmark(name: str) -> ModuleType:
    """Return a benchmark as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def simulations() -> ModuleType:
    return benchmark("ab_simulations")


@pytest.fixture(scope="module")
def alternatives(simulations: ModuleType) -> ModuleType:
    return benchmark("ab_alternatives")


def most(share: float, runs: int) -> float:
    """Return a share and three standard errors."""
    return share + 3 * math.sqrt(share * (1 - share) / runs)


@pytest.mark.parametrize("name", ["binary, 10 %", "binary, rare: 1 %", "binary, uneven: 9 to 1"])
def test_a_hundred_looks_raise_no_false_alarms(simulations: ModuleType, name: str) -> None:
    """Of runs that are looked at with the usual interval, a third claims what is not so."""
    peeking, fixed, sequence = simulations.false_alarms(simulations.POPULATIONS[name], FEW)
    assert peeking > 0.25
    assert fixed < most(0.05, FEW)
    assert sequence < 0.05


def test_the_sequence_holds_the_truth_at_all_looks(simulations: ModuleType) -> None:
    held = simulations.coverage(simulations.binary((0.10, 0.12)), 0.02, FEW)
    assert held > 0.95


def test_the_planned_power_is_met(simulations: ModuleType) -> None:
    fixed, once, sequential, last, anytime, stop = simulations.power((0.10, 0.12), FEW)
    assert once == pytest.approx(0.8, abs=0.04)
    assert last == pytest.approx(0.8, abs=0.04)
    assert 0.8 < anytime < 0.92
    assert fixed < sequential
    assert stop * sequential < 1.2 * fixed


@pytest.mark.parametrize("shares", [(0.10, 0.09), (0.10, 0.08)])
def test_a_harmful_arm_is_called_harmful(
    simulations: ModuleType, shares: tuple[float, float]
) -> None:
    """A loss of a tenth, and of a fifth, of a rate of 10 %, in an experiment planned for it."""
    total = simulations.planned_for_harm(shares, 0.95)
    called, stop = simulations.harm(shares, total, FEW)
    assert called >= 0.95
    assert stop < 0.5


def test_an_equal_arm_is_hardly_ever_called_harmful(simulations: ModuleType) -> None:
    assert simulations.harm_of_an_equal_arm(FEW) <= 0.025
    assert simulations.passes_at_the_margin(FEW) <= 0.05


def test_the_split_is_tested_at_its_level(simulations: ModuleType) -> None:
    once, peeking, sequential = simulations.mismatches(0.5, 10_000, MANY)
    assert once < most(0.001, MANY)
    assert peeking > 0.005
    assert sequential <= 0.001
    _, _, found = simulations.mismatches(0.51, 100_000, FEW)
    assert found > 0.95


def test_the_looks_are_those_of_the_analysis(simulations: ModuleType) -> None:
    """The simulations would prove nothing if they computed something else."""
    draw = np.random.default_rng(9)
    now, then = draw.binomial(1, 0.10, 4000), draw.binomial(1, 0.12, 4000)
    design = experiment(planned_units=8000)
    reach = simulations.scale(8000)
    for count in (500, 4000):
        noise = draw.normal(size=(2, count))
        found = analyze(
            design,
            observations("now", {"resolved": now[:count], "latency": noise[0]})
            + observations("next", {"resolved": then[:count], "latency": noise[1]}),
        )
        row = next(one for one in found.comparisons if one.metric == "resolved")
        means = [float(values[:count].mean()) for values in (now, then)]
        error = math.sqrt(sum(mean * (1 - mean) / (count - 1) for mean in means))
        quantile = simulations.two_sided_quantile(2 * count, error=0.05, planned=8000)
        assert row.high - row.low == pytest.approx(2 * float(quantile) * error)
        assert row.best == pytest.approx(means[1] - means[0] + reach.harm(2 * count) * error)
        assert row.worst == pytest.approx(
            means[1] - means[0] - reach.margin(2 * count, math.inf) * error
        )


def test_the_page_shows_what_was_measured() -> None:
    """Its tables are those of the newest results, and its example runs."""
    page = (ROOT / "docs" / "ab-design.md").read_text(encoding="utf-8")
    newest = max((ROOT / "benchmarks" / "results").glob("ab-simulations-*.md"))
    tables = [line for line in newest.read_text(encoding="utf-8").splitlines() if "|" in line]
    assert len(tables) > 30
    assert [line for line in tables if line not in page] == []
    example, *_ = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["arm"] in ("now", "next", None)


def test_a_worse_arm_ends_as_harm_and_an_equal_one_does_not(alternatives: ModuleType) -> None:
    """A test of an improvement against none says "no effect" of an arm that does harm."""
    harm = alternatives.OUTCOMES.index(alternatives.WORSE)
    sequence, wald = alternatives.sequence, alternatives.wald
    worse = alternatives.outcomes(sequence, alternatives.normal(-0.1), FEW)
    assert worse[harm] >= 0.95
    assert alternatives.outcomes(sequence, alternatives.normal(0.0), FEW)[harm] <= 0.025
    assert alternatives.outcomes(wald, alternatives.normal(-0.1), FEW)[harm] == 0


def test_the_page_of_others_shows_what_was_measured() -> None:
    page = (ROOT / "docs" / "ab-comparison.md").read_text(encoding="utf-8")
    newest = max((ROOT / "benchmarks" / "results").glob("ab-alternatives-*.md"))
    rows = [line for line in newest.read_text(encoding="utf-8").splitlines() if "|" in line]
    assert len(rows) == 11
    assert [row for row in rows if row not in page] == []


@pytest.mark.slow
def test_all_populations_keep_their_level(simulations: ModuleType) -> None:
    for name, population in simulations.POPULATIONS.items():
        _, _, sequence = simulations.false_alarms(population, MANY)
        if "wrong" in name:
            assert sequence > 0.10
        elif "not allowed for" not in name:
            assert sequence <= 0.05, name


@pytest.mark.slow
def test_harm_at_its_level_in_many_runs(simulations: ModuleType) -> None:
    assert simulations.harm_of_an_equal_arm(MANY) <= 0.025
    for shares in ((0.10, 0.09), (0.10, 0.08), (0.10, 0.05)):
        total = simulations.planned_for_harm(shares, 0.95)
        called, _ = simulations.harm(shares, total, MANY)
        assert called >= 0.95


def _ends(share: float, total: int, runs: int) -> list[Cause]:
    """Return how whole experiments end that are looked at ten times, or what is left open."""
    draw = np.random.default_rng(10)
    metrics = (Metric(name="resolved", kind=MetricKind.SHARE),)
    design = experiment(metrics=metrics, guardrails=(), planned_units=total)
    causes = []
    for _ in range(runs):
        values = [draw.binomial(1, rate, total // 2) for rate in (0.10, share)]
        rows = [
            observations(name, {"resolved": v})
            for name, v in zip(design.split, values, strict=True)
        ]
        for look in range(1, 11):
            count = total // 2 * look // 10
            (decision,) = analyze(design, rows[0][:count] + rows[1][:count]).decisions
            if decision.cause is not Cause.UNDECIDED:
                break
        causes.append(decision.cause)
    return causes


@pytest.mark.slow
def test_whole_experiments_end_as_they_should() -> None:
    """From observations to decisions: a loss of half the rate is harm, an equal arm is not."""
    wanted = plan(Baseline.of_share(0.10), effect=-0.05, power=0.95, error=0.05)
    total = next(one.total for one in wanted.sizes if one.design is Design.SEQUENTIAL)
    runs = 200
    harmed = _ends(0.05, total, runs)
    assert 1 - harmed.count(Cause.HARM) / runs <= most(0.05, runs)
    assert Cause.BETTER not in harmed
    equal = _ends(0.10, total, runs)
    assert equal.count(Cause.HARM) / runs <= most(0.025, runs)
    assert equal.count(Cause.BETTER) / runs <= most(0.025, runs)
    assert Cause.UNDECIDED not in harmed + equal
