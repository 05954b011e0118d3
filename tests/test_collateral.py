"""What arms cost outside their task: forgetting, time and memory, from trials to words."""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from builders import arm_result, trial_cost, trial_result, trial_spec, verification
from finetunes import MODEL, ROWS
from planted import Here

import plop_lora as plop
from plop_lora.records import TrialResult, Verification
from plop_lora.records.trial import GENERAL_LOSS, Phase
from plop_lora.records.verification import ArmVerdict, Forgetting, GeneralText, Verdict
from plop_lora.reports.forgetting import collateral_table, forgetting_sentence
from plop_lora.reports.terminal import as_text
from plop_lora.study.compare import outcome_of
from plop_lora.verification.collateral import forgetting_of, general_of, time_and_memory

TEXTS = 40


def _trial(arm: str, seed: int, rise: float, **values: object) -> TrialResult:
    """Return a trial that raises the loss of every text by about as much."""
    chance, noise = random.Random(1), random.Random(f"{arm} {seed}")
    losses = tuple(chance.uniform(2, 4) + rise + noise.gauss(0, 0.005) for _ in range(TEXTS))
    return trial_result(
        trial_spec(arm, seed),
        metrics={"loss": 0.5, GENERAL_LOSS: sum(losses) / TEXTS},
        items={GENERAL_LOSS: losses},
        general_tokens=(10,) * TEXTS,
        **values,
    )


BASE = replace(_trial("untrained model", 0, 0.0), phase=Phase.UNTRAINED)


def _arms(**rises: float) -> dict[str, list[TrialResult]]:
    return {arm: [_trial(arm, seed, rise) for seed in range(3)] for arm, rise in rises.items()}


def _forgetting(
    arms: dict[str, list[TrialResult]], base: TrialResult = BASE
) -> dict[str, Forgetting]:
    outcomes = {arm: outcome_of(trials, GENERAL_LOSS) for arm, trials in arms.items()}
    return forgetting_of(outcomes, base, "plop")


def test_the_rise_is_that_over_the_untrained_model() -> None:
    found = _forgetting(_arms(plop=0.02, mlp=0.06, attention=0.02))
    plop, mlp, attention = found["plop"], found["mlp"], found["attention"]
    assert plop.rise == pytest.approx(0.02, abs=0.003)
    assert plop.low < 0.02 < plop.high
    assert plop.difference is None
    assert mlp.difference == pytest.approx(0.04, abs=0.003)
    assert 0.02 < mlp.difference_low < 0.04 < mlp.difference_high < 0.06
    assert attention.difference_low < 0 < attention.difference_high


def test_what_was_not_measured_is_absent_and_not_zero() -> None:
    arms = _arms(plop=0.02, mlp=0.06)
    bare = [replace(result, metrics={"loss": 0.5}, items={}) for result in arms["mlp"]]
    found = _forgetting({**arms, "mlp": bare})
    assert set(found) == {"plop"}
    unmeasured = replace(BASE, metrics={}, items={}, general_tokens=())
    assert _forgetting(arms, unmeasured) == {}
    assert general_of(unmeasured, "x") is None
    assert general_of(BASE, "x") == GeneralText(
        source="x", texts=TEXTS, tokens=10 * TEXTS, loss=BASE.metrics[GENERAL_LOSS]
    )


def test_one_seed_has_a_rise_without_an_interval() -> None:
    arms = {arm: trials[:1] for arm, trials in _arms(plop=0.02, mlp=0.06).items()}
    found = _forgetting(arms)["mlp"]
    assert found.rise == pytest.approx(0.06, abs=0.003)
    assert (found.low, found.difference) == (None, None)


def test_time_and_memory_are_means_over_the_trials_that_finished() -> None:
    cheap, dear = trial_cost(2.0, peak_memory=2**20), trial_cost(4.0, peak_memory=3 * 2**20)
    done = [_trial("plop", seed, 0.0, cost=cost) for seed, cost in enumerate((cheap, dear))]
    failed = trial_result(trial_spec("plop", 2), None, cost=trial_cost(99.0))
    assert time_and_memory([*done, failed]) == (3.0, 2 * 2**20)
    assert time_and_memory([failed]) == (None, None)


# --------------------------------------------------------------------------- words


def _record(difference: float, low: float, high: float, **values: object) -> Verification:
    lost = Forgetting(
        rise=0.06, low=0.05, high=0.07,
        difference=difference, difference_low=low, difference_high=high,
    )  # fmt: skip
    first = Forgetting(rise=0.02, low=0.01, high=0.03)
    own = {"seconds": 12.0, "peak_memory": 3 * 2**30}
    arms = (
        arm_result("plop", (1.0, 1.0), verdict=ArmVerdict.SHORTLIST, forgetting=first, **own),
        arm_result("attention", (1.1, 1.1), verdict=ArmVerdict.UNSETTLED, forgetting=lost, **own),
        arm_result("mlp", (1.2, 1.2), verdict=ArmVerdict.NON_INFERIOR, bound=-0.005, low=-0.01,
                   high=0.01, forgetting=lost, **own),
    )  # fmt: skip
    return verification(*arms, **values)


GENERAL = GeneralText(source="the bundled general text", texts=120, tokens=30_000, loss=3.1)


@pytest.mark.parametrize(
    ("difference", "low", "high", "sentence"),
    [
        (0.04, 0.03, 0.05, "On general text plop forgets 0.04 nats a token less than mlp "
         "(95 % interval 0.03 to 0.05)."),
        (-0.04, -0.05, -0.03, "On general text plop forgets 0.04 nats a token more than mlp "
         "(95 % interval 0.03 to 0.05)."),
        (0.01, -0.01, 0.03, "No difference in forgetting between plop and mlp was shown."),
    ],
)  # fmt: skip
def test_the_verdict_names_the_difference(
    difference: float, low: float, high: float, sentence: str
) -> None:
    record = _record(difference, low, high)
    assert forgetting_sentence(record) == sentence
    assert sentence in " ".join(as_text(record, 400).split())


def test_forgetting_at_other_rates_is_told_as_such() -> None:
    """A larger rate forgets more at any placement: the difference would be read as the arms'."""
    record = _record(0.04, 0.03, 0.05)
    assert "rate" not in forgetting_sentence(record)
    assert "Trained at another rate" not in as_text(record, 400)
    plop, attention, mlp = record.arms
    slower = dataclasses.replace(mlp, learning_rate=mlp.learning_rate / 3)
    record = dataclasses.replace(record, arms=(plop, attention, slower))
    assert forgetting_sentence(record).endswith("Their learning rates differ, which moves "
                                                "forgetting as well.")  # fmt: skip
    text = " ".join(as_text(record, 400).split())
    assert "Trained at another rate than plop (0.0003): mlp (0.0001). A larger rate" in text
    none_shown = _record(0.01, -0.01, 0.03)
    arms = (plop, attention, dataclasses.replace(none_shown.arms[2], learning_rate=1e-3))
    assert "differ, which" not in forgetting_sentence(dataclasses.replace(none_shown, arms=arms))


def test_a_rival_that_beats_the_shortlist_is_the_one_that_is_named() -> None:
    record = _record(0.04, 0.03, 0.05, verdict=Verdict.BEATEN, better="attention")
    assert "less than attention" in forgetting_sentence(record)


def test_a_record_without_forgetting_says_nothing_of_it() -> None:
    record = verification(arm_result("plop", (1.0,)), arm_result("mlp", (1.0,)))
    assert forgetting_sentence(record) == ""
    assert collateral_table(record) is None
    assert "orgetting" not in as_text(record)


def test_the_table_fits_a_hundred_columns() -> None:
    text = as_text(_record(0.04, 0.03, 0.05, general=GENERAL), 100)
    assert max(map(len, text.splitlines())) <= 100
    (row,) = [line for line in text.splitlines() if "+0.0600" in line and line.startswith("mlp")]
    for cell in ("+0.0500 to +0.0700", "+0.0400", "+0.0300 to +0.0500", "12 s", "3.0 GiB"):
        assert cell in row
    assert "120 texts (30,000 tokens)" in " ".join(text.split())


def test_the_record_keeps_it() -> None:
    record = _record(0.04, 0.03, 0.05, general=GENERAL)
    assert Verification.from_dict(record.to_dict()) == record
    old = record.to_dict()
    old["arms"] = [
        {name: value for name, value in arm.items() if name not in _NEW} for arm in old["arms"]
    ]
    del old["general"]
    assert all(arm.forgetting is None for arm in Verification.from_dict(old).arms)


_NEW = ("forgetting", "seconds", "peak_memory")


# --------------------------------------------------------------------------- with real trials


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:torch.*")
def test_training_on_strange_text_costs_the_model_its_general_text(tmp_path: Path) -> None:
    """The bundled model learns words in scrambled order, and loses what it knew."""
    pytest.importorskip("trl")
    scores = plop.score(str(MODEL), texts=[row["prompt"] for row in ROWS[:32]], stop="fixed")
    for name, start in (("train", 0), ("eval", 96)):
        rows = [{"text": _scrambled(row["prompt"])} for row in ROWS[start : start + 96]]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    given = {
        "task": "sft", "train": str(tmp_path / "train.jsonl"), "eval": str(tmp_path / "eval.jsonl"),
        "arms": ["all-linear"], "design": "fixed", "seeds": 3, "learning_rates": [5e-3], "rank": 8,
        "general": {"most": 18}, "training": {"steps": 12, "device": "cpu", "max_length": 128},
    }  # fmt: skip
    record = plop.verify(scores, folder=tmp_path / "run", run=Here(), **given)
    assert (record.general.texts, record.general.source) == (18, "the bundled general text")
    for arm in record.arms:
        assert arm.forgetting.rise > 0.1, arm
        assert arm.forgetting.low > 0, arm
        assert arm.seconds > 0
        assert arm.peak_memory > 0
    trials = [TrialResult.load(path) for path in tmp_path.glob("run/trials/*/result.json")]
    judged = [result for result in trials if GENERAL_LOSS in result.items]
    assert len(judged) == 2 * 3 + 1, "the trials that decide, and the untrained model"
    assert len({result.general_tokens for result in judged}) == 1
    assert all(result.cost.evaluate_seconds > 0 for result in judged)


def _scrambled(text: str) -> str:
    words = text.split()
    random.Random(text).shuffle(words)
    return " ".join(words)
