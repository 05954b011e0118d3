"""A learned rule of placement: what it finds where there is something, and that it abstains."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import arm_result, placement, trial_data, trial_spec, verification
from conftest import GOLDEN

import plop_lora as plop
from plop_lora.errors import MissingExtraError, RecordError, UsageError
from plop_lora.placement import groups_of
from plop_lora.placement.learned import advise, features_of, fit, history_types, study_model
from plop_lora.placement.learned.features import part_of, placement_features
from plop_lora.placement.learned.fit import DEFAULT, best_gain
from plop_lora.records import (
    UNSCORED,
    HistoryArm,
    HistoryPair,
    HistoryType,
    LearnedModel,
    PlacedSite,
    Placement,
    Reference,
    Scores,
    Verification,
)
from plop_lora.reports.terminal import as_text
from plop_lora.verification.design import UNTRAINED_MODEL
from plop_lora.verification.learning import history_of, learn

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts" / "experiments"
SCORES = GOLDEN / "llama-scores.json"
SHAPES = {"q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64),
          "gate_proj": (64, 256), "up_proj": (64, 256), "down_proj": (256, 64)}  # fmt: skip
PARTS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output",
         "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}  # fmt: skip
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")

Gain = Callable[[Sequence[HistoryType]], float]
"""The gain of a placement by its types."""


def types_of(rng: random.Random) -> tuple[HistoryType, ...]:
    return tuple(
        HistoryType(
            type=name, part=PARTS[name], attention=name in ATTENTION, nfn=rng.uniform(0.6, 2.0),
            in_features=rows, out_features=columns, parameters=rows * columns,
        )
        for name, (rows, columns) in SHAPES.items()
    )  # fmt: skip


def pair(name: str, network: str, types: tuple[HistoryType, ...], gain: Gain) -> HistoryPair:
    by_nfn = [row.type for row in sorted(types, key=lambda row: row.nfn)]
    arms = {
        DEFAULT: by_nfn[:3], "attention": ATTENTION, "mlp": MLP, "all-linear": [*SHAPES],
        "random-1": ("q_proj", "up_proj"), "random-2": ("k_proj", "down_proj"),
        **{f"type:{name}": [name] for name in SHAPES},
    }  # fmt: skip
    rows = {row.type: row for row in types}
    return HistoryPair(
        name=name, network=network, metric="loss", source="a test", types=types,
        arms=tuple(
            HistoryArm(arm=arm, types=tuple(chosen), gain=gain([rows[name] for name in chosen]))
            for arm, chosen in arms.items()
        ),
    )  # fmt: skip


def history(
    gain: Callable[[random.Random], Gain], networks: int = 6, seed: int = 0
) -> list[HistoryPair]:
    """Return two pairs of every network, whose NFN is drawn anew and tells nothing."""
    rng = random.Random(seed)
    made = []
    for network in range(networks):
        types = types_of(rng)
        made += [pair(f"{network} {task}", f"net {network}", types, gain(rng)) for task in "ab"]
    return made


def large_weights(rng: random.Random) -> Gain:
    """Types of the MLP learn a third more than the others, in every network."""
    return lambda types: sum(1.0 - 0.25 * row.attention for row in types) / len(types)


def noise(rng: random.Random) -> Gain:
    """No placement is better than another, but for chance."""
    return lambda types: 1.0 + rng.gauss(0, 0.1)


@functools.cache
def planted() -> LearnedModel:
    """Return the model of a history in which the MLP is better everywhere."""
    return fit(history(large_weights))


@functools.cache
def unsure(networks: int = 6) -> LearnedModel:
    """Return the model of a history of noise."""
    return fit(history(noise, networks))


def model_reading(tmp_path: Path, model: LearnedModel) -> str:
    return str(model.save(tmp_path / "learned.json"))


# --------------------------------------------------------------------------- fit


def test_a_planted_effect_is_found_and_the_rule_speaks(tmp_path: Path) -> None:
    """Where networks that were left out gain surely, the default placement is left."""
    model = planted()
    assert not model.abstains
    assert model.low > 0.02
    assert {row.chosen for row in model.left_out} <= {"mlp", *(f"type:{name}" for name in MLP)}
    regret = {row.rule: row.mean for row in model.rules}
    assert regret["learned"] == pytest.approx(0.0, abs=1e-9)
    assert regret["learned"] < regret[DEFAULT]
    found = plop.place(
        Scores.load(SCORES), strategy="learned", learned=model_reading(tmp_path, model)
    )
    assert {choice.type for choice in found.choices} <= set(MLP)
    assert found.strategy == "learned"
    assert found.verdict == UNSCORED
    (note,) = [note for note in found.notes if note.startswith("learned: ")]
    assert "chooses" in note
    assert f"{model.gain:+.1%}" in note


@pytest.mark.parametrize("networks", [3, 6])
def test_noise_makes_the_rule_abstain(tmp_path: Path, networks: int) -> None:
    """A fit always prefers something; on networks that it has not seen it must not matter."""
    model = unsure(networks)
    assert model.abstains
    assert model.low < 0 < model.high
    assert any(row.chosen != DEFAULT for row in model.left_out)
    scores = Scores.load(SCORES)
    found = plop.place(scores, strategy="learned", learned=model_reading(tmp_path, model))
    default = plop.place(scores)
    assert (found.sites, found.choices, found.verdict) == (
        default.sites, default.choices, default.verdict
    )  # fmt: skip
    (note,) = [note for note in found.notes if note.startswith("learned: ")]
    assert "abstains" in note
    assert f"{model.low:+.1%} to {model.high:+.1%}" in note


@pytest.mark.slow
def test_noise_is_taken_for_an_effect_as_rarely_as_the_interval_says() -> None:
    """One bound of a 95 % interval is wrong in 2.5 % of histories: 4 of 20 would be one in 700."""
    speaks = [not fit(history(noise, seed=seed)).abstains for seed in range(20)]
    assert sum(speaks) < 4


def test_whether_it_abstains_follows_from_the_interval_alone() -> None:
    model = unsure()
    assert replace(model, gain=0.02, low=0.001, high=0.04).abstains is False
    assert replace(model, gain=0.02, low=0.0, high=0.04).abstains is True
    assert replace(model, gain=0.02, low=None, high=None).abstains is True


def test_networks_are_left_out_whole() -> None:
    """A pair of the same network in the fit would tell what the network likes."""
    rng = random.Random(2)
    networks = {f"net {number}": types_of(rng) for number in range(4)}
    favourite = dict(zip(networks, ("q_proj", "v_proj", "up_proj", "down_proj"), strict=True))
    made = [
        pair(f"{network} {task}", network, types,
             lambda rows, best=favourite[network]: 1.0 + any(row.type == best for row in rows))
        for network, types in networks.items() for task in "ab"
    ]  # fmt: skip
    model = fit(made)
    # Each network has its own best type, of which the other networks know nothing.
    assert model.abstains
    regret = {row.rule: row.mean for row in model.rules}
    assert regret["learned"] > 0.1


def test_one_network_says_nothing_of_another() -> None:
    model = fit(history(large_weights, networks=1))
    assert model.abstains
    assert (model.gain, model.low, model.left_out) == (None, None, ())
    assert "one network" in model.notes[0]


def test_a_fit_does_not_depend_on_the_unit_of_the_gains_or_the_order() -> None:
    """Nats and accuracies stand in one history."""
    made = history(large_weights)
    scaled = [
        replace(one, arms=tuple(replace(arm, gain=50 * arm.gain) for arm in one.arms))
        for one in made
    ]
    first = fit(made)
    for other in (fit(scaled), fit(made[::-1])):
        assert other.coefficients == pytest.approx(first.coefficients, rel=1e-4, abs=1e-6)
        assert other.gain == pytest.approx(first.gain)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda made: [], "no history"),
        (lambda made: [made[0], made[0]], "Two pairs"),
        (lambda made: [replace(made[0], arms=made[0].arms[1:])], "no arm 'plop'"),
        (lambda made: [replace(made[0], arms=tuple(replace(arm, gain=-1.0)
                                                   for arm in made[0].arms))], "untrained model"),
    ],
)  # fmt: skip
def test_a_history_that_teaches_nothing_is_refused(change: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        fit(change(history(noise)))


def test_a_further_indicator_is_used_where_every_pair_holds_it() -> None:
    """The gain follows a number that neither NFN nor any shape tells."""
    rng = random.Random(3)
    made = []
    for network in range(6):
        rows = tuple(replace(row, further={"luck": rng.random()}) for row in types_of(rng))
        made.append(
            pair(f"{network}", f"net {network}", rows,
                 lambda types: 1.0 + sum(row.further["luck"] for row in types) / len(types))
        )  # fmt: skip
    with_it = fit(made, ["luck"])
    assert not with_it.abstains
    assert with_it.features == features_of(["luck"])
    assert with_it.gain > (fit(made).gain or 0) + 0.05
    with pytest.raises(UsageError, match="'chance'"):
        fit(made, ["luck", "chance"])


def test_regret_is_a_share_of_the_best_type_as_in_the_study() -> None:
    arms = (HistoryArm(arm="plop", types=("a", "b"), gain=0.9),
            HistoryArm(arm="type:a", types=("a",), gain=0.8))  # fmt: skip
    made = history(noise)[0]
    assert best_gain(replace(made, arms=arms)) == 0.8
    assert best_gain(replace(made, arms=arms[:1])) == 0.9


def test_features_mean_the_same_in_every_model() -> None:
    """Levels differ between models, ranks do not."""
    types = types_of(random.Random(4))
    chosen = [("q_proj",), MLP]
    before = placement_features(types, chosen, features_of())
    louder = tuple(replace(row, nfn=row.nfn * 3, parameters=row.parameters * 5) for row in types)
    assert placement_features(louder, chosen, features_of()) == before
    assert before[0][-1] == 0.0  # one type of seven
    assert before[0][3] == 1.0  # of the attention
    lowest = min(types, key=lambda row: row.nfn).type
    assert placement_features(types, [(lowest,)], features_of())[0][0] == 1.0


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"plop-lora\[learn\]"):
        fit(history(noise))


# --------------------------------------------------------------------------- advice


def test_types_that_it_never_saw_keep_the_default() -> None:
    model = planted()
    types = types_of(random.Random(5))
    placements = {DEFAULT: ["q_proj"], "mlp": list(MLP)}
    assert advise(types, placements, model).arm == "mlp"
    mixer = replace(types[0], type="mixer.in_proj", part="mixer.in_proj")
    advice = advise((*types, mixer), placements, model)
    assert advice.arm == DEFAULT
    assert "never" in advice.note
    assert "mixer.in_proj" in advice.note


def test_scores_without_an_indicator_that_it_needs_keep_the_default() -> None:
    rows = tuple(replace(row, further={"kappa": 1.0}) for row in types_of(random.Random(5)))
    model = replace(planted(), further=("kappa",))
    placements = {DEFAULT: ["q_proj"], "mlp": list(MLP)}
    advice = advise(types_of(random.Random(5)), placements, model)
    assert advice.arm == DEFAULT
    assert "--indicator kappa" in advice.note
    with_it = replace(
        model,
        features=features_of(["kappa"]),
        coefficients=(*model.coefficients[:-1], 0.0, model.coefficients[-1]),
    )
    assert advise(rows, placements, with_it).arm == "mlp"


def test_only_placements_that_were_tried_are_chosen() -> None:
    """The coefficients say something of any set of types, the trials do not."""
    model = planted()
    types = types_of(random.Random(5))
    untried = {DEFAULT: ["q_proj"], "v-up-down": list(MLP), "attention": list(ATTENTION)}
    assert advise(types, untried, model).arm in (DEFAULT, "attention")
    alone = {DEFAULT: ["q_proj"], "type:up_proj": ["up_proj"]}
    assert advise(types, alone, model).arm == "type:up_proj"
    mixtures = tuple(
        replace(one, arms=tuple(arm for arm in one.arms if len(arm.types) > 1))
        for one in model.history
    )
    assert advise(types, alone, replace(model, history=mixtures)).arm == DEFAULT


def test_parts_are_known_across_naming_conventions() -> None:
    found = {group.type: part_of(group) for group in groups_of(Scores.load(SCORES))}
    assert {found[name] for name in SHAPES} == set(PARTS.values())
    assert set(PARTS.values()) <= set(study_model().parts)


# --------------------------------------------------------------------------- the study's model


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import learned

        return learned
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.mark.slow
def test_the_model_of_the_package_is_the_fit_of_the_records(script: Any) -> None:
    """Coefficients that nobody can compute again are no evidence."""
    made, kept = script.learned(), study_model()
    assert made.history == kept.history
    assert made.coefficients == pytest.approx(kept.coefficients, rel=1e-3, abs=1e-5)
    assert [row.chosen for row in made.left_out] == [row.chosen for row in kept.left_out]
    assert (made.penalty, made.parts) == (kept.penalty, kept.parts)
    assert (made.gain, made.low, made.high) == pytest.approx((kept.gain, kept.low, kept.high))


def test_the_model_of_the_package_says_what_its_interval_says() -> None:
    model = study_model()
    assert model.networks == len({pair.network for pair in model.history}) == 7
    assert model.abstains == (not model.low > 0)
    found = plop.place(Scores.load(SCORES), strategy="learned")
    assert any(note.startswith("learned: ") for note in found.notes)
    if model.abstains:
        assert found.sites == plop.place(Scores.load(SCORES)).sites


def test_its_table_stands_in_the_evidence() -> None:
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    for row in study_model().rules:
        assert f"| {row.mean:.1%} |" in page or f"{row.mean:.1%} (" in page, row.rule


# --------------------------------------------------------------------------- keys of placing


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"strategy": "learned", "indicator": "parameter-share"}, "--indicator has no meaning"),
        ({"learned": "learned.json"}, "--strategy learned"),
        ({"strategy": "learned", "types": ("q_proj",)}, "--types needs"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        plop.place(Scores.load(SCORES), **keys)


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="'scores' record, but a 'learned-model' record"):
        plop.place(Scores.load(SCORES), strategy="learned", learned=str(SCORES))
    document = unsure().to_dict() | {"schema_version": 2}
    (tmp_path / "newer.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match="schema_version 2"):
        plop.place(Scores.load(SCORES), strategy="learned", learned=str(tmp_path / "newer.json"))


def test_a_model_is_read_back_as_it_was_and_is_no_pickle(tmp_path: Path) -> None:
    model = planted()
    path = model.save(tmp_path / "learned.json")
    assert LearnedModel.load(path) == model
    assert json.loads(path.read_text(encoding="utf-8"))["coefficients"] == [*model.coefficients]


def test_placing_needs_neither_torch_nor_scikit_learn() -> None:
    """Whoever asks the rule has not installed what fits it."""
    code = (
        "import sys; from plop_lora.placement import place; from plop_lora.records import Scores;"
        f"place(Scores.load({str(SCORES)!r}), strategy='learned');"
        "assert not {'torch', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------- verifications of users

SECRET = "the patient was told on Monday"
"""A text of the user's, which stands in the records of a run and must not be taken over."""
ARMS = {"plop": (("down_proj", "k_proj", "o_proj"), 0.30), "all-linear": (tuple(SHAPES), 0.20),
        "mlp": (MLP, 0.10), "attention": (ATTENTION, 0.28)}  # fmt: skip


def site(name: str, type_name: str) -> PlacedSite:
    return PlacedSite(name, type_name, 0, 1, 1.0, 8)


def write_run(
    folder: Path, name: str = "net", *, gains: dict[str, Any] = ARMS, **changes: Any
) -> Path:
    """Write what a verification leaves: the record, its scores, and a specification an arm."""
    scores = Scores.load(SCORES)
    reference = replace(scores.model, name=f"/home/someone/{name}", config_hash=name)
    scores = replace(scores, model=reference)
    folder.mkdir(parents=True)
    scores.save(folder / "scores.json")
    for arm, (types, _) in gains.items():
        of = placement(sites=tuple(site(f"layer.{name}", name) for name in types))
        for seed in (0, 1):
            spec = trial_spec(arm, seed, placement=of, data=trial_data(train=f"../{SECRET}.jsonl"))
            (folder / "trials" / f"{arm}-{seed}").mkdir(parents=True)
            spec.save(folder / "trials" / f"{arm}-{seed}" / "spec.json")
    record = verification(
        *(arm_result(arm, [1.0 - gain] * 2) for arm, (_, gain) in gains.items()),
        **{"model": reference, "scores_digest": scores.digest(), "notes": (SECRET,),
           "references": (Reference(name=UNTRAINED_MODEL, value=1.0),)} | changes,
    )  # fmt: skip
    record.save(folder / "verification.json")
    return folder


def test_a_verification_becomes_a_pair_of_the_history(tmp_path: Path) -> None:
    found = history_of(write_run(tmp_path / "run"))
    assert {arm.arm: arm.gain for arm in found.arms} == pytest.approx(
        {name: gain for name, (_, gain) in ARMS.items()}
    )
    assert {arm.arm: set(arm.types) for arm in found.arms} == {
        name: set(types) for name, (types, _) in ARMS.items()
    }
    known = {row.type: row for row in found.types}
    scores = Scores.load(SCORES)
    assert known["q_proj"].nfn == pytest.approx(scores["q_proj"].nfn)
    assert known["down_proj"].part == "down"
    assert found.types == history_types(groups_of(scores))
    assert found == history_of(tmp_path / "run" / "verification.json")


def test_gains_of_a_metric_that_rises_are_above_zero(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", metric="accuracy", higher_is_better=True,
        references=(Reference(name=UNTRAINED_MODEL, value=0.5),),
    )  # fmt: skip
    gains = {arm.arm: arm.gain for arm in history_of(run).arms}
    assert gains["plop"] == pytest.approx(0.2)
    assert gains["mlp"] == pytest.approx(0.4)


def test_no_text_and_no_path_of_the_user_is_kept(tmp_path: Path) -> None:
    """A learned model may be passed on, and what was trained on must not go with it."""
    run = write_run(tmp_path / "run")
    assert SECRET in (run / "verification.json").read_text(encoding="utf-8")
    document = learn([run], base=unsure()).to_json()
    assert SECRET not in document
    assert "/home/someone" not in document
    assert str(tmp_path) not in document


def test_learning_adds_to_the_history_or_stands_alone(tmp_path: Path) -> None:
    base = unsure()
    runs = [write_run(tmp_path / name, name) for name in ("one", "two")]
    added = learn(runs, base=base)
    assert len(added.history) == len(base.history) + 2
    assert added.networks == base.networks + 2
    # The same verification once more changes nothing.
    assert learn([*runs, runs[0]], base=added).history == added.history
    alone = learn(runs, only=True)
    assert [one.network for one in alone.history] == [
        f"{one.network}" for one in added.history[-2:]
    ]
    assert {row.rule for row in alone.rules} >= {"learned", "plop", "all-linear"}


def test_two_runs_of_one_configuration_are_one_network(tmp_path: Path) -> None:
    """A finetune of the same model in another folder is no second network."""
    runs = [write_run(tmp_path / "a", "net"), write_run(tmp_path / "b", "net", margin=0.02)]
    assert learn(runs, only=True).networks == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"quick": True}, "smoke test"),
        ({"references": ()}, "untrained model"),
        ({"scores_digest": "0" * 64}, "not the scores"),
    ],
)
def test_a_run_that_teaches_nothing_is_refused(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises((UsageError, RecordError), match=named):
        history_of(write_run(tmp_path / "run", **changes))


def test_a_record_of_another_kind_or_schema_is_refused_by_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(RecordError, match="'scores' record, but a 'verification' record"):
        history_of(run / "scores.json")
    document = Verification.load(run / "verification.json").to_dict() | {"schema_version": 7}
    (run / "verification.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match=r"verification\.json has schema_version 7"):
        learn([run], base=unsure())


def test_a_run_without_its_trials_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "trials").rename(run / "elsewhere")
    with pytest.raises(UsageError, match="has no trials of the arms"):
        history_of(run)


def test_an_arm_whose_types_differ_between_seeds_is_left_out(tmp_path: Path) -> None:
    """`random` draws anew, so that its mean is of no placement."""
    run = write_run(tmp_path / "run", gains=ARMS | {"random": (("q_proj",), 0.2)})
    path = run / "trials" / "random-1" / "spec.json"
    other = placement(sites=(site("layer.k_proj", "k_proj"),))
    trial_spec("random", 1, placement=other).save(path)
    assert "random" not in {arm.arm for arm in history_of(run).arms}


def test_hostile_names_are_printed_without_effect(tmp_path: Path) -> None:
    made = history(noise)
    made[0] = replace(made[0], name="pair \x1b[2J\u202e")
    shown = as_text(fit(made))
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_the_table_says_whether_it_abstains() -> None:
    assert "It abstains" in as_text(unsure())
    text = as_text(planted())
    assert "It does not abstain" in text
    assert "plop" in text
    assert "95 % interval" in text


# --------------------------------------------------------------------------- command line


def plop_cli(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "plop_lora", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_learning_and_placing_on_the_command_line(tmp_path: Path) -> None:
    gains = {"plop": 0.30, "all-linear": 0.35, "mlp": 0.40, "attention": 0.20}
    arms = {arm: (ARMS[arm][0], gain) for arm, gain in gains.items()}
    runs = [write_run(tmp_path / name, name, gains=arms) for name in ("one", "two", "three")]
    output = tmp_path / "learned.json"
    done = plop_cli("learn", *runs, "--only", "-o", output)
    assert done.returncode == 0, done.stderr
    assert "Learned placement from 3 pairs" in done.stdout
    model = LearnedModel.load(output)
    # The MLP is better in all three, by the same gain, so that the interval has no width.
    assert not model.abstains
    placed = tmp_path / "placement.json"
    done = plop_cli(
        "place", SCORES, "--strategy", "learned", "--learned", output, "-o", placed
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {choice.type for choice in Placement.load(placed).choices} == set(MLP)
    assert "learned: chooses mlp" in " ".join(done.stdout.split())


def test_errors_on_the_command_line_name_what_to_do(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    done = plop_cli("learn", run, "--only", "--base", run / "scores.json")
    assert done.returncode == 2
    assert "--base" in done.stderr
    done = plop_cli("learn", tmp_path / "absent")
    assert done.returncode == 1
    assert "absent" in done.stderr
    done = plop_cli("learn", run, "-o", run / "verification.json")
    assert done.returncode == 2
    assert "verification.json" in done.stderr
    assert Verification.load(run / "verification.json").metric == "loss"
