"""Robustness without a model: samples, mixtures, verdicts and advice on planted sums."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from plop_lora.errors import UnknownNameError, UsageError
from plop_lora.records import Family, Holding, Outcome, Source, VariantResult
from plop_lora.statistics import kendall_taus, lowest, percentile_interval
from plop_lora.variants import resampling
from plop_lora.variants.advice import advised
from plop_lora.variants.catalogue import VARIANTS, chosen_variants
from plop_lora.variants.each import _RUNS
from plop_lora.variants.judging import DRAWS, Base, judge_point, resamples
from plop_lora.variants.sample import Sample

TYPES = ("a", "b", "c", "d")


def sample(
    means: tuple[float, ...] = (1.0, 1.2, 1.5, 2.0),
    *,
    texts: int = 40,
    spread: float = 0.02,
    seed: int = 0,
    shift: Callable[[int], tuple[float, ...]] = lambda text: (0, 0, 0, 0),
) -> Sample:
    """Return sums of two sites a type, texts of ragged lengths, and means that are known."""
    generator = np.random.default_rng(seed)
    counts_N = generator.integers(5, 30, texts).astype(np.float64)
    levels_SN = np.array([
        [means[kind] + shift(text)[kind] + spread * generator.normal() for text in range(texts)]
        for kind in (0, 0, 1, 1, 2, 2, 3, 3)
    ])  # fmt: skip
    names = tuple(f"text{n}" for n in range(texts))
    counts_SN = np.tile(counts_N, (8, 1))
    return Sample(names, TYPES, np.repeat(np.arange(4), 2), levels_SN * counts_SN, counts_SN)


def base(given: Sample | None = None, *, top: int = 2, tolerance: float = 0.03) -> Base:
    return Base(given or sample(), top, tolerance, 0)


def result(fields: dict, variant: str = "typos", **values: object) -> VariantResult:
    row = VARIANTS[variant]
    given = {
        "setting": "", "source": Source.RESAMPLED, "paired": True, "sequences": 40, "seconds": 0.0,
    }  # fmt: skip
    return VariantResult(variant=variant, family=row.family, **fields, **(given | values))


# --------------------------------------------------------------------------- statistics


def test_taus_are_scipys() -> None:
    """Ties included; where every value is the same there is no tau."""
    generator = np.random.default_rng(3)
    first_RK = generator.integers(0, 5, (200, 6)).astype(float)
    second_RK = generator.integers(0, 5, (200, 6)).astype(float)
    first_RK[0] = 1.0
    ours_R = kendall_taus(first_RK, second_RK)
    theirs = [stats.kendalltau(a, b).statistic for a, b in zip(first_RK, second_RK, strict=True)]
    np.testing.assert_allclose(ours_R, theirs, atol=1e-12)
    assert np.isnan(ours_R[0])


def test_equal_values_are_chosen_by_name() -> None:
    assert lowest(np.array([[2.0, 1.0, 1.0, 1.0]]), 2).tolist() == [[False, True, True, False]]


def test_no_interval_of_nothing() -> None:
    assert percentile_interval(np.array([np.nan, np.nan])) is None


def test_weights_are_repetitions() -> None:
    """A text with the weight 3 counts as three copies of it, site by site."""
    given, weights = sample(texts=6), np.array([[3.0, 0, 1, 0, 0, 2]])
    repeated = given.columns([0, 0, 0, 2, 5, 5])
    np.testing.assert_allclose(given.values(weights), repeated.point())
    by_hand = (repeated.sums_SN.sum(axis=1) / repeated.counts_SN.sum(axis=1)).reshape(4, 2)
    np.testing.assert_allclose(repeated.point()[0], by_hand.mean(axis=1))


def test_a_type_that_a_draw_does_not_see_is_not_chosen() -> None:
    """A mean of no tokens would be 0, and look like the best type."""
    given = sample(texts=4)
    given.counts_SN[:2, 0] = given.sums_SN[:2, 0] = 0  # type a is not in the first text
    values_RK = given.values(np.array([[1.0, 0, 0, 0], [1, 1, 1, 1]]))
    assert np.isinf(values_RK[0, 0])
    assert np.isfinite(values_RK[1]).all()
    assert base(given).by_type(values_RK[0]).keys() == {"b", "c", "d"}


# --------------------------------------------------------------------------- samples


def test_a_clear_choice_is_never_changed() -> None:
    for found in (resampling.bootstrap, resampling.half_splits, resampling.fewer_texts):
        for _, _, fields in found(base()):
            assert fields["unchanged"] == 1
            assert fields["tau"] == fields["tau_low"] == fields["tau_high"] == 1
            assert fields["chosen"] == ("a", "b")
            assert fields["rival"] == ()
            # The exact interval of 1000 of 1000.
            bounds = stats.binomtest(DRAWS, DRAWS).proportion_ci(method="exact")
            assert fields["unchanged_low"] == pytest.approx(bounds.low)
            assert fields["unchanged_high"] == 1


def test_a_coin_is_found_and_named() -> None:
    """Two types of the same mean at the edge of the choice: half of the resamples, and a tie."""
    given = base(sample((1.0, 1.2, 1.2, 2.0), spread=0.05))
    ((_, _, fields),) = resampling.bootstrap(given)
    assert 0.05 < fields["unchanged"] < 0.95
    assert set(fields["rival"]) in ({"a", "b"}, {"a", "c"})
    assert fields["near_tie"]
    assert result(fields, "bootstrap").outcome is Outcome.TIE
    far = dataclasses.replace(given, tolerance=0.0)
    ((_, _, fields),) = resampling.bootstrap(far)
    assert result(fields, "bootstrap").outcome is Outcome.OPEN


def test_fewer_texts_are_less_certain() -> None:
    given = base(sample((1.0, 1.2, 1.25, 2.0), spread=0.15, texts=100))
    found = {setting: fields for setting, _, fields in resampling.fewer_texts(given)}
    assert list(found) == ["8 texts", "16 texts", "32 texts", "64 texts"]
    shares = [fields["unchanged"] for fields in found.values()]
    assert shares == sorted(shares)
    assert shares[0] < 0.9 < shares[-1]


def test_the_share_is_that_of_a_simulation() -> None:
    """Half of the texts, drawn by another generator, change the choice as often."""
    given = base(sample((1.0, 1.2, 1.22, 2.0), spread=0.15, texts=32))
    ((_, size, fields),) = (one for one in resampling.fewer_texts(given) if one[1] == 16)
    generator, same = np.random.default_rng(99), 0
    for _ in range(2000):
        picked = given.sample.columns(generator.choice(32, size, replace=False).tolist())
        same += set(np.argsort(picked.point()[0])[:2]) == {
            TYPES.index(name) for name in given.chosen
        }
    assert fields["unchanged"] == pytest.approx(same / 2000, abs=0.05)


def test_halves_are_compared_with_each_other() -> None:
    """The two halves of one draw share no text, so that both are wrong at times."""
    given = base(sample((1.0, 1.2, 1.2, 2.0), spread=0.2))
    ((_, half, fields),) = resampling.half_splits(given)
    assert half == 20
    assert 0.2 < fields["unchanged"] < 0.8
    assert fields["tau_low"] < 1


# --------------------------------------------------------------------------- mixtures


def by_group(text: int) -> tuple[float, ...]:
    """Every fourth text is of a kind for which the type d is lowest."""
    return (0, 0, 0, -1.5) if text % 4 == 0 else (0, 0, 0, 0)


def test_a_group_that_would_choose_otherwise_is_found() -> None:
    given = base(sample(shift=by_group))
    groups = ["rare" if text % 4 == 0 else "usual" for text in range(40)]
    found = {setting: fields for setting, _, fields in resampling.imbalance(given, groups)}
    assert list(found) == ["balanced", "90 % usual", "90 % rare"]
    assert found["90 % usual"]["same_choice"]
    rare = found["90 % rare"]
    assert rare["chosen"] == ("d", "a")
    assert result(rare, "imbalance").outcome is Outcome.OTHER
    # Nine tenths of the weight of d lie on the rare texts, one on the others.
    assert rare["nfn"]["d"] == pytest.approx(2.0 - 0.9 * 1.5, abs=0.03)


def test_a_mixture_goes_from_the_task_to_the_general_text() -> None:
    given, general = base(), sample((2.0, 1.8, 1.0, 0.5), texts=16, seed=1)
    found = [fields for _, _, fields in resampling.general_mixture(given, general)]
    ((_, size, alone),) = resampling.general_text(given, general)
    assert size == 16
    values = [given.point_1K[0][3], *(fields["nfn"]["d"] for fields in found), alone["nfn"]["d"]]
    assert values == sorted(values, reverse=True)
    assert alone["nfn"]["d"] == pytest.approx(general.point()[0][3])
    assert found[2]["nfn"]["d"] == pytest.approx((values[0] + values[-1]) / 2)
    assert alone["chosen"] == ("d", "c")
    assert alone["tau"] == -1


def test_pairs_remove_what_the_texts_share() -> None:
    """The same texts twice have the same ranking in every draw; two samples do not."""
    given = base(sample((1.0, 1.01, 1.02, 1.03), spread=0.1))
    paired = resampling.measured(given, given.sample, of=given.sample)
    alone = resampling.measured(given, given.sample)
    assert paired["tau_low"] == paired["tau_high"] == 1
    assert alone["tau_low"] < 1


def test_a_draw_depends_on_no_other_variant() -> None:
    first = [fields for _, _, fields in resampling.bootstrap(base())]
    list(resampling.imbalance(base(), ["x", "y"] * 20))
    assert [fields for _, _, fields in resampling.bootstrap(base())] == first


def test_an_order_without_a_tau() -> None:
    """All types alike: there is no order to compare with."""
    given = sample((1.0, 1.0, 1.0, 1.0), spread=0.0)
    given.sums_SN[:] = given.counts_SN
    drawn = given.values(resamples(given.size, np.random.default_rng(0)))
    fields = judge_point(base(given), given.point(), drawn, drawn)
    assert (fields["tau"], fields["tau_low"]) == (None, None)


# --------------------------------------------------------------------------- advice


def held(variant: str = "typos", **values: object) -> VariantResult:
    fields = {
        "nfn": {}, "chosen": ("a", "b"), "same_choice": True, "rival": (), "margin": None,
        "near_tie": False, "tau": 1.0, "tau_low": 1.0, "tau_high": 1.0, "draws": DRAWS,
        "unchanged": 1.0, "unchanged_low": 0.99, "unchanged_high": 1.0,
    }  # fmt: skip
    own = fields.keys() & values.keys()
    rest = {key: value for key, value in values.items() if key not in own}
    return result(fields | {key: values[key] for key in own}, variant, **rest)


OTHER = {"same_choice": False, "chosen": ("a", "c"), "rival": ("a", "c"), "unchanged": 0.1}
NEAR = {"rival": ("a", "c"), "margin": 0.01, "near_tie": True}
FAR = {"rival": ("a", "c"), "margin": 0.2}


@pytest.mark.parametrize(
    ("results", "verdict", "words"),
    [
        ([held("bootstrap"), held()], Holding.HOLDS, ["a and b holds under the one variant"]),
        (
            [held("bootstrap"), held(), held("noise")],
            Holding.HOLDS,
            ["holds under both variants that should not"],
        ),
        (
            [held("bootstrap"), held(), held("noise"), held("short")],
            Holding.HOLDS,
            ["holds under all 3 variants that should not"],
        ),
        ([held("bootstrap")], Holding.HOLDS, ["holds on other samples"]),
        (
            [held("bootstrap"), held("4-bit", **OTHER, margin=0.2), held()],
            Holding.CHANGES,
            ["changes under 4-bit", "quantised or pruned"],
        ),
        (
            [held("short", **OTHER, margin=0.2), held("merged", **OTHER, margin=0.2)],
            Holding.CHANGES,
            ["changes under short and merged", "in the form in which", "checkpoint that will"],
        ),
        (
            [held("bootstrap"), held("noise", **(OTHER | NEAR))],
            Holding.TIES,
            ["under noise, but only among types that tie within 0.03"],
        ),
        ([held("bootstrap", **NEAR, unchanged=0.6), held()], Holding.TIES, ["under bootstrap"]),
        (
            [held("bootstrap", **FAR, unchanged=0.6), held()],
            Holding.UNSETTLED,
            ["under bootstrap, 60% of the resamples", "--samples 160"],
        ),
        (
            [held("bootstrap"), held("short", **FAR, unchanged=0.7)],
            Holding.UNSETTLED,
            ["under short, 70%"],
        ),
        # Few texts and texts of no task say nothing of whether the choice holds.
        ([held("fewer-texts", **OTHER), held("random-words", **OTHER), held()], Holding.HOLDS, []),
    ],
)
def test_the_advice_follows_from_the_results(results, verdict: Holding, words) -> None:
    found, advice = advised(base(), results)
    assert found is verdict
    for word in words:
        assert word in advice


@pytest.mark.parametrize(
    ("same", "other", "words"),
    [
        (["random-words", "general-text"], [], "much about the model and little about this task"),
        (["general-text"], ["random-words"], "a part of it comes from the task"),
        ([], ["random-words", "other-language"], "this one comes from the texts of the task"),
    ],
)
def test_texts_of_no_task_say_where_the_choice_comes_from(same, other, words: str) -> None:
    results = [*map(held, same), *(held(name, **OTHER, margin=0.2) for name in other)]
    _, advice = advised(base(), results)
    assert words in advice
    assert all(name in advice for name in (*same, *other))


def test_a_tie_on_texts_of_no_task_is_called_one() -> None:
    results = [held("random-words", **(OTHER | NEAR)), held("general-text")]
    assert "the same up to ties on random-words and general-text" in advised(base(), results)[1]


def test_the_number_of_texts_that_is_enough() -> None:
    """A size counts only if all larger ones hold as well."""
    steps = [(8, 1.0), (16, 0.5), (32, 0.97), (64, 0.99)]
    results = [held("fewer-texts", sequences=size, unchanged=share) for size, share in steps]
    assert "From 32 texts on, at least 95%" in advised(base(), results)[1]


def test_a_choice_of_all_types_is_said_to_be_none() -> None:
    verdict, advice = advised(base(top=4), [held("bootstrap"), held()])
    assert verdict is Holding.HOLDS
    assert "All 4 module types are chosen" in advice


# --------------------------------------------------------------------------- names


def test_every_variant_has_a_run_and_a_sentence() -> None:
    assert set(_RUNS) == set(VARIANTS)
    for row in VARIANTS.values():
        assert row.what.endswith("."), row.name
    families = {row.family for row in VARIANTS.values()}
    assert families == set(Family)


def test_names_of_variants() -> None:
    assert [row.name for row in chosen_variants(["typos", "bootstrap"])] == ["bootstrap", "typos"]
    assert [row.name for row in chosen_variants(["typos"], ["merged"])] == ["typos", "merged"]
    assert len(chosen_variants(None)) == len(VARIANTS)
    with pytest.raises(UsageError, match=r"no variant 'typo'\. Did you mean 'typos'\?"):
        chosen_variants(["typo"])
    with pytest.raises(UsageError, match="names none"):
        chosen_variants([])


@pytest.mark.parametrize("name", ["against", "merged", "prompt"])
def test_a_variant_alone_says_what_it_needs(name: str) -> None:
    """The error was that nothing had been given, without a word on what to give."""
    option = {"against": "--against MODEL", "merged": "--adapter DIR", "prompt": "--prompt TEXT"}
    with pytest.raises(UsageError, match=f"{name} needs {option[name]}"):
        chosen_variants([name])
    assert [row.name for row in chosen_variants([name], [name])] == [name]
    assert len(chosen_variants([name, "bootstrap"])) == 2


def test_results_by_name() -> None:
    from plop_lora.records import Robustness

    one = held("fewer-texts", setting="16 texts")
    record = Robustness(
        model="m", architecture="A", parameters=1, data="d", data_fingerprint="0", sequences=40,
        tokens=400, nfn={}, chosen=("a",), top=1, tolerance=0.03, verdict=Holding.HOLDS,
        advice="none.", results=(one,), left_out=(), forwards=1, elapsed_seconds=1.0, seed=0,
        scores_digest="0", plop_version="0", dtype="float32", device="cpu", created="now",
    )  # fmt: skip
    assert record["fewer-texts: 16 texts"] is one
    assert list(record) == [one]
    assert record.to_pandas()["variant"].tolist() == ["fewer-texts"]
    assert repr(record) == "<Robustness: m, a under 1 variant: holds>"
    with pytest.raises(UnknownNameError, match="Did you mean 'fewer-texts: 16 texts'"):
        record["fewer-texts: 61 texts"]
