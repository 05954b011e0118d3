"""Ready embeddings that are padded on the left give what their sequences give one by one."""

from __future__ import annotations

import families
import pytest
import torch
from reference import reference
from torch import nn

import plop_lora as plop

LENGTHS = (4, 9, 6, 1)
POSITIONS = ["gpt2", "opt", "llama", "bloom", "bert", "gpt_neox", "modernbert", "gemma3"]
"""Absolute positions, counted or taken from the mask, rotary ones, slopes, windows, an encoder."""


def _rows(model: nn.Module) -> list[torch.Tensor]:
    """Return the embeddings of sequences of several lengths, [1, T, H] each."""
    generator = torch.Generator().manual_seed(2)
    embedding = model.get_input_embeddings()
    with torch.no_grad():
        return [
            embedding(torch.randint(3, 90, (1, length), generator=generator)) for length in LENGTHS
        ]


def _padded(rows: list[torch.Tensor], *, left: bool) -> dict[str, torch.Tensor]:
    width = max(row.shape[1] for row in rows)
    generator = torch.Generator().manual_seed(5)
    made, masks = [], []
    for row in rows:
        missing = width - row.shape[1]
        # Padding that is no zero, so that it shows where it is read.
        noise = torch.randn(1, missing, row.shape[2], generator=generator)
        ones, zeros = torch.ones(1, row.shape[1]), torch.zeros(1, missing)
        made.append(torch.cat([noise, row] if left else [row, noise], dim=1))
        masks.append(torch.cat([zeros, ones] if left else [ones, zeros], dim=1))
    return {"inputs_embeds": torch.cat(made), "attention_mask": torch.cat(masks).long()}


def _score(model: nn.Module, batch: dict[str, torch.Tensor]) -> plop.Scores:
    return plop.score(model, batches=[batch], stop="fixed", reference=False, progress=False)


@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("left", [True, False])
def test_embeddings_equal_the_reference_of_each_sequence(name: str, left: bool) -> None:
    """The mask moved and the embeddings did not, so that q and o changed places."""
    model = families.build(name)
    rows = _rows(model)
    scores = _score(model, _padded(rows, left=left))
    expected = reference(model, [{"inputs_embeds": row} for row in rows])
    assert scores.tokens == sum(LENGTHS)
    assert scores.notes == ()
    for site in scores.sites:
        value, tokens = expected[site.name]
        assert (site.nfn, site.tokens) == (pytest.approx(value, rel=1e-4), tokens), site.name


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32])
def test_masks_of_every_kind(kind: torch.dtype) -> None:
    """Processors return masks as integers, booleans and floats."""
    model = families.build("llama")
    batch = _padded(_rows(model), left=True)
    plain = _score(model, batch)
    other = _score(model, batch | {"attention_mask": batch["attention_mask"].to(kind)})
    assert [site.nfn for site in other.sites] == [site.nfn for site in plain.sites]


def test_positions_move_with_their_embeddings() -> None:
    """Positions that the user counted belong to the tokens, wherever these are moved."""
    model = families.build("gpt2")
    rows = _rows(model)
    batch = _padded(rows, left=True)
    positions = (batch["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    scores = _score(model, batch | {"position_ids": positions})
    plain = _score(model, _padded(rows, left=False))
    for one, other in zip(scores.sites, plain.sites, strict=True):
        assert one.nfn == pytest.approx(other.nfn, rel=1e-5)
