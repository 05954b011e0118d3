"""An indicator is one row: recorded, placed by and used as an arm, at the price of what it is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from conftest import GOLDEN, TEXTS, WordTokenizer, build, make_batch
from test_contract import _Waits

import plop_lora as plop
from plop_lora.data.batches import ready_batches
from plop_lora.demo import DATA, MODEL
from plop_lora.errors import MeasurementError, UsageError
from plop_lora.indicators import (
    INDICATORS,
    NFN,
    FeatureRows,
    Indicator,
    OfFeatures,
    OfRecords,
    OfWeights,
)
from plop_lora.placement import groups_of
from plop_lora.records import TIE, Placement, Scores
from plop_lora.reports.terminal import as_text
from plop_lora.scoring.engines.choose import engine_for
from plop_lora.scoring.engines.in_memory import measure
from plop_lora.scoring.engines.processes import Processes
from plop_lora.scoring.measurement.collect import Measured, merge
from plop_lora.scoring.measurement.expected_norm_cache import ExpectedNormCache
from plop_lora.scoring.measurement.settings import IndicatorSettings, MeasurementSettings
from plop_lora.scoring.sites.find import find_sites
from plop_lora.statistics import indicator_estimate
from plop_lora.study.study import budget_of
from plop_lora.verification.arm_rules import ARMS
from plop_lora.verification.arms import make_arms

TOY = "output-norm"
RECORDED = (
    "response-gain", "nfn-special-tokens", "token-spread", "mean-share", "rank-of-inputs",
    "rank-of-outputs", "rank-of-weights", "stable-rank", "log-condition", "depth",
    "parameter-share",
)  # fmt: skip


def _row(name: str, measure: OfFeatures | OfWeights | OfRecords, *, lower_first: bool) -> Indicator:
    return Indicator(name, name, "a number of a test", "a test", lower_first, "-", "-", measure)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Indicator:
    """The norm of the output, highest first, added by its row and nothing else."""
    row = _row(TOY, OfFeatures(lambda rows: rows.output_norms_N), lower_first=False)
    monkeypatch.setitem(INDICATORS, TOY, row)
    return row


def _scored(*indicators: str, **options: object) -> Scores:
    given = {"stop": "fixed", "progress": False} | options
    return plop.score(build("llama"), WordTokenizer(), TEXTS, indicators=indicators, **given)


def _forwards(model: torch.nn.Module, *indicators: str) -> int:
    """Count the passes of the body that scoring takes."""
    calls: list[int] = []
    handle = model.base_model.register_forward_hook(lambda *_: calls.append(1))
    options = {"stop": "fixed", "progress": False, "indicators": indicators}
    plop.score(model, WordTokenizer(), TEXTS, **options)
    handle.remove()
    return len(calls)


# --------------------------------------------------------------------------- one row


def test_one_row_is_recorded_placed_by_and_an_arm(toy, tmp_path) -> None:
    """A new indicator once needed a place in scoring, in the record, in place and in the arms."""
    scores = Scores.load(_scored(TOY).save(tmp_path / "scores.json"))
    (held,) = scores.indicators
    assert held.indicator == TOY
    assert [row.type for row in held.types] == sorted(
        (row.type for row in held.types),
        key=lambda name: -next(one.value for one in held.types if one.type == name),
    )
    placement = plop.place(scores, indicator=TOY)
    assert [choice.type for choice in placement.choices] == [row.type for row in held.types[:3]]
    assert placement.indicator == TOY
    chosen = placement.choices[0]
    assert (chosen.nfn, chosen.score) == (None, held.types[0].value)
    assert (chosen.low, chosen.high) == (held.types[0].low, held.types[0].high)
    assert chosen.next.difference < 0
    arms = make_arms([TOY, "plop"], scores, budget=budget_of(scores), seeds=[0])
    assert set(next(arm for arm in arms if arm.name == TOY).types) == {
        choice.type for choice in placement.choices
    }


def test_a_row_costs_no_second_forward(toy) -> None:
    """Numbers of the same rows must come out of the same pass."""
    model = build("llama")
    assert _forwards(model, TOY, *RECORDED) == _forwards(model)


def test_the_command_line_knows_a_new_row(toy, run, tmp_path, scores) -> None:
    """`--indicator` was looked up in a list of its own."""
    held = _scored(TOY).save(tmp_path / "scores.json")
    code, output, _ = run("place", str(held), "--indicator", TOY, "--format", "json")
    assert code == 0
    assert json.loads(output)["indicator"] == TOY
    plain = scores.save(tmp_path / "plain.json")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"score: {{indicators: [{TOY}]}}")
    given = ("score", str(MODEL), "--data", str(DATA / "problems.jsonl"), "--text", "question")
    options = ("--samples", "4", "--recipe", str(recipe), "--format", "json")
    code, output, _ = run(*given, *options, "--no-reference")
    assert code == 0
    assert [held["indicator"] for held in json.loads(output)["indicators"]] == [TOY]
    code, _, errors = run("place", str(plain), "--indicator", TOY)
    assert code == 2
    assert f"--indicator {TOY} -o scores.json" in errors


def test_the_values_are_those_of_the_definition(toy) -> None:
    """Of outputs that the model itself gives, token by token, padding left out."""
    model, batch = build("llama"), make_batch("llama")
    scores = plop.score(model, batches=[batch], progress=False, indicators=[TOY])
    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(site.name).register_forward_hook(
            lambda module, given, output, name=site.name: seen.__setitem__(name, output)
        )
        for site in scores.sites
    ]
    with torch.inference_mode():
        model(**batch)
    for handle in handles:
        handle.remove()
    mask = batch["attention_mask"].bool()
    for site, value in zip(scores.sites, scores.indicators[0].values, strict=True):
        assert value == pytest.approx(float(seen[site.name][mask].norm(dim=-1).mean()), rel=1e-5)


def test_rows_bring_what_an_indicator_may_ask_for(monkeypatch) -> None:
    """Products without their bias, the sequence of a row, and which rows count."""
    seen: list[FeatureRows] = []

    def look(rows: FeatureRows) -> torch.Tensor:
        seen.append(rows)
        norms_N = rows.products().norm(dim=1)
        assert torch.allclose(norms_N, rows.output_norms_N, rtol=1e-4)
        assert rows.products().shape == (len(norms_N), rows.out_features)
        assert len(rows.sequences()) == len(rows.kept_N) == len(norms_N)
        return norms_N

    monkeypatch.setitem(INDICATORS, TOY, _row(TOY, OfFeatures(look), lower_first=True))
    for name in ("gpt2", "qwen3_moe"):
        model, batch = families.build(name), families.batch_of(name)
        scores = plop.score(model, batches=[batch], progress=False, indicators=[TOY])
        assert all(value is not None for value in scores.indicators[0].values)
    rows = seen[0]
    kept = torch.zeros(int(rows.sequences().max()) + 1).index_add_(
        0, rows.sequences(), rows.kept_N.float()
    )
    first = families.batch_of("gpt2")["attention_mask"].sum(dim=1)
    assert kept[: len(first)].tolist() == first.tolist()


# --------------------------------------------------------------------------- as NFN is handled


def test_nfn_as_a_further_indicator_is_nfn(monkeypatch, tmp_path) -> None:
    """Sums, intervals, order and placement of a further indicator follow another path than NFN."""
    monkeypatch.setitem(INDICATORS, "again", dataclasses.replace(INDICATORS[NFN], name="again"))
    scores = Scores.load(_scored("again").save(tmp_path / "scores.json"))
    (held,) = scores.indicators
    assert held.sums == scores.measurements.sums
    assert held.values == tuple(site.nfn for site in scores.sites)
    for row in held.types:
        nfn = scores[row.type]
        assert (row.value, row.low, row.high) == (nfn.nfn, nfn.low, nfn.high)
    first, second = plop.place(scores), plop.place(scores, indicator="again")
    assert first.sites == second.sites
    assert first.verdict == second.verdict
    for one, other in zip(first.choices, second.choices, strict=True):
        assert one.nfn == other.value
        assert (one.next, one.left_out, one.forced) == (other.next, other.left_out, other.forced)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "phi3"])
def test_engines_and_processes_give_the_same(toy, name: str, tmp_path) -> None:
    """Streamed, in rounds, in shares, or all at once: every sum of every indicator is the same."""
    model = families.build(name)
    names = (TOY, *(one for one in RECORDED if one not in ("depth", "parameter-share")))
    further = tuple(INDICATORS[one] for one in names)
    settings = IndicatorSettings(further=further)
    batches = list(ready_batches([families.batch_of(name, rows=3, seed=s) for s in (1, 2)]))
    sites = find_sites(model).sites
    whole = measure(model, sites, batches, indicators=settings)
    expected_norms = ExpectedNormCache()
    pieces = [
        measure(model, sites, [one], indicators=settings, expected_norms=expected_norms)
        for one in batches
    ]
    model.save_pretrained(tmp_path)
    job = MeasurementSettings(
        str(tmp_path), "cpu", "auto", (), (), "analytic", 0, cache=False, further=further
    )
    options = {"engine": "stream", "ray_address": None, "processes": Processes()}
    engine = engine_for(str(tmp_path), job, progress=False, **options)
    streamed = engine.measure(find_sites(engine.model).sites, batches)
    assert streamed.engine == "stream"
    _assert_equal(whole, merge(pieces[::-1]))
    _assert_equal(whole, streamed)
    of_weights = {"rank-of-weights", "stable-rank", "log-condition"}
    assert set(whole.further) == {*names} - of_weights
    for indicator in of_weights:
        assert set(whole.weights[indicator]) == {site.name for site in sites}


def _assert_equal(one: Measured, other: Measured) -> None:
    assert one.names == other.names
    assert np.array_equal(one.sums_RN, other.sums_RN)
    assert one.weights == other.weights
    assert one.further.keys() == other.further.keys()
    for name, sums_RN in one.further.items():
        assert np.array_equal(sums_RN, other.further[name])
    assert one.without == other.without


def _waits(model: torch.nn.Module, batch: dict[str, torch.Tensor], *indicators: str) -> int:
    """Count how often the host would wait for a GPU in the passes of a further batch.

    Values that belong to a weight are computed in the first batch.
    """
    first, both = (_waits_of(model, [batch] * count, *indicators) for count in (1, 2))
    return both - first


def _waits_of(
    model: torch.nn.Module, batches: list[dict[str, torch.Tensor]], *indicators: str
) -> int:
    modes: list[_Waits] = []
    handles = (
        model.base_model.register_forward_pre_hook(lambda *_: modes.append(_Waits().__enter__())),
        model.base_model.register_forward_hook(lambda *_: modes[-1].__exit__(None, None, None)),
    )
    plop.score(model, batches=batches, progress=False, indicators=indicators)
    for handle in handles:
        handle.remove()
    return sum(mode.count for mode in modes)


def test_indicators_never_wait_for_the_device(monkeypatch) -> None:
    """A number read inside a hook drains the queue of a GPU, once a layer and batch."""
    waiting = OfFeatures(lambda rows: rows.input_norms_N * rows.input_norms_N.max().item())
    monkeypatch.setitem(INDICATORS, TOY, _row(TOY, waiting, lower_first=True))
    given = families.build("qwen3_moe"), families.batch_of("qwen3_moe")
    assert _waits(*given, *RECORDED) == _waits(*given) < _waits(*given, TOY)


def test_a_weight_is_looked_at_once(monkeypatch) -> None:
    """In rounds it would be decomposed again after every look."""
    looked: list[int] = []

    def count(weight: torch.Tensor, seed: int) -> torch.Tensor:
        looked.append(1)
        return weight.new_ones(())

    monkeypatch.setitem(INDICATORS, TOY, _row(TOY, OfWeights(count), lower_first=True))
    scores = _scored(TOY, stop="adaptive", reference=True)
    assert len(looked) == len(scores.sites)


# --------------------------------------------------------------------------- NFN alone


def test_a_record_of_nfn_alone_is_as_before(scores) -> None:
    """An empty block of indicators would change the digest, which is the identity of a record."""
    document = json.loads((GOLDEN / "llama-scores.json").read_text())
    assert "indicators" not in document
    assert "indicators" not in scores.to_dict()
    assert scores.digest() == document["digest"]
    placement = plop.place(scores).to_dict()
    assert "indicator" not in placement
    assert all("value" not in choice for choice in placement["choices"])


def test_nfn_does_not_change_beside_others() -> None:
    """The buffers of further indicators lie in the same tensor as the sums of NFN."""
    alone, beside = _scored(), _scored(*RECORDED)
    assert beside.measurements == alone.measurements
    assert beside.types == alone.types
    assert beside.sites == alone.sites


@pytest.mark.slow
def test_the_registry_imports_no_torch() -> None:
    """`plop place` and help would start after seconds."""
    code = (
        "import sys; from plop_lora.indicators import INDICATORS\n"
        "import plop_lora.indicators.signal, plop_lora.verification.arms\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --------------------------------------------------------------------------- the rows there are


def test_effective_rank_is_that_of_the_singular_values() -> None:
    """A weight of one direction has rank 1, an orthogonal one all of its rank."""
    measure = INDICATORS["rank-of-weights"].measure.per_weight
    generator = torch.Generator().manual_seed(0)
    column = torch.randn(40, 1, generator=generator)
    assert float(measure(column @ torch.randn(1, 30, generator=generator), 0)) == pytest.approx(1)
    assert float(measure(torch.eye(24), 0)) == pytest.approx(24)
    weight = torch.randn(300, 280, generator=generator)
    squares = torch.linalg.svdvals(weight.double()) ** 2
    exact = float(squares.sum() ** 2 / squares.square().sum())
    assert float(measure(weight, 0)) == pytest.approx(exact, rel=0.15)
    assert float(measure(torch.zeros(4, 4), 0)) == 0


def test_parameter_share_follows_from_any_record(scores) -> None:
    """It needs no new scoring: the shapes are in every record, old ones too."""
    groups = [one for one in groups_of(scores, INDICATORS["parameter-share"]) if one.eligible]
    sizes = {one.type: sum(row.parameters for row in one.members) for one in groups}
    total = sum(sizes.values())
    assert {one.type: one.value for one in groups} == pytest.approx(
        {name: size / total for name, size in sizes.items()}
    )
    assert [one.type for one in groups] == sorted(sizes, key=lambda name: (-sizes[name], name))
    placement = plop.place(scores, indicator="parameter-share", top=2)
    assert [choice.type for choice in placement.choices] == [one.type for one in groups[:2]]
    gap = placement.choices[0].next
    assert (gap.verdict, gap.tolerance) == (TIE, 0)  # more texts would not help


def test_every_row_says_what_it_is() -> None:
    """A row without a paper or a direction says nothing to a reader."""
    for name, row in INDICATORS.items():
        assert row.name == name
        assert all((row.title, row.description, row.source, row.needs, row.memory))
        assert row.description.endswith("first") or row.measure.are_ranks
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "score.md").read_text()
    assert all(f"`{name}`" in page for name, row in INDICATORS.items() if row.is_recorded)
    assert set(INDICATORS) - {NFN} <= set(ARMS)
    assert NFN not in ARMS


def test_the_tables_show_further_indicators(toy) -> None:
    scores = _scored(TOY, "rank-of-weights")
    text = as_text(scores)
    assert TOY in text
    assert INDICATORS["rank-of-weights"].title in text
    frame = scores.to_pandas()
    by_type = {row.type: row.value for row in scores.indicators[0].types}
    assert dict(zip(frame["type"], frame[TOY], strict=True)) == by_type
    assert tuple(scores.to_pandas("sites")["rank-of-weights"]) == scores.indicators[1].values
    table = as_text(plop.place(scores, indicator="rank-of-weights"))
    assert "by rank-of-weights" in table
    assert "no score" not in table


# --------------------------------------------------------------------------- what cannot be


def test_an_indicator_that_is_not_a_number_is_named(monkeypatch) -> None:
    """NaN of an indicator must not be told as damage of the model, nor become a value."""
    broken = OfFeatures(lambda rows: rows.input_norms_N * float("nan"))
    monkeypatch.setitem(INDICATORS, TOY, _row(TOY, broken, lower_first=True))
    with pytest.raises(MeasurementError, match=f"'{TOY}' is NaN or infinity for model.layers.0"):
        _scored(TOY)
    broken = OfWeights(lambda weight, seed: weight.new_full((), float("inf")))
    monkeypatch.setitem(INDICATORS, TOY, _row(TOY, broken, lower_first=True))
    with pytest.raises(MeasurementError, match=f"'{TOY}' is NaN or infinity for the weight"):
        _scored(TOY)


def test_weights_that_cannot_be_read_are_missing_not_zero(monkeypatch) -> None:
    """A layer whose stored weight is packed has no number, and is never the first for it."""
    from plop_lora.scoring.sites.operators import DenseOperator

    plain = DenseOperator.weight

    def packed(self: DenseOperator, part: object) -> torch.Tensor | None:
        weight = plain(self, part)
        return None if weight.shape[1] == 48 else weight

    sides = {s.host.in_features for s in find_sites(build("llama")).sites if "down" in s.type}
    monkeypatch.setattr(DenseOperator, "weight", packed)
    monkeypatch.setattr(DenseOperator, "expected_norm", _norm_of(plain))
    assert sides == {48}
    scores = _scored("rank-of-weights")
    (held,) = scores.indicators
    missing = {s.type for s, v in zip(scores.sites, held.values, strict=True) if v is None}
    assert missing == {"down_proj"}
    assert "down_proj" not in {row.type for row in held.types}
    assert any("rank-of-weights is missing" in note for note in scores.notes)
    placement = plop.place(scores, indicator="rank-of-weights", top=3)
    assert any("down_proj cannot be chosen" in note for note in placement.notes)
    orders = [n for n, site in enumerate(scores.sites) if site.type == "down_proj"]
    assert indicator_estimate(scores.measurements, held, orders) is None


def _norm_of(plain):
    from plop_lora.indicators.expected_norms import expected_norm

    def norm(self, part, *, like, denominator, seed):
        return expected_norm(plain(self, part), denominator=denominator, seed=seed)

    return norm


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rank-of-weight", "Did you mean 'rank-of-weights'"),
        ("gradient", "plop verify --arms gradient"),
    ],
)
def test_names_that_cannot_be_recorded(name: str, message: str, scores) -> None:
    with pytest.raises(UsageError, match=message):
        _scored(name)
    with pytest.raises(UsageError, match=message):
        plop.place(scores, indicator=name)


def test_an_arm_whose_indicator_was_not_recorded_says_how(scores) -> None:
    with pytest.raises(UsageError, match="--indicator response-gain"):
        make_arms(["response-gain"], scores, budget=budget_of(scores), seeds=[0])


def test_a_placement_by_an_indicator_survives_its_file(tmp_path, scores) -> None:
    placement = plop.place(scores, indicator="parameter-share")
    assert Placement.load(placement.save(tmp_path / "placement.json")) == placement
