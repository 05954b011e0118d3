"""From the records of the study to its tables: each number by hand, and the page as it stands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import trial_result, trial_spec

from plop_lora.records import Verification
from plop_lora.records.verification import INCONCLUSIVE, Verdict
from plop_lora.study.compare import Outcome
from plop_lora.study.findings import FILE, findings
from plop_lora.verification.decide import decide

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts" / "experiments"
TYPES = {"q": 1.2, "k": 1.0, "v": 0.5, "o": 0.8}
ROWS = 8


@pytest.fixture(scope="module")
def evidence() -> Iterator[Any]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import evidence

        yield evidence
    finally:
        sys.path.remove(str(SCRIPTS))


def write_pair(folder: Path, gains: dict[str, float], **described: Any) -> None:
    """Write the records of a pair: at its better rate each arm gains what is given, on all rows."""
    folder.mkdir(parents=True)
    arms = {name: [name.removeprefix("type-")] for name in gains}
    document = {"name": folder.name, "network": "net", "nfn": TYPES, "arms": arms, "aliases": {}}
    (folder / "pair.json").write_text(json.dumps(document | described))
    write(folder, "untrained", 0.0, 0, [3.0] * ROWS)
    for arm, gain in gains.items():
        for rate, share in ((1e-4, 0.5), (3e-4, 1.0), (9e-4, 0.2)):
            write(folder, arm, rate, 0, [3.0 - share * gain] * ROWS)
        for seed in (1, 2):
            write(folder, arm, 3e-4, seed, [3.0 - gain] * ROWS)


def write(folder: Path, arm: str, rate: float, seed: int, losses: list[float]) -> None:
    spec = trial_spec(arm, seed, learning_rate=rate)
    made = trial_result(spec, float(np.mean(losses)), items={"loss": tuple(losses)})
    made.save(folder / f"{arm}.r{rate:g}.s{seed}.json")


RULES = {
    "plop": 0.8, "plop-inverse": 0.3, "attention": 0.5, "mlp": 0.5, "all-linear": 0.6,
    "v-up-down": 0.7, "v-o-down": 0.7, "parameter-share": 0.5, "random-1": 0.4, "random-2": 0.5,
    "random-3": 0.6,
}  # fmt: skip
SINGLE = {"type-q": 0.2, "type-k": 0.4, "type-v": 1.0, "type-o": 0.6}


def test_gain_is_what_the_report_rows_lose_at_the_own_rate(evidence, tmp_path: Path) -> None:
    """The rate must be chosen on the other half of the rows, or the gain flatters."""
    write_pair(tmp_path / "pair", RULES | SINGLE)
    # Best on the report rows, worst on the selection rows: it must not be chosen.
    write(tmp_path / "pair", "plop", 9e-4, 0, [9.0] * 4 + [0.0] * 4)
    found = evidence.read(tmp_path / "pair")
    assert found.arms["plop"].rate == 3e-4
    assert found.arms["plop"].gains_SI.shape == (3, 4)
    assert found.gain("plop") == pytest.approx(0.8)
    assert found.gain("random") == pytest.approx(0.5)
    assert found.gain(evidence.LOWEST) == pytest.approx(1.0)
    assert found.regret("plop") == pytest.approx(0.2)
    assert not found.arms["plop"].at_edge
    assert found.types() == ["type-v", "type-o", "type-k", "type-q"]
    assert evidence.correlation(found) == pytest.approx(-1.0)


def test_an_alias_is_the_arm_that_it_is_of(evidence, tmp_path: Path) -> None:
    gains = {name: gain for name, gain in RULES.items() if name != "v-up-down"} | SINGLE
    write_pair(tmp_path / "pair", gains, aliases={"v-up-down": "plop"})
    found = evidence.read(tmp_path / "pair")
    assert found.arms["v-up-down"] is found.arms["plop"]
    assert "v-up-down" not in [row.rule for row in evidence.comparisons(found)]


@pytest.mark.parametrize("lost", ["plop.r0.0003.s2.json", "untrained.r0.s0.json"])
def test_a_pair_without_all_its_trials_is_named(evidence, tmp_path: Path, lost: str) -> None:
    write_pair(tmp_path / "pair", RULES | SINGLE)
    (tmp_path / "pair" / lost).unlink()
    outcomes, incomplete = evidence.collect(tmp_path)
    assert outcomes == []
    assert "pair" in incomplete


@pytest.mark.parametrize(
    ("gains", "why"),
    [
        (dict.fromkeys(RULES | SINGLE, 0.04), "no arm gains more than 0.05 nats"),
        (RULES | dict.fromkeys(SINGLE, 0.5), None),
    ],
)
def test_pairs_that_can_tell_nothing_are_left_out(evidence, tmp_path, gains, why) -> None:
    write_pair(tmp_path / "pair", gains)
    found = evidence.read(tmp_path / "pair")
    assert found.excluded == why


def test_types_within_their_error_are_left_out(evidence, tmp_path: Path) -> None:
    write_pair(tmp_path / "pair", RULES | dict.fromkeys(SINGLE, 0.5))
    for seed, more in ((1, 0.3), (2, -0.3)):
        write(tmp_path / "pair", "type-v", 3e-4, seed, [2.5 - more] * ROWS)
    assert "cannot be told apart" in evidence.read(tmp_path / "pair").excluded


@pytest.mark.slow
def test_p_of_labels_that_mean_nothing(evidence, tmp_path: Path) -> None:
    """Of the 24 orders of four types, 2 give a rho of −1 or 1."""
    write_pair(tmp_path / "one", RULES | SINGLE)
    found = evidence.pooled([evidence.read(tmp_path / "one")])
    assert found.p == pytest.approx(2 / 24, abs=0.01)
    assert (found.low, found.high) == (None, None)
    write_pair(tmp_path / "two", RULES | SINGLE)
    both = [evidence.read(tmp_path / name) for name in ("one", "two")]
    found = evidence.pooled(both)
    # Two pairs of one network are one piece of evidence when they are permuted alike.
    assert found.p_networks == pytest.approx(2 / 24, abs=0.01)
    assert found.p == pytest.approx(2 / 24**2, abs=0.004)


def test_a_small_difference_is_a_tie_however_sure(evidence, tmp_path: Path) -> None:
    write_pair(tmp_path / "pair", RULES | SINGLE | {"mlp": 0.795})
    rows = {row.rule: row for row in evidence.comparisons(evidence.read(tmp_path / "pair"))}
    assert rows["mlp"].low > 0
    assert rows["mlp"].verdict == "tie"
    assert rows["attention"].verdict == "better"


@pytest.mark.parametrize(("spread", "wanted"), [(0.0, 3), (0.3, 4)], ids=["apart", "not yet apart"])
def test_seeds_are_added_until_types_are_apart(evidence, tmp_path, spread, wanted) -> None:
    """With a fixed number of seeds the best type would often be the luckiest."""
    write_pair(tmp_path / "pair", RULES | SINGLE)
    for seed, more in ((1, spread), (2, -spread)):
        write(tmp_path / "pair", "type-v", 3e-4, seed, [2.0 - more] * ROWS)
    assert evidence.seeds_wanted(tmp_path / "pair") == wanted


def test_a_seed_counts_once_every_arm_has_it(evidence, tmp_path: Path) -> None:
    """Seeds of some arms only would compare different draws."""
    write_pair(tmp_path / "pair", RULES | SINGLE)
    write(tmp_path / "pair", "type-v", 3e-4, 3, [0.0] * ROWS)
    found = evidence.read(tmp_path / "pair")
    assert found.seeds == 3
    assert found.gain("type-v") == pytest.approx(1.0)


def test_no_more_than_eight_seeds(evidence, tmp_path: Path) -> None:
    write_pair(tmp_path / "pair", RULES | dict.fromkeys(SINGLE, 0.5))
    for arm in RULES | SINGLE:
        for seed in range(3, 8):
            write(tmp_path / "pair", arm, 3e-4, seed, [2.5 - 0.1 * seed] * ROWS)
    assert evidence.seeds_wanted(tmp_path / "pair") == 8


@pytest.mark.slow
def test_the_page_is_what_the_records_say(evidence) -> None:
    """A number that nobody can compute again is not evidence."""
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert page.endswith(evidence.tables(*evidence.collect(evidence.RESULTS)))


@pytest.mark.slow
def test_the_file_of_the_package_is_what_the_records_say(evidence) -> None:
    """What a report shows of the study is not copied by hand; `make evidence` writes it."""
    outcomes, _ = evidence.collect(evidence.RESULTS)
    used = [outcome for outcome in outcomes if outcome.excluded is None]
    assert FILE.read_text(encoding="utf-8") == evidence.data_text(used)
    assert {pair.name for pair in findings().pairs} == {outcome.name for outcome in used}


def test_networks_are_as_large_as_records_say(evidence) -> None:
    """A size that was typed wrongly would call another network the nearest."""
    for name, record in (("smollm2", "gsm8k"), ("minilm", "classify")):
        model = Verification.load(SCRIPTS / "results" / f"{record}.json").model
        network = evidence.NETWORKS[name]
        assert (network.model, network.parameters) == (model.architecture, model.parameters)


def test_findings_are_written_from_any_records(evidence, tmp_path: Path, monkeypatch) -> None:
    """The numbers are those of the tables, by hand for a pair that is known."""
    write_pair(tmp_path / "pair", RULES | SINGLE, network="smollm2")
    monkeypatch.setattr(
        sys, "argv",
        ["evidence.py", "--results", str(tmp_path), "--data", str(tmp_path / "found.json")],
    )  # fmt: skip
    assert evidence.main() == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["title"] for one in found["networks"]] == ["SmolLM2-135M-Instruct"]
    assert found["pairs"][0]["correlation"] == pytest.approx(-1.0)
    assert found["pairs"][0]["regrets"]["plop"] == pytest.approx(1 - 0.8 / max(SINGLE.values()))
    assert found["pooled"]["low"] is None


def test_the_verification_on_gsm8k_is_the_one_of_the_page() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8").replace("\u2212", "-")
    record = Verification.load(SCRIPTS / "results" / "gsm8k.json")
    assert record.verdict == Verdict.CONFIRMED
    for arm in record.arms:
        name = f"**{arm.arm}**" if arm.arm == "plop" else arm.arm
        bounds = ""
        if arm.difference is not None:
            bounds = f"{arm.difference:+.3f}, {arm.low:+.3f} and {arm.high:+.3f}"
        cells = (name, f"{arm.nfn:.3f}", f"{arm.learning_rate:g}", f"{arm.mean:.3f}", bounds,
                 str(arm.verdict), f"{arm.forgetting.rise:+.3f}")  # fmt: skip
        assert " | ".join(cells).replace("  ", " ") in page


@pytest.mark.parametrize(
    ("name", "worse", "opened"),
    [
        ("classify", {"all-linear", "kappa", "eva"}, {"query-value", "attention", "random"}),
        ("sft", set(), {"attention", "all-linear", "plop-inverse", "eva", "gradient", "random"}),
        ("grpo", {"random"}, {"attention", "plop-inverse"}),
    ],
)
def test_the_published_experiments_by_the_rules_of_today(name, worse, opened) -> None:
    """docs/experiments.md says what the seeds of its three records show."""
    record = json.loads((SCRIPTS / "results" / f"{name}.json").read_text("utf-8"))
    found = decide(
        {arm["arm"]: Outcome(tuple(arm["values"])) for arm in record["arms"]},
        shortlist="plop",
        margin=record["margin"],
        higher=record["higher_is_better"],
    )
    verdicts = {row.arm: row.verdict for row in found.comparisons}
    assert found.verdict == INCONCLUSIVE
    assert {arm for arm, verdict in verdicts.items() if verdict == "worse"} == worse
    assert {arm for arm, verdict in verdicts.items() if verdict == "cannot separate"} == opened
