"""E||W u|| of matrices whose singular values are known, against an exact integral."""

from __future__ import annotations

import pytest
import torch
from reference import norm_of_spectrum

from plop_lora.indicators import spectra
from plop_lora.indicators.expected_norms import expected_norm, sum_of_fourth_powers

WIDTH, ROWS = 448, 320
PLANTED = {
    "flat": torch.ones(ROWS),
    "power law": torch.arange(1, ROWS + 1) ** -0.5,
    "steep power law": torch.arange(1, ROWS + 1) ** -1.0,
    "low effective rank": torch.where(torch.arange(ROWS) < 12, 1.0, 0.05),
    "exactly of low rank": torch.where(torch.arange(ROWS) < 5, 1.0, 0.0),
    "one dominates": torch.where(torch.arange(ROWS) < 1, 30.0, 1.0),
    "one alone": torch.where(torch.arange(ROWS) < 1, 1.0, 0.0),
}
"""Singular values. All weights are wider than those whose values are computed exactly."""


def _planted(values: torch.Tensor, *, transposed: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    left, _ = torch.linalg.qr(torch.randn(ROWS, ROWS, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(WIDTH, ROWS, generator=generator))
    weight = (left * values) @ right.T
    return weight.T if transposed else weight


def _error(weight: torch.Tensor, values: torch.Tensor, seed: int) -> float:
    found = float(expected_norm(weight, denominator="analytic", seed=seed))
    return abs(found / norm_of_spectrum(values.double() ** 2, weight.shape[1]) - 1)


@pytest.mark.parametrize("transposed", [False, True], ids=["wide", "tall"])
@pytest.mark.parametrize("name", PLANTED)
def test_expected_norm_of_planted_singular_values(name: str, transposed: bool) -> None:
    """The former estimate was off by up to several percent where a few values dominate."""
    values = PLANTED[name]
    weight = _planted(values, transposed=transposed)
    assert max(_error(weight, values, seed) for seed in range(8)) < 5e-4


@pytest.mark.parametrize("name", PLANTED)
def test_rounded_weights(name: str) -> None:
    """Products in bfloat16 are rounded, those of a subspace and of random vectors alike."""
    rounded = _planted(PLANTED[name]).bfloat16()
    values = torch.linalg.svdvals(rounded.double())
    assert max(_error(rounded, values, seed) for seed in range(4)) < 5e-4


@pytest.mark.parametrize("name", PLANTED)
def test_narrow_weights_are_exact(name: str) -> None:
    values = PLANTED[name][:200]
    left, _ = torch.linalg.qr(torch.randn(300, 200, generator=torch.Generator().manual_seed(2)))
    for weight in (left * values, (left * values).T):
        assert _error(weight, values, seed=0) < 2e-5


def test_leading_values_only_where_they_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights with similar singular values are multiplied once, which is most of the cost."""
    calls: list[str] = []
    inner = spectra._deflated

    def counted(*arguments: object) -> spectra.Spectrum:
        calls.append("deflated")
        return inner(*arguments)

    monkeypatch.setattr(spectra, "_deflated", counted)
    sum_of_fourth_powers(torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)), 0)
    assert not calls
    sum_of_fourth_powers(_planted(PLANTED["one dominates"]), 0)
    assert calls


@pytest.mark.parametrize("name", PLANTED)
def test_sum_of_fourth_powers(name: str) -> None:
    """The effective rank of a weight depends on it in full, not on a small correction."""
    values = PLANTED[name]
    found = [float(sum_of_fourth_powers(_planted(values), seed)) for seed in range(16)]
    assert sum(found) / 16 == pytest.approx(float((values**4).sum()), rel=0.02)


def test_signs_follow_the_seed() -> None:
    """Equal seeds give equal results; other seeds give other ones."""
    weight = torch.randn(400, 300, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        float(expected_norm(weight, denominator="analytic", seed=seed)) for seed in (3, 3, 4)
    )
    assert first == again != other


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_weights_without_an_expected_norm(value: float) -> None:
    """A weight of zeros has none, and a damaged one must not raise an error without a name."""
    weight = torch.zeros(300, 300)
    weight[0, 0] = value
    found = float(expected_norm(weight, denominator="analytic", seed=0))
    assert found == 0 if value == 0 else found != found
