"""Experiments: what they refuse, which arm a unit gets, and how their coverage is raised."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from experiments import SALT, START, adapter_folder, arm, check, experiment, verdict
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plop_lora import ab
from plop_lora.ab import Experiment, Guardrail, Metric, MetricKind, Ramp
from plop_lora.errors import AdapterError, RecordError, UnknownNameError, UsageError
from plop_lora.records.experiment import _positions
from plop_lora.records.gate import CheckVerdict

EXPECTED = [
    "other", None, None, None, "next", "now", "other", None, "now", "now", "now", None,
]  # fmt: skip
IDS = [f"account-{number}" for number in range(20_000)]
TEXT = st.text(min_size=1)
SHARES = st.floats(0, 1)


# ------------------------------------------------------------------------------- assignment


def test_the_arm_of_a_unit_is_fixed_for_ever() -> None:
    """A change of the hash would move the users of every running experiment to other arms."""
    design = experiment(arms=(arm("now", 0.5), arm("next", 0.3), arm("other", 0.2)), coverage=0.6)
    found = [design.assign(f"account-{number}") for number in range(12)]
    assert found == EXPECTED
    assert design.assign("アカウント") == "now"
    assert _positions(SALT, "account-0") == (0.41214582639425357, 0.8513212518865012)


def test_another_process_gives_the_same_arms() -> None:
    """Python's own hash differs from process to process."""
    code = (
        "from experiments import experiment; d = experiment(coverage=0.5);"
        "print([d.assign(f'account-{n}') for n in range(50)])"
    )
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "src")]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {path}; {code}"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    design = experiment(coverage=0.5)
    assert told.strip() == str([design.assign(f"account-{n}") for n in range(50)])


def test_the_numbers_of_units_are_uniform_and_independent() -> None:
    first, second = np.array([_positions(SALT, unit) for unit in IDS]).T
    other, _ = np.array([_positions("another salt", unit) for unit in IDS]).T
    for numbers in (first, second, other):
        assert stats.kstest(numbers, "uniform").pvalue > 0.001
    for one, two in ((first, second), (first, other)):
        assert abs(np.corrcoef(one, two)[0, 1]) < 0.03
        table = np.histogram2d(one, two, bins=5)[0]
        assert stats.chi2_contingency(table).pvalue > 0.001


def test_the_split_is_met_at_every_coverage() -> None:
    design = experiment(arms=(arm("now", 0.5), arm("next", 0.3), arm("other", 0.2)))
    for coverage in (0.1, 0.5, 1.0):
        counts = Counter(design.assign(unit, coverage=coverage) for unit in IDS)
        out = counts.pop(None, 0)
        assert abs(out / len(IDS) - (1 - coverage)) < 0.015
        expected = [share * (len(IDS) - out) for share in design.split.values()]
        seen = [counts[name] for name in design.split]
        assert stats.chisquare(seen, expected).pvalue > 0.001


def test_experiments_with_other_salts_are_independent() -> None:
    one, two = experiment(), experiment(salt="another salt")
    pairs = Counter((one.assign(unit), two.assign(unit)) for unit in IDS)
    table = [[pairs[a, b] for b in one.split] for a in one.split]
    assert stats.chi2_contingency(table).pvalue > 0.001


@settings(max_examples=200, deadline=None)
@given(TEXT, TEXT, SHARES, SHARES)
def test_raising_the_coverage_moves_nobody(salt: str, unit: str, one: float, two: float) -> None:
    """A unit that is in stays in, in its arm, in every later step."""
    low, high = sorted((one, two))
    design = replace(experiment(), salt="s" + salt.encode(errors="replace").hex())
    before, after = (design.assign(unit, coverage=share) for share in (low, high))
    assert before is None or before == after
    assert design.assign(unit, coverage=high) == after
    assert design.assign(unit, coverage=0.0) is None
    assert design.assign(unit, coverage=1.0) in design.split


def test_what_is_no_unit_is_refused() -> None:
    for unit in ("", 7, None):
        with pytest.raises(UsageError, match="A unit is a text that is not empty"):
            experiment().assign(unit)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"coverage is 1\.5; it must be from 0 to 1"):
        experiment().assign("u", coverage=1.5)


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": (arm("now", 1.0),)}, "at least two arms"),
        ({"arms": (arm("now", 0.5), arm("now", 0.5))}, "Two of the arms are named 'now'"),
        ({"arms": (arm("now", 0.5), arm("next", 0.4))}, "add up to 0.9; they must add up to 1"),
        ({"arms": (arm("now", 0.0), arm("next", 1.0))}, "weight of 'now' is 0; it must be above 0"),
        ({"arms": (arm("now", float("nan")), arm("next", 0.5))}, "weight of 'now' is nan"),
        (
            {"arms": (arm("now", 0.5), arm("next", 0.5, adapter_digest="a" * 64))},
            "'now' and 'next' are the same adapter",
        ),
        (
            {"arms": tuple(arm(name, 0.5, adapter=None, adapter_digest=None)
                           for name in ("now", "next"))},
            "'now' and 'next' are the same base model",
        ),
        (
            {"arms": (arm("now", 0.5), arm("next", 0.5, adapter_digest=None))},
            "'next' needs both an adapter and its digest",
        ),
        ({"control": "nwo"}, "control 'nwo' is none of the arms: now, next. Did you mean 'now'?"),
        ({"primary": "resolve"}, "no metric 'resolve'; there are: resolved, latency. Did you"),
        ({"guardrails": (Guardrail(metric="cost", margin=1),)}, "There is no metric 'cost'"),
        ({"guardrails": (Guardrail(metric="resolved", margin=1),)}, "'resolved' has two roles"),
        ({"guardrails": (Guardrail(metric="latency", margin=-0.2),)}, "must be above 0"),
        ({"guardrails": (Guardrail(metric="latency", margin=0.0),)}, "which direction is worse"),
        ({"metrics": (Metric(name="resolved"),) * 2}, "Two of the metrics are named 'resolved'"),
        ({"coverage": 1.2}, "coverage is 1.2; it must be from 0 to 1"),
        ({"coverage": -0.1}, "coverage is -0.1; it must be from 0 to 1"),
        ({"planned_units": 1}, "1 units are planned; at least 2"),
        ({"burn_in_hours": -1.0}, "burn-in is -1 hours"),
        ({"error": 0.5}, "error is 0.5; it must be above 0 and below 0.5"),
        ({"harm_error": 0.0}, "harm_error is 0"),
        ({"salt": ""}, "The salt is ''"),
        ({"name": "two\nlines"}, "it must be a text on one line"),
    ],
)  # fmt: skip
def test_what_could_not_be_analysed_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        experiment(**change)
    assert message in str(caught.value)


def test_names_that_are_not_there_are_unknown_names() -> None:
    with pytest.raises(UnknownNameError):
        experiment(primary="resolve")
    with pytest.raises(UnknownNameError, match="There is no metric 'cost'"):
        experiment().metric("cost")


def test_a_ratio_names_its_two_values() -> None:
    ratio = Metric(name="cost", kind=MetricKind.RATIO, numerator="tokens", denominator="requests")
    assert ratio.values == ("tokens", "requests")
    with pytest.raises(UsageError, match="'cost' needs the names of a numerator and a denominator"):
        Metric(name="cost", kind=MetricKind.RATIO, numerator="tokens")
    with pytest.raises(UsageError, match="Only a ratio has a numerator"):
        Metric(name="cost", numerator="tokens")


def test_a_candidate_needs_a_gate_that_passes_or_a_reason() -> None:
    """An adapter that failed its gate must not reach users because nobody looked."""
    ours = arm("next", 0.5, accepted="")
    for gate, said in (
        (None, "no gate verdict"),
        (verdict("b" * 64, check(CheckVerdict.FAIL)), "the gate verdict 'fail'"),
        (verdict("b" * 64, check(CheckVerdict.NOT_ENOUGH_DATA)), "verdict 'not enough data'"),
    ):
        with pytest.raises(UsageError, match=f"'next' has .*{said}"):
            experiment(arms=(arm("now", 0.5), replace(ours, gate=gate)))
        kept = replace(ours, gate=gate, accepted="only staff see it")
        assert experiment(arms=(arm("now", 0.5), kept)).arms[1].accepted == "only staff see it"
    passed = replace(ours, gate=verdict("b" * 64, check(CheckVerdict.PASS)))
    assert experiment(arms=(arm("now", 0.5, accepted=""), passed)).arms[1].gate.verdict == "pass"
    with pytest.raises(UsageError, match="is about another adapter"):
        experiment(arms=(arm("now", 0.5), replace(ours, gate=verdict("e" * 64))))


def test_the_base_model_may_be_an_arm() -> None:
    base = arm("base", 0.5, adapter=None, adapter_digest=None, accepted="")
    assert experiment(arms=(base, arm("next", 0.5)), control="base").candidates == ("next",)
    assert experiment(arms=(arm("now", 0.5), base)).candidates == ("base",)


# ------------------------------------------------------------------------------ files, coverage


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    design = experiment()
    path = design.save(tmp_path / "experiment.json")
    assert Experiment.load(path) == design
    document = json.loads(path.read_text())
    document["arms"][0]["weight"], document["arms"][1]["weight"] = 0.4, 0.6
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError, match="changed or damaged after it was written"):
        Experiment.load(path)
    del document["digest"]
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError, match="'support' was changed after its start"):
        Ramp.of_start(design, START).check(Experiment.load(path))
    document["coverage"] = 2.0
    path.write_text(json.dumps(document))
    with pytest.raises(RecordError, match=r"coverage is 2; it must be from 0 to 1"):
        Experiment.load(path)


def test_the_coverage_is_raised_without_another_experiment(tmp_path: Path) -> None:
    design = experiment(coverage=0.02)
    ramp = Ramp.of_start(design, START)
    ramp = ramp.raised(0.2, START + timedelta(days=1), "no errors in a day")
    ramp = ramp.raised(1.0, START + timedelta(days=2))
    assert (ramp.coverage, ramp.started) == (1.0, START)
    assert [step.coverage for step in ramp.steps] == [0.02, 0.2, 1.0]
    assert Ramp.load(ramp.save(tmp_path / "ramp.json")) == ramp
    ramp.check(design)
    ended = ramp.ended(START + timedelta(days=3), "harm")
    assert design.assign("account-1", coverage=ended.coverage) is None
    with pytest.raises(UsageError, match="The experiment has ended"):
        ended.raised(0.5, START + timedelta(days=4))
    with pytest.raises(UsageError, match=r"coverage is 1 and cannot become 0\.5"):
        ramp.raised(0.5, START + timedelta(days=4))
    with pytest.raises(UsageError, match="which is before the last change"):
        ramp.ended(START, "harm")
    with pytest.raises(UsageError, match="has no time zone"):
        ramp.ended(START.replace(tzinfo=None), "harm")
    with pytest.raises(UsageError, match="at least one step"):
        Ramp(experiment_digest="d", steps=())
    with pytest.raises(RecordError, match="was changed after its start"):
        ramp.check(experiment(coverage=0.03))


def test_arms_are_made_from_folders_and_held_to_them(tmp_path: Path) -> None:
    for name in ("now", "next"):
        adapter_folder(tmp_path / name)
    now = ab.adapter_arm("now", 0.5, tmp_path / "now")
    gate = verdict(ab.adapter_arm("next", 0.5, tmp_path / "next").adapter_digest)
    gated = ab.adapter_arm("next", 0.5, tmp_path / "next", gate=gate.save(tmp_path / "v.json"))
    assert gated.gate == gate
    assert ab.adapter_arm("base", 0.5, None).adapter_digest is None
    design = experiment(arms=(now, replace(gated, accepted="a test")), salt=ab.new_salt())
    ab.check_unchanged(design)
    (tmp_path / "next" / "adapter_model.safetensors").write_text("retrained")
    with pytest.raises(AdapterError, match=r"'next' in .* has changed since the experiment"):
        ab.check_unchanged(design)
    with pytest.raises(AdapterError, match="does not exist"):
        ab.adapter_arm("x", 0.5, tmp_path / "absent")
    assert len({ab.new_salt() for _ in range(5)}) == 5


def test_importing_the_arms_needs_no_torch() -> None:
    code = "import sys, plop_lora.ab; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
