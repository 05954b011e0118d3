"""Models with an image side: scored from text alone, or from what a processor returns."""

from __future__ import annotations

import families
import pytest
import torch
from reference import reference

import plop_lora as plop

IMAGE, BEGIN, END = 90, 92, 93


def _qwen_batch(model: torch.nn.Module, images: int) -> dict[str, torch.Tensor]:
    """Return what Qwen's processor returns: patches of all images in one row, and their grid."""
    generator = torch.Generator().manual_seed(images)
    grid = torch.tensor([[1, 4, 4]] * images)
    patches = torch.randn(16 * images, 3 * 2 * 4 * 4, generator=generator)
    row = [5, 6, BEGIN, *[IMAGE] * 4, END, 7, 8, 9]
    ids = torch.tensor([row] * images)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": patches,
        "image_grid_thw": grid,
        "mm_token_type_ids": (ids == IMAGE).int(),
    }


def _gemma_batch(images: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(images)
    ids = torch.tensor([[5, 91, *[IMAGE] * 4, 7, 8, 9]] * images)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": (ids == IMAGE).int(),
        "pixel_values": torch.randn(images, 3, 16, 16, generator=generator),
    }


def _one(name: str, images: int = 1) -> dict[str, torch.Tensor]:
    model = families.build(name)
    return _gemma_batch(images) if "gemma" in name else _qwen_batch(model, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "gemma3_multimodal"])
def test_text_and_images_give_language_and_tower(name: str) -> None:
    """With one example a batch every row has an owner, in the tower as well."""
    model = families.build(name)
    batch = _one(name)
    include = ["lm.*", "vision.*"]
    scores = plop.score(model, batches=[batch], include=include, progress=False)
    expected = reference(model, [batch], include=include)
    measured = {site.name: site.nfn for site in scores.sites}
    assert any("visual" in site or "vision" in site for site in measured)
    for site, (value, _) in expected.items():
        assert measured[site] == pytest.approx(value, rel=1e-4), site
    placement = plop.place(scores, strategy="all-linear")
    assert all(".language_model." in site.name for site in placement.sites)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_packed_patches_are_not_guessed(name: str) -> None:
    """Nobody can tell whose patches these are: the tower is reported, the language is scored."""
    model = families.build(name)
    scores = plop.score(
        model, batches=[_one(name, images=3)], include=["lm.*", "vision.*"], progress=False
    )
    assert all("language_model" in site.name for site in scores.sites)
    reasons = {e.reason for e in scores.coverage.not_measured if ".visual.blocks" in e.name}
    assert reasons == {"its input rows cannot be assigned to sequences"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3_multimodal"])
def test_the_export_never_touches_the_tower(name: str) -> None:
    """The tower has projections of the same names; PEFT would adapt them with a leaf name."""
    model = families.build(name)
    scores = plop.score(model, batches=[families.batch_of(name)], progress=False)
    for options in ({}, {"strategy": "all-linear"}, {"budget": "4%"}):
        plop.place(scores, **options).to_peft()
