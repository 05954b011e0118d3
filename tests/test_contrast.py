"""NFN on the user's texts against general text: its value, its interval, and placing by it."""

from __future__ import annotations

from dataclasses import replace

import families
import numpy as np
import pytest
from conftest import TEXTS, WordTokenizer, build, make_batch

import plop_lora as plop
from plop_lora.errors import UsageError
from plop_lora.indicators import INDICATORS, estimator
from plop_lora.placement import groups_of
from plop_lora.records import Placement, Scores
from plop_lora.reports.page.sections.placement import place_command
from plop_lora.reports.terminal import as_text
from plop_lora.statistics import log_ratio_difference, paired_difference
from plop_lora.verification.arm_rules import ARMS, ArmRequest

ROW = INDICATORS["contrast"]


def _by_hand(scores: Scores) -> list[float]:
    """Return log NFN minus log NFN on the reference of each site, from the sums of the record."""
    (reference,) = scores.references
    found = []
    for index, site in enumerate(scores.sites):
        held = reference.measurements
        nfn = sum(held.sums[index]) / sum(held.counts[held.count_row[index]])
        found.append(float(np.log(site.nfn) - np.log(nfn)))
    return found


def test_it_is_the_difference_of_logarithms_by_site(scores, tmp_path) -> None:
    expected = _by_hand(scores)
    estimate = estimator(scores, ROW)
    for index, value in enumerate(expected):
        assert estimate([index]).value == pytest.approx(value, rel=1e-5)
    recorded = plop.score(
        build("llama"), WordTokenizer(), TEXTS, indicators=["contrast"], stop="fixed",
        progress=False,
    )  # fmt: skip
    (held,) = Scores.load(recorded.save(tmp_path / "scores.json")).indicators
    assert held.values == pytest.approx(expected, abs=1e-4)
    assert [row.value for row in held.types] == sorted(row.value for row in held.types)
    assert all(row.low < row.value < row.high for row in held.types)
    assert ROW.title in as_text(recorded)


def test_its_interval_is_that_of_two_samples_of_texts() -> None:
    """Against a simulation: 95 of 100 intervals hold the difference of the populations."""
    rng = np.random.default_rng(3)
    true, held = np.log(1.5 / 1.2), 0
    for _ in range(400):
        samples = []
        for size, mean in ((16, 1.5), (32, 1.2)):
            lengths = rng.integers(5, 40, (1, size)).astype(float)
            samples.append((lengths * rng.normal(mean, 0.2, (3, size)), lengths.repeat(3, axis=0)))
        low, high = log_ratio_difference(*samples).interval()
        held += low <= true <= high
    assert 365 <= held <= 392


def test_its_standard_error_is_that_of_welch() -> None:
    """Equal lengths, one site, small spread: the delta method is the difference of two means."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(1.0, 1e-4, (1, 12)), rng.normal(1.0, 3e-4, (1, 30))
    found = log_ratio_difference((second, np.ones_like(second)), (first, np.ones_like(first)))
    size = found.influence_S.size
    error = found.influence_S.std(ddof=1) / np.sqrt(size)
    expected = np.sqrt(first.var(ddof=1) / 12 + second.var(ddof=1) / 30)
    assert size == 42
    assert error == pytest.approx(expected, rel=1e-3)
    assert found.value == pytest.approx(second.mean() - first.mean(), rel=1e-3)


def test_a_single_text_has_no_interval() -> None:
    ones = np.ones((1, 1))
    assert log_ratio_difference((2 * ones, ones), (ones, ones)).interval() == (None, None)


def test_what_a_weight_has_on_every_text_cancels(scores) -> None:
    """Each NFN times a number of its own leaves the contrast as it is, and turns NFN around."""
    (reference,) = scores.references
    factors = np.linspace(1, 5, len(scores.sites))[:, None]

    def scaled(held):
        sums = np.array(held.sums) * factors
        return replace(held, sums=tuple(map(tuple, sums.tolist())))

    other = replace(
        scores,
        measurements=scaled(scores.measurements),
        references=(replace(reference, measurements=scaled(reference.measurements)),),
    )
    for first, second in zip(groups_of(scores, ROW), groups_of(other, ROW), strict=True):
        assert first.type == second.type
        assert first.value == pytest.approx(second.value)


def test_it_places_the_lowest_and_says_how_sure(scores, tmp_path) -> None:
    placement = plop.place(scores, strategy="contrast", top=2)
    groups = [group for group in groups_of(scores, ROW) if group.eligible]
    assert [choice.type for choice in placement.choices] == [one.type for one in groups[:2]]
    assert (placement.strategy, placement.indicator) == ("contrast", "contrast")
    gap = placement.choices[0].next
    expected = paired_difference(groups[1].estimate, groups[0].estimate)
    assert (gap.difference, gap.low, gap.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert Placement.load(placement.save(tmp_path / "placement.json")) == placement
    same = plop.place(scores, indicator="contrast", top=2)
    assert same.sites == placement.sites
    assert "contrast" in as_text(placement)
    assert "--indicator" not in place_command(placement)
    arm = ARMS["contrast"].choose(ArmRequest(scores, None, 0, {}))
    assert arm.choices == plop.place(scores, strategy="contrast", rank=1).choices


def test_scores_without_general_text_are_refused_and_told_what_to_do(scores) -> None:
    """The error names the option that removed it; earlier records hold random tokens at most."""
    (reference,) = scores.references
    earlier = replace(reference, name="random tokens", measurements=None, agreement=None)
    for without in (replace(scores, references=()), replace(scores, references=(earlier,))):
        for keys in ({"strategy": "contrast"}, {"indicator": "contrast"}):
            with pytest.raises(UsageError, match="Score again without --no-reference"):
                plop.place(without, **keys)


def test_options_that_contradict_it_are_refused(scores, tmp_path, run) -> None:
    with pytest.raises(UsageError, match=r"ranks by its own indicator\. Leave out --indicator"):
        plop.place(scores, strategy="contrast", indicator="parameter-share")
    with pytest.raises(UsageError, match="Leave out --no-reference"):
        plop.score(build("llama"), WordTokenizer(), TEXTS, indicators=["contrast"],
                   reference=False)  # fmt: skip
    data = tmp_path / "texts.txt"
    data.write_text("one\ntwo")
    code, _, errors = run("score", "no-such-model", "--data", str(data), "--indicator", "contrast",
                          "--no-reference")  # fmt: skip
    assert code == 2
    assert "Leave out --no-reference" in errors


def test_other_indicators_are_kept_where_there_is_no_general_text() -> None:
    """Batches of pixels have no reference; that must not cost what was asked for beside it."""
    scores = plop.score(
        build("vit"), batches=[make_batch("vit")], indicators=["contrast", "response-gain"],
        progress=False,
    )  # fmt: skip
    assert [held.indicator for held in scores.indicators] == ["response-gain"]
    assert "contrast was not recorded, because no general text was scored" in scores.notes


def test_a_weight_without_a_token_of_general_text_has_no_value(scores) -> None:
    """An expert that general text did not reach is missing, not the first to be adapted."""
    (reference,) = scores.references
    held = reference.measurements
    gone = [site.type == "v_proj" for site in scores.sites]
    zeros = (0,) * len(held.sequence_ids)
    emptied = replace(
        held,
        sums=tuple(zeros if no else row for row, no in zip(held.sums, gone, strict=True)),
        counts=(*held.counts, zeros),
        count_row=tuple(
            len(held.counts) if no else row for row, no in zip(held.count_row, gone, strict=True)
        ),
    )
    other = replace(scores, references=(replace(reference, measurements=emptied),))
    assert estimator(other, ROW)([index for index, no in enumerate(gone) if no]) is None
    placement = plop.place(other, strategy="contrast", top=6)
    assert "v_proj" not in {choice.type for choice in placement.choices}
    assert any("v_proj cannot be chosen" in note for note in placement.notes)


def test_stacked_experts_have_a_contrast() -> None:
    scores = plop.score(families.build("qwen3_moe"), WordTokenizer(), TEXTS, progress=False)
    estimate = estimator(scores, ROW)
    assert all(estimate([index]) is not None for index in range(len(scores.sites)))
