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
def scripts() -> Iterator[None]:
    """Let the scripts be imported as they import each other."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def evidence(scripts: None) -> Any:
    import evidence

    return evidence


@pytest.fixture(scope="module")
def outcomes(scripts: None) -> Any:
    import outcomes

    return outcomes


@pytest.fixture(scope="module")
def by_indicator(scripts: None) -> Any:
    import by_indicator

    return by_indicator


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


def test_gain_is_what_the_report_rows_lose_at_the_own_rate(
    evidence, outcomes, tmp_path: Path
) -> None:
    """The rate must be chosen on the other half of the rows, or the gain flatters."""
    write_pair(tmp_path / "pair", RULES | SINGLE)
    # Best on the report rows, worst on the selection rows: it must not be chosen.
    write(tmp_path / "pair", "plop", 9e-4, 0, [9.0] * 4 + [0.0] * 4)
    found = outcomes.read(tmp_path / "pair")
    assert found.arms["plop"].rate == 3e-4
    assert found.arms["plop"].gains_SI.shape == (3, 4)
    assert found.gain("plop") == pytest.approx(0.8)
    assert found.gain("random") == pytest.approx(0.5)
    assert found.gain(outcomes.LOWEST) == pytest.approx(1.0)
    assert found.regret("plop") == pytest.approx(0.2)
    assert not found.arms["plop"].at_edge
    assert found.types() == ["type-v", "type-o", "type-k", "type-q"]
    assert evidence.correlation(found) == pytest.approx(-1.0)


def test_a_gain_by_rewards_is_what_the_reward_rises(evidence, outcomes, tmp_path: Path) -> None:
    from overlap import METRIC

    write_pair(tmp_path / "pair", RULES | SINGLE)
    for path in (tmp_path / "pair").glob("*.r*.s*.json"):
        record = json.loads(path.read_text())
        record["items"] = {METRIC: [(3.0 - loss) / 2 for loss in record["items"]["loss"]]}
        del record["digest"]
        path.write_text(json.dumps(record))
    found = outcomes.read(tmp_path / "pair")
    assert found.gain("plop") == pytest.approx(0.4)
    assert found.regret("plop") == pytest.approx(0.2)
    assert found.unit == outcomes.REWARD
    assert "| reward |" in evidence.gains_table([found])


def test_the_error_of_a_gain_is_what_differs_between_types(outcomes, scripts, tmp_path) -> None:
    """A row that is hard for all types, and a seed that is bad for all, must not count as error."""
    from power import errors_of

    write_pair(tmp_path / "pair", RULES | SINGLE)
    found = outcomes.read(tmp_path / "pair")
    even = errors_of(found)
    assert (even.types, even.seeds, even.rows) == (4, pytest.approx(0.0), pytest.approx(0.0))
    for path in (tmp_path / "pair").glob("type-*.r0.0003.s1.json"):
        record = json.loads(path.read_text())
        record["items"]["loss"] = [loss + 0.5 for loss in record["items"]["loss"]]
        del record["digest"]
        path.write_text(json.dumps(record))
    assert errors_of(outcomes.read(tmp_path / "pair")).seeds == pytest.approx(0.0)
    for seed, gain in ((0, 0.9), (1, 1.0), (2, 1.1)):
        write(tmp_path / "pair", "type-v", 3e-4, seed, [3.0 - gain] * ROWS)
    for seed in (0, 1, 2):
        write(tmp_path / "pair", "type-q", 3e-4, seed, [2.6, 3.0] * (ROWS // 2))
    noisy = errors_of(outcomes.read(tmp_path / "pair"))
    assert noisy.seeds > 0
    assert noisy.rows > 0
    assert noisy.total(8) < noisy.total(3)


def test_more_networks_find_more_and_nothing_is_found_where_nothing_is(scripts) -> None:
    from power import NETWORKS, Errors, found_shares

    known = [Errors(7, 0.1, 0.02), Errors(4, 0.5, 0.1)]
    nothing = found_shares(0.0, 0.3, 3, known)
    assert all(0.01 < share < 0.05 for share in nothing.values())
    half, weak = (found_shares(true, 0.3, 3, known) for true in (-0.5, -0.3))
    assert [half[number] for number in NETWORKS] == sorted(half.values())
    assert all(half[number] >= weak[number] for number in NETWORKS)
    exact = found_shares(-0.99, 0.0, 3, [Errors(30, 0.0, 0.0)])
    assert min(exact.values()) == 1.0


def test_few_networks_have_no_power_to_speak_of(outcomes, scripts, tmp_path) -> None:
    from power import between_networks, power_parts

    write_pair(tmp_path / "pair", RULES | SINGLE)
    found = outcomes.read(tmp_path / "pair")
    assert power_parts([found], [-0.5]) == []
    assert between_networks([found], [-0.5]) == 0.0


def test_an_alias_is_the_arm_that_it_is_of(evidence, outcomes, tmp_path: Path) -> None:
    gains = {name: gain for name, gain in RULES.items() if name != "v-up-down"} | SINGLE
    write_pair(tmp_path / "pair", gains, aliases={"v-up-down": "plop"})
    found = outcomes.read(tmp_path / "pair")
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
def test_pairs_that_can_tell_nothing_are_left_out(outcomes, tmp_path, gains, why) -> None:
    write_pair(tmp_path / "pair", gains)
    found = outcomes.read(tmp_path / "pair")
    assert found.excluded == why


def test_types_within_their_error_are_left_out(outcomes, tmp_path: Path) -> None:
    write_pair(tmp_path / "pair", RULES | dict.fromkeys(SINGLE, 0.5))
    for seed, more in ((1, 0.3), (2, -0.3)):
        write(tmp_path / "pair", "type-v", 3e-4, seed, [2.5 - more] * ROWS)
    assert "cannot be told apart" in outcomes.read(tmp_path / "pair").excluded


@pytest.mark.slow
def test_p_of_labels_that_mean_nothing(evidence, outcomes, tmp_path: Path) -> None:
    """Of the 24 orders of four types, 2 give a rho of −1 or 1."""
    write_pair(tmp_path / "one", RULES | SINGLE)
    found = evidence.pooled([outcomes.read(tmp_path / "one")])
    assert found.p == pytest.approx(2 / 24, abs=0.01)
    assert (found.low, found.high) == (None, None)
    write_pair(tmp_path / "two", RULES | SINGLE)
    both = [outcomes.read(tmp_path / name) for name in ("one", "two")]
    found = evidence.pooled(both)
    # Two pairs of one network are one piece of evidence when they are permuted alike.
    assert found.p_networks == pytest.approx(2 / 24, abs=0.01)
    assert found.p == pytest.approx(2 / 24**2, abs=0.004)


def test_a_small_difference_is_a_tie_however_sure(evidence, outcomes, tmp_path: Path) -> None:
    write_pair(tmp_path / "pair", RULES | SINGLE | {"mlp": 0.795})
    rows = {row.rule: row for row in evidence.comparisons(outcomes.read(tmp_path / "pair"))}
    assert rows["mlp"].low > 0
    assert rows["mlp"].verdict == "tie"
    assert rows["attention"].verdict == "better"


@pytest.mark.parametrize(("spread", "wanted"), [(0.0, 3), (0.3, 4)], ids=["apart", "not yet apart"])
def test_seeds_are_added_until_types_are_apart(outcomes, tmp_path, spread, wanted) -> None:
    """With a fixed number of seeds the best type would often be the luckiest."""
    write_pair(tmp_path / "pair", RULES | SINGLE)
    for seed, more in ((1, spread), (2, -spread)):
        write(tmp_path / "pair", "type-v", 3e-4, seed, [2.0 - more] * ROWS)
    assert outcomes.seeds_wanted(tmp_path / "pair") == wanted


def test_a_seed_counts_once_every_arm_has_it(outcomes, tmp_path: Path) -> None:
    """Seeds of some arms only would compare different draws."""
    write_pair(tmp_path / "pair", RULES | SINGLE)
    write(tmp_path / "pair", "type-v", 3e-4, 3, [0.0] * ROWS)
    found = outcomes.read(tmp_path / "pair")
    assert found.seeds == 3
    assert found.gain("type-v") == pytest.approx(1.0)


def test_no_more_than_eight_seeds(outcomes, tmp_path: Path) -> None:
    write_pair(tmp_path / "pair", RULES | dict.fromkeys(SINGLE, 0.5))
    for arm in RULES | SINGLE:
        for seed in range(3, 8):
            write(tmp_path / "pair", arm, 3e-4, seed, [2.5 - 0.1 * seed] * ROWS)
    assert outcomes.seeds_wanted(tmp_path / "pair") == 8


INDICATORS = {
    "low": {"lower_first": True, "values": {"q": 4.0, "k": 3.0, "v": 1.0, "o": 2.0}},
    "high": {"lower_first": False, "values": {"q": 4.0, "k": 3.0, "v": 1.0, "o": 2.0}},
    "flat": {"lower_first": True, "values": dict.fromkeys(TYPES, 1.0)},
}


def write_indicators(folder: Path, held: dict[str, Any] = INDICATORS) -> None:
    (folder / "indicators.json").write_text(json.dumps({"indicators": held}))


def test_an_indicator_is_correlated_in_its_own_direction(by_indicator, outcomes, tmp_path) -> None:
    """Above 0 predicts the gain, whether the lowest or the highest values come first."""
    write_pair(tmp_path / "pair", RULES | SINGLE)
    write_indicators(tmp_path / "pair")
    found = outcomes.read(tmp_path / "pair")
    known = by_indicator.preferences(found, tmp_path)
    rhos = {name: by_indicator.rank_correlation(found, held) for name, held in known.items()}
    assert rhos == pytest.approx({"nfn of the trials": 1.0, "low": 1.0, "high": -1.0, "flat": 0.0})
    first = {name: by_indicator.order_of(held)[0] for name, held in known.items()}
    # A tie is broken by name, as in a placement.
    assert first == {"nfn of the trials": "type-v", "low": "type-v", "high": "type-q",
                     "flat": "type-k"}  # fmt: skip


def test_the_regret_of_a_first_type_and_its_interval_over_networks(
    by_indicator, outcomes, tmp_path
) -> None:
    """Two pairs of one network are one piece of evidence, and one degree of freedom is left."""
    for name, network, value in (("a", "one", 1.0), ("b", "one", 0.8), ("c", "two", 0.6)):
        single = SINGLE | {"type-v": value, "type-o": 1.0}
        write_pair(tmp_path / name, RULES | single, network=network)
        write_indicators(tmp_path / name)
    used = [outcomes.read(tmp_path / name) for name in "abc"]
    spread = by_indicator.alone_regret(used, lambda pair: "type-v")
    # Regrets of 0 and 0.2 in one network and 0.4 in the other: means of 0.1 and 0.4.
    assert spread.mean == pytest.approx(0.2)
    half = 12.706 * abs(0.1 - 0.4) / 2
    assert (spread.low, spread.high) == pytest.approx((0.25 - half, 0.25 + half), abs=1e-3)
    cut = by_indicator.over_networks({"a": 0.0, "c": 0.8}, used, most=1.0)
    assert (cut.low, cut.high) == (-1.0, 1.0)
    assert by_indicator.random_regrets(used)["a"] == pytest.approx(1 - (0.2 + 0.4 + 1 + 1) / 4)


def test_types_that_were_not_trained_together_have_no_regret(
    by_indicator, outcomes, tmp_path: Path
) -> None:
    """What no arm has tried cannot be said, and the page must say so."""
    arms = {name: [name.removeprefix("type-")] for name in RULES | SINGLE}
    arms |= {"plop": ["v", "o", "k"], "all-linear": ["v", "o", "k", "q"], "mlp": ["k", "q"]}
    write_pair(tmp_path / "pair", RULES | SINGLE, arms=arms)
    write_indicators(tmp_path / "pair")
    found = outcomes.read(tmp_path / "pair")
    orders = {"pair": ["type-v", "type-o", "type-k", "type-q"]}
    regrets = [by_indicator.number_regrets([found], orders, number) for number in (1, 2, 3, None)]
    assert regrets == [
        pytest.approx({"pair": 0.0}), {}, pytest.approx({"pair": 0.2}), pytest.approx({"pair": 0.4})
    ]  # fmt: skip
    parts = by_indicator.by_indicator([found], tmp_path)
    assert "no arm has the two lowest, so that nothing can be said" in parts[-1]
    (row,) = [line for line in parts[2].splitlines() if line.startswith("| nfn of")]
    assert row == "| nfn of the trials | 0.0% (1) | no arm | 20.0% (1) | 40.0% (1) | 40.0% (1) |"


def test_an_indicator_that_a_pair_lacks_is_named(by_indicator, outcomes, tmp_path: Path) -> None:
    """A mean over other pairs than those of its neighbours would be compared with them."""
    for name in "ab":
        write_pair(tmp_path / name, RULES | SINGLE)
        write_indicators(tmp_path / name)
    write_indicators(tmp_path / "b", {"low": INDICATORS["low"]})
    used = [outcomes.read(tmp_path / name) for name in "ab"]
    parts = by_indicator.by_indicator(used, tmp_path)
    assert "`high`" not in parts[1]
    assert "on 1 of the 2 pairs" in parts[-2]
    assert "`high`" in parts[-1]
    assert "`b`" not in parts[-1]
    (tmp_path / "b" / "indicators.json").unlink()
    assert by_indicator.by_indicator(used, tmp_path) == []


def test_the_indicators_are_those_of_the_trials_rows_and_weights() -> None:
    """A value of other rows or weights says nothing of the gains beside it."""
    for path in sorted((SCRIPTS / "results").glob("*/indicators.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        pair = json.loads((path.parent / "pair.json").read_text(encoding="utf-8"))
        assert (held["rows"], held["weights"]) == (pair["rows"]["train.jsonl"], pair["weights"])
        assert held["indicators"]["nfn"]["values"].keys() == pair["nfn"].keys()
        for row in held["indicators"].values():
            assert row["values"].keys() <= pair["nfn"].keys()
        if (
            pair["network"] != "minilm"
        ):  # the trials' NFN counts special tokens, of which it has two
            assert held["indicators"]["nfn"]["values"] == pytest.approx(pair["nfn"], rel=0.05)


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
        _, architecture, parameters = evidence.described(name)
        assert (architecture, parameters) == (model.architecture, model.parameters)
    bundled = Verification.load(SCRIPTS / "results" / "sft.json").model
    assert evidence.described("bundled")[1:] == (bundled.architecture, bundled.parameters)


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


FURTHER = {
    "arms": {"triple-01": ["q", "k", "v"], "triple-02": ["q", "k", "o"], "lowest-2": ["v", "o"]},
    "weights": {"lowest-sites": {"layers.0.q": 2}, "shuffled-layers": {"layers.1.q": 2}},
    "aliases": {"plop-random-words": "plop", "rank-of-weights": "mlp"},
}
ADDED = {
    "triple-01": 0.7, "triple-02": 0.2, "lowest-2": 0.9, "lowest-sites": 0.6,
    "shuffled-layers": 0.3,
}  # fmt: skip


def write_further(folder: Path, gains: dict[str, float] = ADDED) -> None:
    """Write the records of further arms beside those of a pair."""
    (folder / "further.json").write_text(json.dumps(FURTHER))
    for arm, gain in gains.items():
        for rate, share in ((1e-4, 0.5), (3e-4, 1.0), (9e-4, 0.2)):
            write(folder, arm, rate, 0, [3.0 - share * gain] * ROWS)
        for seed in (1, 2):
            write(folder, arm, 3e-4, seed, [3.0 - gain] * ROWS)


def cells_of(row: str) -> list[str]:
    """Return the cells of a row of a table in Markdown."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def test_further_arms_count_once_all_of_them_are_trained(outcomes, tmp_path: Path) -> None:
    """Those that happen to be there first must not decide, nor may the pair be lost meanwhile."""
    write_pair(tmp_path / "pair", RULES | SINGLE)
    before = outcomes.read(tmp_path / "pair")
    write_further(tmp_path / "pair", {"triple-01": 0.7})
    partly = outcomes.read(tmp_path / "pair")
    assert partly.further == ()
    assert partly.arms.keys() == before.arms.keys()
    write_further(tmp_path / "pair")
    whole = outcomes.read(tmp_path / "pair")
    assert {*whole.further} == ADDED.keys() | FURTHER["aliases"].keys()
    assert whole.gain("lowest-sites") == pytest.approx(0.6)
    assert whole.arms["plop-random-words"] is whole.arms["plop"]
    assert whole.members["triple-01"] == {"type-q", "type-k", "type-v"}
    assert "lowest-sites" not in whole.members


def test_what_further_arms_say(scripts, outcomes, tmp_path: Path) -> None:
    from by_further import by_further, mean_preference
    from by_indicator import gain_correlation

    write_pair(tmp_path / "pair", RULES | SINGLE)
    assert by_further([outcomes.read(tmp_path / "pair")], tmp_path) == []
    write_further(tmp_path / "pair")
    found = outcomes.read(tmp_path / "pair")
    # Lower mean NFN (0.9 of q, k and v; 1.0 of q, k and o), higher gain.
    nfn = mean_preference(
        found, ["triple-01", "triple-02"], {f"type-{k}": -v for k, v in TYPES.items()}
    )
    assert nfn == pytest.approx({"triple-01": -0.9, "triple-02": -1.0})
    assert gain_correlation(found, nfn) == pytest.approx(1.0)
    text, triples, _, answers, table = by_further([found], tmp_path)
    assert "on 1 of 1 pairs (`pair`)" in text
    assert triples == "No pair has 5 arms of three types."
    columns = dict(zip(*map(cells_of, (table.splitlines()[0], table.splitlines()[2])), strict=True))
    assert columns["`lowest-sites` minus `shuffled-layers`"] == "+0.300 (+0.300 to +0.300), better"
    assert columns["`lowest-sites` minus `plop`"].startswith("-0.200")
    assert columns["`plop-random-words` minus `plop`"] == "same types"
    rows = {cells_of(row)[1]: cells_of(row)[2:] for row in answers.splitlines()[2:]}
    # Of the best type's gain of 1; the mean of one pair has no interval.
    assert rows["`lowest-sites` minus `shuffled-layers`"] == ["1", "0", "0", "0", "+30.0%"]
    assert rows["`plop-random-words` minus `plop`"] == ["0", "0", "0", "1", "+0.0%"]


def test_each_block_alone_is_set_against_what_is_measured_of_it(outcomes, tmp_path) -> None:
    """Blocks are counted: the tenth must not stand between the first and the second."""
    from by_further import by_further, layer_arms

    blocks = {f"layer-{number}": 0.1 + 0.05 * number for number in (0, 2, 10)}
    write_pair(tmp_path / "pair", RULES | SINGLE)
    described = FURTHER | {"weights": FURTHER["weights"] | {block: {} for block in blocks}}
    write_further(tmp_path / "pair", ADDED | blocks)
    (tmp_path / "pair" / "further.json").write_text(json.dumps(described))
    measured = {"similarity": {"0": 0.9, "2": 0.5, "10": 0.1}, "nfn": {"0": 1, "2": 3, "10": 2}}
    (tmp_path / "pair" / "indicators.json").write_text(json.dumps({"layers": measured}))
    found = outcomes.read(tmp_path / "pair")
    assert layer_arms(found) == ["layer-0", "layer-2", "layer-10"]
    *_, table = by_further([found], tmp_path)
    head, _, row, mean = map(cells_of, table.splitlines())
    rhos = dict(zip(head, row, strict=True))
    assert (rhos["`depth`"], rhos["`similarity`"], rhos["`nfn`"]) == ("+1.00", "-1.00", "+0.50")
    assert rhos["gains of the blocks"] == "0.100; 0.200; 0.600"
    assert mean == ["mean", "+1.00", "-1.00", "+0.50", ""]


def test_triples_are_ordered_by_the_mean_of_an_indicator(outcomes, scripts, tmp_path) -> None:
    """The triple that an indicator puts first must be judged by the best triple, not type."""
    from by_further import by_triple

    types = {"q": 1.2, "k": 1.0, "v": 0.5, "o": 0.8, "up": 0.9}
    triples = {
        f"triple-0{number}": list(of)
        for number, of in enumerate([("q", "k", "v"), ("q", "k", "o"), ("v", "o", "up"),
                                     ("k", "o", "up"), ("q", "v", "o")], start=1)
    }  # fmt: skip
    gains = {
        "triple-01": 0.4,
        "triple-02": 0.5,
        "triple-03": 0.6,
        "triple-04": 0.8,
        "triple-05": 0.2,
    }
    write_pair(tmp_path / "pair", RULES | SINGLE | {"type-up": 0.1}, nfn=types)
    (tmp_path / "pair" / "further.json").write_text(
        json.dumps({"arms": triples, "weights": {}, "aliases": {}})
    )
    for arm, gain in gains.items():
        for seed in (0, 1, 2):
            write(tmp_path / "pair", arm, 3e-4, seed, [3.0 - gain] * ROWS)
    text, table = by_triple([outcomes.read(tmp_path / "pair")], tmp_path)
    assert "on the 1 pairs" in text
    rows = {cells_of(row)[0]: cells_of(row)[1:] for row in table.splitlines()[2:]}
    # Mean NFN 0.90, 1.00, 0.73, 0.90, 0.83: the third comes first, and the fourth gains most.
    assert rows["nfn of the trials"][2] == "25.0%"
    assert rows["a triple at random"][2] == "37.5%"


def test_arms_without_types_teach_the_learned_rule_nothing(outcomes, scripts, tmp_path) -> None:
    from learned import pair_of

    write_pair(tmp_path / "pair", RULES | SINGLE)
    described = json.loads((tmp_path / "pair" / "pair.json").read_text())
    arms = {name: ["q"] if name in RULES else types for name, types in described["arms"].items()}
    (tmp_path / "pair" / "pair.json").write_text(json.dumps(described | {"arms": arms}))
    write_further(tmp_path / "pair")
    shape = {"role": "attention", "in_features": 4, "out_features": 4, "parameters": 16}
    held = {"types": dict.fromkeys(TYPES, shape),
            "indicators": {"nfn": {"lower_first": True, "values": TYPES}}}  # fmt: skip
    (tmp_path / "pair" / "indicators.json").write_text(json.dumps(held))
    names = {arm.arm for arm in pair_of(outcomes.read(tmp_path / "pair"), tmp_path).arms}
    assert "triple-01" in names
    assert not {"lowest-sites", "shuffled-layers"} & names
