"""Indicators of texts and of singular values, against direct dense computations in float64."""

from __future__ import annotations

import json
import re

import families
import numpy as np
import pytest
import torch
from conftest import TEXTS, WordTokenizer, build, make_batch

import plop_lora as plop
from plop_lora.demo import DATA, MODEL
from plop_lora.errors import UsageError
from plop_lora.indicators import (
    INDICATORS,
    estimator,
    singular_values,
    texts,
)
from plop_lora.indicators.kinds import NotComputableError
from plop_lora.records import Scores
from plop_lora.reports.terminal import as_text
from plop_lora.scoring.sites.operators import DenseOperator

OF_TEXTS = ("nfn-special-tokens", "token-spread", "mean-share", "rank-of-inputs", "rank-of-outputs")


def _rank(rows: np.ndarray) -> float:
    """Return the participation ratio of the second moment of the rows' directions."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(units.T @ units)
    return float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def _expected(inputs: np.ndarray, outputs: np.ndarray, nfn: np.ndarray) -> dict[str, float]:
    """Return each indicator of one text from its inputs [T, I], outputs [T, O] and NFN [T]."""
    mean_output = outputs.mean(axis=0)
    return {
        "nfn-special-tokens": float(nfn.mean()),
        "token-spread": float(nfn.std()),
        "mean-share": float((mean_output**2).sum() / (outputs**2).sum(axis=1).mean()),
        "rank-of-inputs": _rank(inputs),
        "rank-of-outputs": _rank(outputs),
    }


def _seen(model: torch.nn.Module, names: list[str], **inputs: torch.Tensor):
    """Return input and output of some modules, in float64 arrays [B, T, …], by name."""
    found = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, given, output, name=name: found.__setitem__(name, (given[0], output))
        )
        for name in names
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return {name: tuple(one.double().numpy() for one in both) for name, both in found.items()}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_indicators_of_a_text_are_those_of_dense_rows(name: str) -> None:
    """Padding, biases, fused projections and texts of other lengths must not get into a number."""
    model, batch = build(name), make_batch(name)
    scores = plop.score(model, batches=[batch], progress=False, indicators=OF_TEXTS)
    sites = [site for site in scores.sites if "[" not in site.name]
    seen = _seen(model, [site.name for site in sites], **batch)
    mask = batch["attention_mask"].bool().numpy()
    held = {one.indicator: dict(zip([s.name for s in scores.sites], one.values, strict=True))
            for one in scores.indicators}  # fmt: skip
    for site in sites:
        inputs, outputs = seen[site.name]
        module = model.get_submodule(site.name)
        bias = getattr(module, "bias", None)
        outputs = outputs - (0 if bias is None else bias.detach().double().numpy())
        with np.errstate(invalid="ignore"):  # padding may be zero
            norms = np.linalg.norm(outputs, axis=2) / np.linalg.norm(inputs, axis=2)
        scale = site.nfn / norms[mask].mean()  # the weight's own denominator
        texts = [
            _expected(inputs[row][kept], outputs[row][kept], scale * norms[row][kept])
            for row, kept in enumerate(mask)
        ]
        weights = mask.sum(axis=1)
        for indicator in OF_TEXTS:
            expected = np.average([text[indicator] for text in texts], weights=weights)
            assert held[indicator][site.name] == pytest.approx(expected, rel=2e-4), indicator


def test_ranks_by_the_smaller_side_are_the_same(monkeypatch) -> None:
    """A text of more tokens than dimensions goes through the other Gram matrix, in pieces."""
    generator = torch.Generator().manual_seed(0)
    for places, width in ((6, 40), (40, 6)):
        rows_ND = torch.randn(3 * places, width, generator=generator)
        kept_N = torch.rand(3 * places, generator=generator) > 0.3
        rows = _rows(rows_ND, kept_N, (3, places))
        for elements in (1 << 22, 1):
            monkeypatch.setattr(texts, "_ELEMENTS", elements)
            found = texts.rank_of_inputs(rows).view(3, places)
            for row in range(3):
                part = slice(row * places, (row + 1) * places)
                expected = _rank(rows_ND[part][kept_N[part]].double().numpy())
                assert float(found[row, 0]) == pytest.approx(expected, rel=1e-4)
                assert (found[row] == found[row, 0]).all()


def _rows(rows_ND: torch.Tensor, kept_N: torch.Tensor, grid: tuple[int, int] | None):
    from plop_lora.indicators import FeatureRows

    norms_N = rows_ND.norm(dim=1)
    return FeatureRows(
        output_norms_N=norms_N, input_norms_N=norms_N, expected_norm=torch.ones(()), kept_N=kept_N,
        in_features=rows_ND.shape[1], out_features=rows_ND.shape[1], products=lambda: rows_ND,
        sequences=lambda: kept_N.long(), grid=grid, inputs=lambda: rows_ND, read=lambda: kept_N,
    )  # fmt: skip


def test_ranks_and_shares_have_their_limits() -> None:
    """One direction has rank 1 and share 1; orthogonal tokens have the rank of their number."""
    kept = torch.ones(8, dtype=torch.bool)
    one = _rows(torch.ones(8, 5), kept, (1, 8))
    assert texts.rank_of_inputs(one).tolist() == pytest.approx([1.0] * 8)
    assert texts.mean_direction_share(one).tolist() == pytest.approx([1.0] * 8)
    assert texts.token_spread(one).tolist() == pytest.approx([0.0] * 8, abs=1e-6)
    apart = _rows(torch.eye(8), kept, (1, 8))
    assert texts.rank_of_outputs(apart).tolist() == pytest.approx([8.0] * 8)
    assert texts.mean_direction_share(apart).tolist() == pytest.approx([1 / 8] * 8)


def test_a_text_without_a_counted_token_is_no_nan() -> None:
    """Its value is not counted, but NaN beside zero would be one in a sum."""
    rows = _rows(torch.randn(6, 4), torch.tensor([True] * 3 + [False] * 3), (2, 3))
    for name in OF_TEXTS:
        assert torch.isfinite(INDICATORS[name].measure.per_token(rows)).all(), name


def test_special_tokens_count_in_their_indicator_alone() -> None:
    """NFN leaves them out; with texts of one length, a run that counts them gives the same."""
    from test_special_tokens import TEXTS as WORDS
    from test_special_tokens import _tokenizer

    model, tokenizer = families.build("bert"), _tokenizer()
    options = {"stop": "fixed", "progress": False, "indicators": ["nfn-special-tokens"]}
    same = [text for text in WORDS if len(text.split()) == len(WORDS[0].split())]
    without = plop.score(model, tokenizer, same, **options)
    counted = plop.score(model, tokenizer, same, special_tokens=True, **options)
    for site, value, whole, equal in zip(
        without.sites, without.indicators[0].values, counted.sites,
        counted.indicators[0].values, strict=True,
    ):  # fmt: skip
        assert value == pytest.approx(whole.nfn, rel=1e-5)
        assert equal == pytest.approx(whole.nfn, rel=1e-5)
        assert value != pytest.approx(site.nfn, rel=1e-5)


# --------------------------------------------------------------------------- singular values


@pytest.mark.parametrize("shape", [(24, 40), (300, 280), (700, 300)])
def test_stable_rank_and_condition_are_those_of_the_singular_values(shape) -> None:
    """Random weights have singular values close to the largest, the hardest case for a subspace."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(weight.double())
    stable = singular_values.stable_rank(weight, 0)
    assert float(stable) == pytest.approx(float((values**2).sum() / values[0] ** 2), rel=2e-3)
    assert float(stable) >= float((values**2).sum() / values[0] ** 2) * (1 - 1e-5)
    condition = singular_values.log_condition(weight, 0)
    assert float(condition) == pytest.approx(float((values[0] / values[-1]).log10()), rel=1e-3)
    half = singular_values.stable_rank(weight.bfloat16(), 0)
    assert float(half) == pytest.approx(float(stable), rel=0.02)
    assert half.dtype == torch.float32


def test_limits_of_stable_rank_and_condition() -> None:
    assert float(singular_values.stable_rank(torch.eye(300), 0)) == pytest.approx(300, rel=1e-3)
    assert float(singular_values.log_condition(torch.eye(30), 0)) == pytest.approx(0, abs=1e-6)
    flat = torch.ones(40, 30)
    assert float(singular_values.stable_rank(flat, 0)) == pytest.approx(1)
    with pytest.raises(NotComputableError, match="singular"):
        singular_values.log_condition(flat, 0)
    with pytest.raises(NotComputableError, match="all zero"):
        singular_values.stable_rank(torch.zeros(4, 4), 0)


def test_the_largest_singular_value_does_not_touch_the_global_random_state() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = singular_values.stable_rank(torch.randn(300, 300), 7)
    torch.manual_seed(5)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first == singular_values.stable_rank(torch.randn(300, 300), 7)


# --------------------------------------------------------------------------- from records


def test_depth_is_the_layer(scores) -> None:
    values = INDICATORS["depth"].measure.per_site(scores)
    assert values == [site.layer for site in scores.sites]  # of two layers
    placement = plop.place(scores, indicator="depth")
    assert len(placement.choices) == 3
    recorded = plop.score(
        build("bert"), batches=[make_batch("bert")], progress=False, indicators=["depth"],
        include=["*"],
    )  # fmt: skip
    (held,) = recorded.indicators
    missing = {
        site.type for site, value in zip(recorded.sites, held.values, strict=True) if value is None
    }
    assert missing == {site.type for site in recorded.sites if site.layer is None}
    assert missing
    assert any("depth is missing where a weight is in no layer" in n for n in recorded.notes)


# --------------------------------------------------------------------------- what cannot be


def _noted(scores: Scores, indicator: str) -> set[str]:
    """Return the types for which a note says that an indicator is missing."""
    notes = [note for note in scores.notes if note.startswith(f"{indicator} is missing where ")]
    return {name for note in notes for name in note.rpartition(": ")[2].split(", ")}


def test_stacked_experts_are_named_and_the_rest_is_kept() -> None:
    """One type without a value must not cost the others theirs, nor become a zero."""
    model, batch = families.build("qwen3_moe"), families.batch_of("qwen3_moe")
    asked = (*OF_TEXTS, "response-gain", "stable-rank")
    scores = plop.score(model, batches=[batch], progress=False, indicators=asked)
    routed = {site.type for site in scores.sites if site.experts}
    assert routed
    held = {one.indicator: one for one in scores.indicators}
    assert tuple(held) == asked
    for name in asked:
        missing = {
            site.type
            for site, value in zip(scores.sites, held[name].values, strict=True)
            if value is None
        }
        expected = routed if name in OF_TEXTS else set()
        assert missing == _noted(scores, name) == expected
        assert {row.type for row in held[name].types} == set(scores.type_names()) - missing
        indices = [index for index, site in enumerate(scores.sites) if site.type in missing]
        assert not missing or estimator(scores, INDICATORS[name])(indices) is None
    assert any("because its tokens are routed to experts" in note for note in scores.notes)
    assert Scores.from_dict(json.loads(scores.to_json())) == scores
    for name in OF_TEXTS:
        placement = plop.place(scores, indicator=name, top=2)
        assert not routed & {choice.type for choice in placement.choices}
    assert "stable rank" in as_text(scores)


def test_an_embedding_has_no_rank_of_inputs() -> None:
    """Its inputs are token numbers; one-hot rows of them would be as wide as the vocabulary."""
    scores = plop.score(
        build("llama"), WordTokenizer(), TEXTS, include=["embed_tokens", "q_proj"], progress=False,
        indicators=["rank-of-inputs", "rank-of-outputs"],
    )  # fmt: skip
    assert _noted(scores, "rank-of-inputs") == {"embed_tokens"}
    assert _noted(scores, "rank-of-outputs") == set()


def test_sizes_that_are_too_large_are_named(monkeypatch) -> None:
    monkeypatch.setattr(texts, "LARGEST_SIDE", 7)
    monkeypatch.setattr(singular_values, "LARGEST_SIDE", 20)
    scores = plop.score(
        build("llama"), WordTokenizer(), TEXTS, stop="fixed", progress=False,
        indicators=["rank-of-inputs", "log-condition", "stable-rank"],
    )  # fmt: skip
    assert _noted(scores, "rank-of-inputs") == set(scores.type_names())
    wide = {site.type for site in scores.sites if min(site.in_features, site.out_features) > 20}
    assert _noted(scores, "log-condition") == wide != set(scores.type_names())
    assert any("more than 20 entries" in note for note in scores.notes)
    assert all(value is not None for value in scores.indicators[2].values)


def test_a_quantised_weight_keeps_the_indicators_of_its_features(monkeypatch) -> None:
    """A packed weight cannot be decomposed, but its inputs and outputs can be read."""
    plain = DenseOperator.weight
    monkeypatch.setattr(DenseOperator, "weight", lambda self, part: None)
    monkeypatch.setattr(DenseOperator, "expected_norm", _norm_of(plain))
    names = ("stable-rank", "log-condition", *OF_TEXTS)
    scores = plop.score(build("llama"), WordTokenizer(), TEXTS, progress=False, indicators=names)
    for held in scores.indicators:
        readable = held.indicator in OF_TEXTS
        assert all((value is not None) == readable for value in held.values)
        assert _noted(scores, held.indicator) == (set() if readable else set(scores.type_names()))
    assert any("cannot be read, as a quantised one" in note for note in scores.notes)


def _norm_of(plain):
    from plop_lora.indicators.expected_norms import expected_norm

    def norm(self, part, *, like, denominator, seed):
        return expected_norm(plain(self, part), denominator=denominator, seed=seed)

    return norm


def test_a_singular_weight_is_named_and_looked_at_once(monkeypatch) -> None:
    """Its condition number is infinite, which would end the run; a round must not repeat it."""
    model = build("llama")
    model.model.layers[0].self_attn.q_proj.weight.data[1:] = 0
    calls: list[int] = []
    plain = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda w: calls.append(1) or plain(w))
    scores = plop.score(
        model, WordTokenizer(), TEXTS, progress=False, indicators=["log-condition"], tolerance=0
    )
    (held,) = scores.indicators
    missing = [
        site.name for site, value in zip(scores.sites, held.values, strict=True) if value is None
    ]
    assert missing == ["model.layers.0.self_attn.q_proj"]
    assert _noted(scores, "log-condition") == {"q_proj"}
    assert "q_proj" in {row.type for row in held.types}  # of its other layer
    assert len(calls) == len(scores.sites)


def test_an_unknown_indicator_is_named_before_anything_is_loaded(run, tmp_path) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("one\ntwo")
    code, _, errors = run(
        "score", "no-such-model", "--data", str(data), "--indicator", "stablerank"
    )
    assert code == 2
    assert "Did you mean 'stable-rank'" in errors
    with pytest.raises(UsageError, match="stable-rank"):
        plop.score(build("llama"), WordTokenizer(), TEXTS, indicators=["stablerank"])


def test_the_help_lists_every_indicator_that_can_be_recorded() -> None:
    from plop_lora.cli import command_of

    (option,) = [one for one in command_of("score").params if "--indicator" in one.opts]
    for name, row in INDICATORS.items():
        if row.is_recorded and name != "nfn":
            assert name in option.help


def test_every_new_measure_says_its_direction_and_source() -> None:
    """The formula, and what it means, are looked up where the number is computed."""
    functions = [INDICATORS[name].measure.per_token for name in OF_TEXTS] + [
        singular_values.stable_rank,
        singular_values.log_condition,
        INDICATORS["depth"].measure.per_site,
    ]
    for function in functions:
        text = " ".join(function.__doc__.split())
        assert "come first" in text or "comes first" in text, function
        assert re.search(r"Source(:| and memory:)", text), function


@pytest.mark.slow
def test_the_bundled_model_has_all_of_them(run, tmp_path) -> None:
    names = [name for name, row in INDICATORS.items() if row.is_recorded and name != "nfn"]
    options = [word for name in names for word in ("--indicator", name)]
    path = tmp_path / "scores.json"
    code, _, _ = run("score", str(MODEL), "--data", str(DATA / "problems.jsonl"), "--text",
                     "question", "--samples", "16", "-o", str(path), *options)  # fmt: skip
    assert code == 0
    scores = Scores.load(path)
    assert [held.indicator for held in scores.indicators] == names
    assert all(value is not None for held in scores.indicators for value in held.values)
