"""The scripts of the placement study: its data, its arms, and the trials that are still missing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import PlantedTrials, trial_result
from transformers import AutoTokenizer

import plop_lora as plop
from plop_lora.demo import DATA, MODEL
from plop_lora.recipe import Runner
from plop_lora.records import Scores, TrialResult, TrialSpec
from plop_lora.records.trial import LADDER
from plop_lora.training.folder import trial_folder
from plop_lora.training.runners.run import run_trials

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[1] / "scripts" / "experiments"
PAIR = "smollm2-gsm8k"


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """Import the scripts as they import each other."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        import arms
        import pairs
        import preparing
        import study
        import study_trials

        yield study, study_trials, preparing, pairs, arms
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def prepared_once(
    scripts: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Path, Path]]:
    """Prepare a pair whose network is the bundled model and whose rows are its word problems."""
    study, study_trials, preparing, pairs, _ = scripts
    root = tmp_path_factory.mktemp("study")
    lines = (DATA / "problems.jsonl").read_text(encoding="utf-8").splitlines()
    source = root / "gsm8k"
    source.mkdir()
    (source / "train.jsonl").write_text("\n".join(lines[:150]), encoding="utf-8")
    (source / "test.jsonl").write_text("\n".join(lines[150:]), encoding="utf-8")
    (root / "models").mkdir()
    (root / "models" / "bundled").symlink_to(MODEL)
    whole = pairs.PAIRS[PAIR]
    small = replace(whole, network="bundled", steps=2, rates=(2e-4, 2e-3), evaluation_rows=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pairs.PAIRS, PAIR, small)
        patch.setattr(study_trials, "STUDY", root / "study")
        patch.setattr(study, "STUDY", root / "study")
        preparing.prepare(small, root / "study" / PAIR, root / "models", source)
        yield small, root, source


@pytest.fixture
def prepared(prepared_once: tuple[Any, Path, Path]) -> Iterator[tuple[Any, Path, Path]]:
    """The prepared pair without the trials of another test, which would be found as finished."""
    yield prepared_once
    shutil.rmtree(prepared_once[1] / "study" / PAIR / "trials", ignore_errors=True)


def _open(scripts: Any, root: Path, results: Path, **more: Any) -> Any:
    return scripts[1].open_study(PAIR, results, root / "models", "cpu", **more)


def _result(spec: TrialSpec, losses: Sequence[float], cause: str | None = None) -> TrialResult:
    """Return a result with the loss of every row, or a failed one with its cause."""
    if cause is not None:
        return trial_result(spec, None, cause=cause)
    return trial_result(spec, sum(losses) / len(losses), items={"loss": tuple(losses)})


def test_every_arm_has_the_same_number_of_parameters(scripts: Any, prepared: Any) -> None:
    study = _open(scripts, prepared[1], prepared[1] / "arms")
    budget = study.arms["all-linear"].trainable_parameters
    for name, arm in study.arms.items():
        assert arm.trainable_parameters == pytest.approx(budget, rel=0.02), name
    types = [tuple(sorted({site.type for site in arm.sites})) for arm in study.arms.values()]
    assert len(set(types)) == len(types)
    assert {"plop", "plop-inverse", "attention", "type-v_proj", "v-o-down"} <= study.arms.keys()


def test_what_is_missing_is_run_once_and_further_seeds_at_the_best_rate(
    scripts: Any, prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study is stopped and started often: nothing may run twice, and rates must not be mixed."""
    study_script, pair = scripts[0], prepared[0]
    best = {2e-4: [3.0] * 8, 2e-3: [1.0] * 4 + [9.0] * 4, 6e-3: [2.0] * 8}

    def outcome(spec: TrialSpec, root: Path) -> TrialResult:
        return _result(spec, best.get(spec.learning_rate, [5.0] * 8))

    trials = PlantedTrials(outcome)
    monkeypatch.setattr(study_script, "warm_trials", lambda: contextlib.nullcontext(trials))
    study = _open(scripts, prepared[1], tmp_path)
    study_script.run(study, None)
    arms = len(study.arms)
    # The best of both rates is an edge, so a third is added for all; then seeds, one at a time for
    # all, as many as there may be, since the types here are equal.
    assert len(trials.ran) == 1 + 3 * arms + 7 * arms
    assert study.rates() == (*pair.rates, 6e-3)
    confirmed = [spec for spec in trials.ran if spec.seed]
    # The second half of the rows, where this rate is bad, must not choose.
    assert {spec.learning_rate for spec in confirmed} == {2e-3}
    assert {spec.seed for spec in confirmed} == set(range(1, 8))
    assert trials.ran[0].learning_rate == 0.0
    ran = tuple(trials.ran)
    trials.ran.clear()
    study_script.run(study, None)
    assert trials.ran == []
    (tmp_path / PAIR / "plop.r0.0002.s0.json").unlink()
    (lost,) = (spec for spec in ran if (spec.arm, spec.learning_rate) == ("plop", 2e-4))
    shutil.rmtree(trial_folder(study.folder / "trials", lost))
    study_script.run(study, None)
    assert [spec.arm for spec in trials.ran] == ["plop"]


def test_seeds_can_be_limited_and_added_later(
    scripts: Any, prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where time is short, all pairs get three seeds before one of them gets eight."""
    trials = PlantedTrials(lambda spec, root: _result(spec, [1.0] * 8))
    monkeypatch.setattr(scripts[0], "warm_trials", lambda: contextlib.nullcontext(trials))
    scripts[0].run(_open(scripts, prepared[1], tmp_path, most_seeds=3), None)
    assert {spec.seed for spec in trials.ran} == {0, 1, 2}
    trials.ran.clear()
    scripts[0].run(_open(scripts, prepared[1], tmp_path), None)
    assert {spec.seed for spec in trials.ran} == set(range(3, 8))


@pytest.mark.parametrize(
    ("architecture", "types", "outer", "mixing"),
    [
        (
            "gpt2",
            {"c_attn", "attn-c_proj", "c_fc", "mlp-c_proj"},
            {"c_attn", "c_fc", "mlp.c_proj"},
            {"c_attn", "attn.c_proj", "mlp.c_proj"},
        ),
        (
            "mixtral",
            {"q_proj", "k_proj", "v_proj", "o_proj", "experts-gate_up_proj", "experts-down_proj"},
            {"v_proj", "experts.gate_up_proj", "experts.down_proj"},
            {"v_proj", "o_proj", "experts.down_proj"},
        ),
        (
            "lfm2",
            {
                "in_proj",
                "conv-out_proj",
                "q_proj",
                "k_proj",
                "v_proj",
                "self_attn-out_proj",
                "w1",
                "w2",
                "w3",
            },
            {"v_proj", "w3", "w2"},
            {"v_proj", "self_attn.out_proj", "w2"},
        ),
    ],
)
def test_a_fused_weight_is_one_arm(
    scripts: Any, architecture: str, types: set[str], outer: set[str], mixing: set[str]
) -> None:
    """A slice has no adapter of its own: an arm of a slice would be one of the whole weight."""
    *_, preparing, pairs, arms = scripts
    scores = _scores_of(architecture)
    made = arms.all_arms(pairs.PAIRS[f"{architecture}-summaries"], scores)
    budget = made["all-linear"].trainable_parameters
    for name, arm in made.items():
        assert arm.trainable_parameters == pytest.approx(budget, rel=0.02), name
    alone = {name.removeprefix("type-") for name in made if name.startswith("type-")}
    assert alone == types
    assert set(preparing.types_of(made["v-up-down"])) == outer
    assert set(preparing.types_of(made["v-o-down"])) == mixing
    nfn = preparing.nfn_of(scores)
    assert {arms.short(name) for name in nfn} == types
    fused = next((name for name in nfn if name in ("c_attn", "experts.gate_up_proj")), None)
    if fused is None:
        return
    parts = [row.nfn for row in scores.types if row.host_type == fused]
    assert len(parts) > 1
    assert min(parts) < nfn[fused] < max(parts)


def test_further_arms_differ_from_all_others_and_cost_the_same(
    scripts: Any, prepared: Any, tmp_path: Path
) -> None:
    """A triple that another arm has already would be trained twice, and a pair keeps its arms."""
    from outcomes import further_described

    small, root, source = prepared
    study = _open(scripts, root, tmp_path)
    own = set(study.arms)
    with pytest.raises(scripts[3].StudyError, match=f"prepare {PAIR} --further"):
        _open(scripts, root, tmp_path, further=True)
    folder = root / "study" / PAIR
    scripts[2].prepare(small, folder, root / "models", source, further=True)
    try:
        both = _open(scripts, root, tmp_path, further=True)
        added = both.arms.keys() - own
        assert own < both.arms.keys()
        assert {f"triple-{number:02}" for number in range(1, 13)} <= added
        assert {"lowest-2", "lowest-sites", "shuffled-layers", "nfn-ranks"} <= added
        budget = both.arms["all-linear"].trainable_parameters
        for name, arm in both.arms.items():
            assert arm.trainable_parameters == pytest.approx(budget, rel=0.02), name
        types = {
            name: frozenset(site.type for site in arm.sites)
            for name, arm in both.arms.items()
            if name not in further_described(tmp_path / PAIR)["weights"]
        }
        assert len(set(types.values())) == len(types)
        kept = json.loads((tmp_path / PAIR / "further.json").read_text())
        assert kept["arms"].keys() | kept["weights"].keys() == added
        assert both.arms.keys() == _open(scripts, root, tmp_path).arms.keys()
        (tmp_path / PAIR / "further.json").write_text(json.dumps(kept | {"aliases": {"x": "y"}}))
        with pytest.raises(scripts[3].StudyError, match="are of another aliases"):
            _open(scripts, root, tmp_path)
    finally:
        (folder / scripts[2].WORDS).unlink()


def test_layers_are_drawn_with_as_many_weights_of_each_type(scripts: Any, scores: Scores) -> None:
    """Else the arm would differ from `lowest-sites` in its types too."""
    import further

    made = further.by_layer(scripts[3].PAIRS["bundled-summaries"], scores)
    lowest, shuffled = (
        Counter(site.type for site in made[name].sites)
        for name in ("lowest-sites", "shuffled-layers")
    )
    assert lowest == shuffled
    nfn = further.nfn_of_weights(scores)
    chosen = {site.name for site in made["lowest-sites"].sites}
    assert max(map(nfn.get, chosen)) <= min(nfn[name] for name in nfn.keys() - chosen)
    ranks = {site.name: site.rank for site in made["nfn-ranks"].sites}
    assert sorted(ranks, key=ranks.get) == sorted(ranks, key=nfn.get, reverse=True)


def test_random_words_are_those_of_the_rows_in_texts_of_the_same_length(scripts: Any) -> None:
    import further

    rows = [{"text": "a b c d"}, {"text": "e f"}]
    texts = further.random_words(rows)
    assert [len(text.split()) for text in texts] == [4, 2]
    assert {*" ".join(texts).split()} <= {*"abcdef"}
    assert texts == further.random_words(rows)


def _scores_of(architecture: str) -> Scores:
    """Return the scores of a small network with random weights."""
    sys.path.insert(0, str(SCRIPTS.parent / "demo_model"))
    try:
        import pretrain
    finally:
        sys.path.pop(0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    torch.manual_seed(0)
    model = pretrain.make_model(architecture, tokenizer)
    texts = plop.load_documents(DATA / "problems.jsonl", text="question", samples=8)
    return plop.score(model, tokenizer, texts, stop="fixed", progress=False)


def test_a_diverged_trial_is_a_result_and_one_of_the_machine_is_not(
    scripts: Any, prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not count as a bad learning rate, nor a bad rate as a full disk."""

    def outcome(spec: TrialSpec, root: Path) -> TrialResult:
        if spec.learning_rate == 2e-3:
            return _result(spec, [], "loss became NaN at step 2")
        if spec.arm == "mlp":
            return _result(spec, [], "killed by SIGKILL, often the system's out-of-memory killer")
        return _result(spec, [1.0] * 8)

    trials = PlantedTrials(outcome)
    monkeypatch.setattr(scripts[0], "warm_trials", lambda: contextlib.nullcontext(trials))
    study = _open(scripts, prepared[1], tmp_path)
    scripts[0].run(study, None)
    names = study.records().keys()
    assert "plop.r0.002.s0.json" in names
    assert not [name for name in names if name.startswith("mlp.r0.0002")]
    # It is tried once a run, and no other seed is run without its rate.
    assert len([spec for spec in trials.ran if spec.arm == "mlp"]) == 2
    assert "mlp" not in study.best_rates()


def test_records_of_another_protocol_are_not_joined(
    scripts: Any, prepared: Any, tmp_path: Path
) -> None:
    _open(scripts, prepared[1], tmp_path)
    kept = tmp_path / PAIR / "pair.json"
    described = json.loads(kept.read_text())
    kept.write_text(json.dumps(described | {"nfn": {}}))
    _open(scripts, prepared[1], tmp_path)
    kept.write_text(json.dumps(described | {"steps": 3}))
    with pytest.raises(scripts[3].StudyError, match="are of another steps"):
        _open(scripts, prepared[1], tmp_path)


def test_one_run_a_pair(scripts: Any, prepared: Any, tmp_path: Path) -> None:
    study = _open(scripts, prepared[1], tmp_path)
    with (study.folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(scripts[3].StudyError, match="Another run works on"):
            with scripts[0].sole_run(study):
                pass


def test_preparing_again_gives_the_same_rows(scripts: Any, prepared: Any, tmp_path: Path) -> None:
    """Records made in different weeks stand beside each other, so the rows must be the same."""
    small, root, source = prepared
    train, judged = scripts[3].DATA["gsm8k"](source, small.training_rows, 8)
    folder = root / "study" / PAIR
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == train
    questions = {row["prompt"] for row in train}
    assert not questions & {row["prompt"] for row in judged}
    general = scripts[3].general_text()
    assert general == scripts[3].general_text()
    assert len(general) == 64


def test_classifications_have_several_classes_in_both_parts(scripts: Any) -> None:
    for name in ("docstrings", "exceptions"):
        train, judged = scripts[3].DATA[name](None, 1920, 500)
        assert {row["label"] for row in train} == {row["label"] for row in judged}
        assert len({row["label"] for row in train}) >= 3
        assert not {row["text"] for row in train} & {row["text"] for row in judged}


def test_no_word_problem_is_trained_on_and_judged_by(scripts: Any) -> None:
    train, judged = scripts[3].DATA["arithmetic"](None, 256, 160)
    assert (len(train), len(judged)) == (256, 160)
    assert len({row["prompt"] for row in train + judged}) == 416
    assert all("####" in row["completion"] for row in train + judged)


@pytest.mark.parametrize(
    ("name", "unique"), [("summaries", "completion"), ("signatures", "prompt")]
)
def test_functions_of_the_library_are_rows_of_short_text(
    scripts: Any, name: str, unique: str
) -> None:
    pairs = scripts[3]
    pair = pairs.PAIRS[f"smollm2-{name}"]
    train, judged = pairs.DATA[name](None, pair.training_rows, pair.evaluation_rows)
    assert (train, judged) == pairs.DATA[name](None, pair.training_rows, pair.evaluation_rows)
    rows = train + judged
    assert len(train) == 256
    assert len(judged) == 160
    assert len({row[unique] for row in rows}) == len(rows)
    assert max(len(pairs.text_of(row)) for row in rows) <= 300
    general = "\n".join(row["text"] for row in pairs.general_text())
    defined = [f"def {row['prompt'].partition('(')[0].split()[-1]}(" for row in rows]
    assert not [words for words in defined if words in general]


def test_no_file_is_trained_on_and_judged_by(scripts: Any) -> None:
    """Methods of one class read alike: a row of its neighbour gives much of it away."""
    import functions

    sources = [
        "\n".join(f"def f{file}_{index}(a, b): pass" for index in range(9)) for file in range(40)
    ]
    parts = functions.split(sources, functions.signature, "prompt", "def f1_1(", "seed", 90, 60)
    trained, judged = ({row["prompt"].partition("_")[0] for row in part} for part in parts)
    assert trained
    assert judged
    assert not trained & judged
    assert not [row for part in parts for row in part if " f1_1(" in row["prompt"]]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "smollm3-gsm8k"), "There is no pair smollm3-gsm8k. The pairs are: minilm-"),
        (("prepare", PAIR, "--models", "nowhere"), "The network smollm2 is not in nowhere"),
        (
            ("prepare", "gpt2-summaries", "--models", "nowhere"),
            "The network small-gpt2 is not in nowhere. Make it with: python "
            "scripts/demo_model/pretrain.py --architecture gpt2 --steps 500 --evaluations 2 "
            "--output nowhere/small-gpt2",
        ),
        (("run", PAIR, "--device", "tpu"), "The device 'tpu' is not available here"),
    ],
)
def test_what_the_user_can_put_right_is_one_line(words: Sequence[str], text: str) -> None:
    ended = subprocess.run(
        [sys.executable, str(SCRIPTS / "study.py"), *words], capture_output=True, text=True
    )
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith(f"Error: {text}")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [("--workers", "0"), ("--seconds", "-5"), ("--seconds", "nan")])
def test_numbers_of_a_run_are_above_0(words: Sequence[str]) -> None:
    ended = subprocess.run(
        [sys.executable, str(SCRIPTS / "study.py"), "run", PAIR, *words],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert f"argument {words[0]}: {words[1]} is not above 0" in ended.stderr


def test_a_data_set_that_is_not_there_is_named(scripts: Any, tmp_path: Path) -> None:
    with pytest.raises(scripts[3].StudyError, match="needs a folder with its train"):
        scripts[3].DATA["gsm8k"](tmp_path, 1, 1)


def test_real_trials_leave_their_records(scripts: Any, prepared: Any, tmp_path: Path) -> None:
    """Whether the loss outside the task is measured shows only where a model is trained."""
    study_script, pair = scripts[0], prepared[0]
    study = _open(scripts, prepared[1], tmp_path)
    specs = [study.spec(arm, 2e-3, 0, LADDER) for arm in ("plop", "mlp")]
    keep = study_script.Keeper(study, len(specs))
    run_trials(specs, study.folder / "trials", Runner(workers=1), watch=keep)
    assert len(study.records()) == 2
    assert all(len(record.items["general-loss"]) == 64 for record in study.records().values())
    assert pair.steps == 2


def test_a_trial_by_rewards_is_judged_by_its_reward(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reward rises where a loss falls: a gain with the wrong sign would turn the findings."""
    study_script, study_trials, preparing, pairs, _ = scripts
    from outcomes import losses_of
    from overlap import METRIC

    whole = pairs.PAIRS["bundled-grpo"]
    small = replace(whole, steps=1, batch_size=8, evaluation_rows=4)
    assert (whole.training_rows, small.training_rows) == (128, 1)
    monkeypatch.setitem(pairs.PAIRS, small.name, small)
    monkeypatch.setattr(study_trials, "STUDY", tmp_path / "study")
    preparing.prepare(small, tmp_path / "study" / small.name, tmp_path, None)
    study = study_trials.open_study(small.name, tmp_path / "results", tmp_path, "cpu")
    spec = study.spec("plop", 2e-3, 0, LADDER)
    run_trials([spec], study.folder / "trials", Runner(workers=1),
               watch=study_script.Keeper(study, 1))  # fmt: skip
    (record,) = study.records().values()
    assert record.done, record.cause
    assert losses_of(record) == pytest.approx(1 - np.array(record.items[METRIC]))
    assert len(losses_of(record)) == 4
    assert record.curve.quantity == "reward"
