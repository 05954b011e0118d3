"""Norms of an input are computed once for the modules that share it, and never for other values."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import plop_lora as plop
from plop_lora.scoring.measurement import sums
from plop_lora.scoring.measurement.sums import BatchSums, Layout


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Return a list that grows with the norms of every input that is read."""
    found: list[torch.Tensor] = []
    inner = sums.row_norms

    def counted(rows: torch.Tensor) -> torch.Tensor:
        found.append(inner(rows))
        return found[-1]

    monkeypatch.setattr(sums, "row_norms", counted)
    return found


class _Block(nn.Module):
    """Three projections of one input, with another module between the second and the third."""

    def __init__(self, *, changes: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8, bias=False) for _ in range(4)])
        self.changes = changes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + 0
        first, second = self.layers[0](x), self.layers[1](x)
        inner = self.layers[2](first + second)
        if self.changes:
            x.relu_()
        return inner + self.layers[3](x)


def _nfn(model: nn.Module, features: torch.Tensor) -> dict[str, float]:
    scores = plop.score(model, batches=[{"x": features}], progress=False)
    return {site.name: site.nfn for site in scores.sites}


def _batch_sums() -> BatchSums:
    return BatchSums(Layout(1, ()), rows=1, layers=2)


def test_one_input_of_several_modules_is_read_once(computed: list[torch.Tensor]) -> None:
    """Also where another module runs in between, as in blocks with a router or shared experts."""
    features, other = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    batch_sums = _batch_sums()
    for one in (features, features, other, features):
        assert batch_sums.input_norms(one).equal(one.norm(dim=-1).flatten())
    assert len(computed) == 2


def test_an_input_changed_in_place_is_read_again() -> None:
    """An activation that works in place changes the tensor between two modules that receive it."""
    torch.manual_seed(0)
    model, features = _Block(changes=True), torch.randn(3, 5, 8)
    changed = _nfn(model, features)["layers.3"]
    weight = model.layers[3].weight.detach()
    plain = nn.Sequential(nn.Linear(8, 8, bias=False))
    plain[0].weight = nn.Parameter(weight)
    scores = plop.score(plain, batches=[{"input": features.relu()}], progress=False)
    assert changed == pytest.approx(scores.sites[0].nfn, rel=1e-5)
    model.changes = False
    assert _nfn(model, features)["layers.3"] != pytest.approx(changed, rel=1e-3)


def test_a_view_of_a_changed_tensor_is_read_again() -> None:
    """Views share their version with the tensor that they show."""
    features = torch.randn(1, 4, 8)
    view, batch_sums = features.view(1, 4, 8), _batch_sums()
    batch_sums.input_norms(view)
    features.mul_(2)
    assert batch_sums.input_norms(view).equal(view.norm(dim=-1).flatten())


def test_norms_are_not_shared_in_inference_mode(computed: list[torch.Tensor]) -> None:
    """In that mode torch does not count the changes of tensors."""
    batch_sums = _batch_sums()
    with torch.inference_mode():
        features = torch.randn(1, 4, 8)
        for _ in range(2):
            batch_sums.input_norms(features)
            features.mul_(2)
    assert len(computed) == 2
    assert computed[1].allclose(2 * computed[0])


def test_an_input_is_not_kept_in_memory() -> None:
    """Another tensor may lie at the address of a freed one, and must not receive its norms."""
    batch_sums = _batch_sums()
    features = torch.randn(1, 4, 8)
    batch_sums.input_norms(features)
    alive = weakref.ref(features)
    del features
    gc.collect()
    assert alive() is None
    assert not batch_sums.norms
