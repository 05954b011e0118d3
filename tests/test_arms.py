"""Every arm gets the budget or is refused; no arm vanishes; rules choose what they say."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest
from conftest import score_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import plop_lora as plop
from plop_lora.errors import RecordError, UsageError
from plop_lora.indicators import INDICATORS, NFN, OfFeatures, OfWeights
from plop_lora.indicators.signal import Signal
from plop_lora.placement.budget import RankCost, share_out, tighten
from plop_lora.records import AdapterSettings, IndicatorScores, Scores
from plop_lora.study.study import budget_of
from plop_lora.verification.arm_rules import ARMS, DEFAULT_ARMS
from plop_lora.verification.arms import Arm, eligible_hosts, make_arms, signals_for
from plop_lora.verification.equal import TOLERANCE

SEEDS = (0, 1, 2)
SIDES = st.integers(1, 400)


def _with_sides(scores: Scores, sides: dict[str, tuple[int, int]]) -> Scores:
    """Return the same scores of a model whose weights have other sizes, by type."""
    hosts = tuple(
        dataclasses.replace(host, in_features=sides[host.type][0], out_features=sides[host.type][1])
        for host in scores.hosts
    )
    return dataclasses.replace(scores, hosts=hosts)


def _with_indicators(scores: Scores) -> Scores:
    """Return the same scores with every indicator that has to be recorded, in planted orders."""
    values = tuple(float(1 + index % 5) for index in range(len(scores.sites)))
    recorded = [
        name
        for name, row in INDICATORS.items()
        if name != NFN and isinstance(row.measure, OfFeatures | OfWeights)
    ]
    held = tuple(IndicatorScores(name, (), values) for name in recorded)
    return dataclasses.replace(scores, indicators=held)


def _signal(name: str, scores: Scores, *, are_ranks: bool = False) -> Signal:
    """Return a signal that names the hosts in the order of the record, earliest highest."""
    hosts = eligible_hosts(scores)
    values = {host.name: float(1 + order % 5) for order, host in enumerate(hosts)}
    return Signal(name, values, are_ranks, 1.0, 1)


def _signals(scores: Scores) -> dict[str, Signal]:
    return {
        "gradient": _signal("gradient", scores),
        "kappa": _signal("kappa", scores),
        "eva": _signal("eva", scores, are_ranks=True),
    }


def _by_name(arms: tuple[Arm, ...]) -> dict[str, Arm]:
    return {arm.name: arm for arm in arms}


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), factor=st.floats(0.02, 40), uniform=st.booleans())
def test_every_arm_meets_the_budget_or_is_refused(scores, data, factor, uniform) -> None:
    """On weights of any sides: within 2 % and never above, or at rank 1, or refused with a way."""
    types = sorted({host.type for host in scores.hosts})
    sides = {name: (data.draw(SIDES), data.draw(SIDES)) for name in types}
    odd = _with_indicators(_with_sides(scores, sides))
    names = [name for name in ARMS if name != "eva" or not uniform]
    options = {"seeds": SEEDS, "signals": _signals(odd), "largest_rank": 32 if uniform else None}
    budget = max(1, int(factor * 4 * budget_of(odd, 1)))
    try:
        arms = make_arms(names, odd, budget=budget, **options)
    except UsageError as error:
        text = str(error)
        if "too small for rank 1" in text:
            assert budget < budget_of(odd, 1)
            return
        assert "unreachable" in text
        assert "closest: " in text
        assert "leave out: " in text or "cannot be left out" in text
        way = re.search(r"--budget (\d+)", text)
        if way is not None:
            make_arms(names, odd, budget=int(way[1]), **options)
        return
    for arm in arms:
        ranks = {site.rank for placement in arm.placements for site in placement.sites}
        for placement in arm.placements:
            assert placement.trainable_parameters == sum(s.parameters for s in placement.sites)
            if placement.trainable_parameters > budget:
                assert {site.rank for site in placement.sites} == {1}
            else:
                assert placement.trainable_parameters >= (1 - TOLERANCE) * budget
        if arm.mismatch > TOLERANCE:
            assert "more than the budget" in arm.note
        assert not uniform or max(ranks) <= 32


def test_a_learned_rule_that_abstains_is_no_arm_of_its_own(scores) -> None:
    """It would train the placement of `plop` twice."""
    arms = make_arms(
        ("plop", "learned", "all-linear"), scores, budget=budget_of(scores, 4), seeds=SEEDS
    )
    assert [arm.name for arm in arms] == ["plop", "all-linear"]
    assert "learned has the same weights and ranks and is not run twice" in arms[0].note


@pytest.mark.slow
def test_usual_arms(scores) -> None:
    budget = budget_of(scores, 8)
    arms = make_arms((), scores, budget=budget, seeds=SEEDS)
    named = _by_name(arms)
    assert arms[0].name == "plop"
    assert "all-linear" in named
    merged = " ".join(arm.note for arm in arms)
    for name in DEFAULT_ARMS:
        assert name in named or f"{name} has the same weights" in merged
    shortlist = arms[0].placements[0]
    assert shortlist.trainable_parameters == budget
    assert {(site.name, site.rank) for site in shortlist.sites} == {
        (site.name, site.rank) for site in plop.place(scores, rank=8).sites
    }
    assert shortlist.scaling == pytest.approx(2.0)
    types = {row.type: row.nfn for row in scores.types}
    assert arms[0].nfn == pytest.approx(sum(types[n] for n in scores.type_names()[:3]) / 3)
    assert named["plop-inverse"].nfn > arms[0].nfn
    assert all(len(arm.placements) == len(SEEDS) for arm in arms)
    for arm in arms:
        for placement in arm.placements:
            placement.to_peft()


def test_alpha_is_the_same_in_all_arms(scores) -> None:
    """The factor follows 1 / rank, so that one learning rate suits arms of other ranks."""
    budget = budget_of(scores, 8)
    for rslora in (False, True):
        arms = make_arms(
            (), scores, budget=budget, seeds=[0], settings=AdapterSettings(rslora=rslora)
        )
        for arm in arms:
            sites = arm.placements[0].sites
            mean_rank = sum(site.rank for site in sites) / len(sites)
            alpha = arm.placements[0].scaling * (mean_rank**0.5 if rslora else mean_rank)
            assert alpha == pytest.approx(2.0 * (8**0.5 if rslora else 8))
            assert arm.placements[0].settings.rslora is rslora


def test_fixed_draws_are_the_same_for_every_seed(scores) -> None:
    """A rule must be told from chance, and three draws say more of chance than one."""
    arms = make_arms(
        ["random-1", "random-2", "random-3"], scores, budget=budget_of(scores), seeds=range(4)
    )
    drawn = [arm for arm in arms if arm.name.startswith("random-")]
    assert len({arm.types for arm in drawn}) > 1
    for arm in drawn:
        assert len({placement.sites for placement in arm.placements}) == 1
        assert len(arm.types) == 3


def test_one_module_type_is_an_arm(scores) -> None:
    arms = _by_name(make_arms(["type:v_proj"], scores, budget=budget_of(scores, 4), seeds=[0]))
    assert arms["type:v_proj"].types == ("v_proj",)
    with pytest.raises(UsageError, match="no module type 'vproj'"):
        make_arms(["type:vproj"], scores, budget=budget_of(scores), seeds=[0])


@pytest.mark.parametrize(
    ("family", "outer", "mixing"),
    [
        ("llama", {"v_proj", "up_proj", "down_proj"}, {"v_proj", "o_proj", "down_proj"}),
        ("gpt2", {"c_attn", "c_fc", "mlp.c_proj"}, {"c_attn", "attn.c_proj", "mlp.c_proj"}),
        ("opt", {"v_proj", "fc1", "fc2"}, {"v_proj", "out_proj", "fc2"}),
        ("bert", {"value", "intermediate.dense", "output.dense"},
         {"value", "attention.output.dense", "output.dense"}),
    ],
)  # fmt: skip
def test_constants_find_their_projections(family: str, outer: set, mixing: set) -> None:
    """Whatever a family calls them; a score is to be told from a rule that measures nothing."""
    found = score_model(family)
    for name, wanted in (("v-up-down", outer), ("v-o-down", mixing)):
        chosen = {choice.type for choice in plop.place(found, strategy=name).choices}
        assert {part.rsplit("layer.", 1)[-1] for part in chosen} == wanted


def test_random_draws_anew_for_each_seed(scores) -> None:
    arm = _by_name(make_arms(["random"], scores, budget=budget_of(scores), seeds=range(8)))[
        "random"
    ]
    drawn = {tuple(sorted({site.type for site in p.sites})) for p in arm.placements}
    assert len(drawn) > 1
    again = _by_name(make_arms(["random"], scores, budget=budget_of(scores), seeds=range(8)))
    assert [p.sites for p in again["random"].placements] == [p.sites for p in arm.placements]


def test_all_linear_is_always_there(scores) -> None:
    arms = make_arms(["mlp"], scores, budget=budget_of(scores), seeds=[0])
    assert [arm.name for arm in arms] == ["plop", "mlp", "all-linear"]
    assert "strongest published rival" in arms[2].note


def test_arms_with_the_same_weights_run_once(scores, tmp_path) -> None:
    path = plop.place(scores).save(tmp_path / "mine.json")
    arms = make_arms([str(path), "mlp"], scores, budget=budget_of(scores), seeds=[0])
    assert [arm.name for arm in arms] == ["plop", "mlp", "all-linear"]
    assert "mine has the same weights" in arms[0].note


def test_budget_form_takes_what_the_scores_leave_open(scores) -> None:
    """A type whose interval against the last chosen one holds zero joins; a clear one does not."""
    budget = budget_of(scores, 16)
    wide = dataclasses.replace(
        scores.stopping, tolerance=scores.types[3].nfn - scores.types[2].nfn + 1e-9
    )
    open_scores = dataclasses.replace(scores, stopping=wide)
    arms = _by_name(make_arms(["plop-budget"], open_scores, budget=budget, seeds=[0]))
    chosen = arms["plop-budget"].types
    assert set(scores.type_names()[:4]) <= set(chosen)
    assert arms["plop-budget"].ranks[1] < 16
    clear = dataclasses.replace(scores.stopping, tolerance=0.0)
    gaps = plop.place(scores, top=1)
    if gaps.verdict == "decided":
        decided = dataclasses.replace(scores, stopping=clear)
        arms = make_arms(
            ["plop-budget"], decided, budget=budget_of(scores, 16, 1), top=1, seeds=[0]
        )
        assert "plop-budget has the same weights" in arms[0].note


def test_a_file_keeps_its_proportions(scores, tmp_path) -> None:
    placement = plop.place(scores, strategy="custom", types=["q_proj", "down_proj"], rank=4)
    sites = tuple(
        dataclasses.replace(s, rank=2 * s.rank, parameters=2 * s.parameters)
        if s.type == "q_proj"
        else s
        for s in placement.sites
    )
    path = dataclasses.replace(placement, sites=sites).save(tmp_path / "imported.json")
    arms = _by_name(make_arms([str(path)], scores, budget=budget_of(scores), seeds=[0]))
    ranks = {s.type: s.rank for s in arms["imported"].placements[0].sites}
    assert ranks["q_proj"] == pytest.approx(2 * ranks["down_proj"], abs=2)
    uniform = _by_name(
        make_arms([str(path)], scores, budget=budget_of(scores), seeds=[0], largest_rank=32)
    )
    ranks = {s.rank for s in uniform["imported"].placements[0].sites}
    assert max(ranks) - min(ranks) <= 1


def test_signals_choose_types_and_ranks(scores) -> None:
    hosts = eligible_hosts(scores)
    high = {"k_proj": 9.0, "up_proj": 8.0, "v_proj": 7.0}
    gradient = Signal("gradient", {h.name: high.get(h.type, 1.0) for h in hosts}, False, 1.0, 1)
    ranks = {h.name: 12.0 if h.layer == 0 else 4.0 for h in hosts if h.type != "q_proj"}
    eva = Signal("eva", ranks, True, 1.0, 1, ("eva: no rank for q_proj",))
    arms = _by_name(
        make_arms(
            ["gradient", "eva"],
            scores,
            budget=budget_of(scores, 16),
            seeds=[0],
            signals={"gradient": gradient, "eva": eva},
        )
    )
    assert set(arms["gradient"].types) == set(high)
    assert "no rank for q_proj" in arms["eva"].note
    placed = arms["eva"].placements[0]
    assert {site.name for site in placed.sites} == set(ranks)
    by_layer = {s.layer: s.rank for s in placed.sites if s.type == "down_proj"}
    assert by_layer[0] > 2 * by_layer[1]
    assert set(placed.untouched) >= {h.name for h in hosts if h.type == "q_proj"}
    placed.to_peft()


def test_an_arm_that_needs_a_signal_says_so(scores) -> None:
    assert signals_for(["plop", "eva", "gradient", "file.json"]) == ("eva", "gradient")
    with pytest.raises(UsageError, match="needs the signal 'gradient'"):
        make_arms(["gradient"], scores, budget=budget_of(scores), seeds=[0])
    with pytest.raises(UsageError, match="different ranks, which loses under GRPO"):
        make_arms(
            ["eva"], scores, budget=budget_of(scores), seeds=[0], signals=_signals(scores),
            largest_rank=32,
        )  # fmt: skip


def test_an_unreachable_budget_says_what_works(scores) -> None:
    """Attention is full before the budget is spent: refused, with a budget that suits all."""
    everything = sum(h.parameters_per_rank * h.largest_rank for h in eligible_hosts(scores))
    with pytest.raises(UsageError, match="every weight is at its largest rank") as caught:
        make_arms(["attention"], scores, budget=everything, seeds=[0])
    way = int(re.search(r"--budget (\d+)", str(caught.value))[1])
    make_arms(["attention"], scores, budget=way, seeds=[0])


def test_rank_one_above_the_budget_is_told(scores) -> None:
    budget = budget_of(scores, 1, 1)
    arms = _by_name(make_arms(["mlp"], scores, budget=budget, top=1, seeds=[0]))
    assert arms["all-linear"].ranks == (1, 1)
    assert "more than the budget" in arms["all-linear"].note
    assert arms["all-linear"].mismatch > TOLERANCE


def test_defaults_that_find_nothing_are_named(scores) -> None:
    """A model without attention has no attention arm, and the shortlist's note says so."""
    types = tuple(dataclasses.replace(row, role="mlp") for row in scores.types)
    plain = dataclasses.replace(scores, types=types)
    arms = make_arms((), plain, budget=budget_of(plain), seeds=[0])
    assert {"attention", "query-value"}.isdisjoint(arm.name for arm in arms)
    assert "no arm attention" in arms[0].note
    assert "no arm query-value" in arms[0].note
    with pytest.raises(UsageError, match="finds none of its types"):
        make_arms(["attention"], plain, budget=budget_of(plain), seeds=[0])


def test_requests_that_cannot_work(scores, tmp_path) -> None:
    budget = budget_of(scores)
    with pytest.raises(UsageError, match="Did you mean 'all-linear'"):
        make_arms(["all-liner"], scores, budget=budget, seeds=[0])
    with pytest.raises(UsageError, match="no seed"):
        make_arms([], scores, budget=budget, seeds=[])
    with pytest.raises(RecordError, match="'scores' record"):
        make_arms([str(scores.save(tmp_path / "scores.json"))], scores, budget=budget, seeds=[0])
    other = plop.place(_with_sides(scores, {h.type: (7, 9) for h in scores.hosts}))
    with pytest.raises(UsageError, match="not in the scores"):
        make_arms([str(other.save(tmp_path / "o.json"))], scores, budget=budget, seeds=[0])


COSTS = st.lists(
    st.builds(RankCost, st.integers(1, 300), st.integers(1, 40), st.integers(0, 2)),
    min_size=1,
    max_size=8,
)


@pytest.mark.slow
@given(COSTS, st.data(), st.integers(0, 20_000))
def test_sharing_out_keeps_to_the_budget(costs: list[RankCost], data, extra: int) -> None:
    """In given proportions: never over, nothing more fits, and swaps only come nearer."""
    shares = [data.draw(st.floats(0.5, 64)) for _ in costs]
    budget = sum(cost.parameters_per_rank for cost in costs) + extra

    def left(ranks: list[int]) -> int:
        pairs = zip(costs, ranks, strict=True)
        return budget - sum(cost.parameters_per_rank * rank for cost, rank in pairs)

    ranks = share_out(costs, shares, budget)
    assert left(ranks) >= 0
    for cost, rank in zip(costs, ranks, strict=True):
        assert 1 <= rank <= cost.largest_rank
        assert rank == cost.largest_rank or cost.parameters_per_rank > left(ranks)
    tight = tighten(costs, ranks, budget, 0)
    assert 0 <= left(tight) <= left(ranks)
    assert all(1 <= r <= c.largest_rank for c, r in zip(costs, tight, strict=True))


def test_swaps_reach_what_single_ranks_cannot() -> None:
    """30 are left and no rank is that cheap; one of 70 down and one of 100 up spends them."""
    costs = [RankCost(100, 9, 0), RankCost(70, 9, 0)]
    assert tighten(costs, [1, 2], 270, 2) == [2, 1]


@pytest.mark.slow
def test_arms_need_no_torch() -> None:
    code = (
        "import sys, plop_lora.verification.arms, plop_lora.verification.decide; "
        "assert not {'torch', 'peft', 'statsmodels'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
