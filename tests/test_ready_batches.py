"""Batches that the user made: read for what they are, or refused in one line."""

from __future__ import annotations

import conftest
import families
import pytest
import torch

import plop_lora as plop
from plop_lora.data.batches import Padding, ready_batches
from plop_lora.errors import DataError
from plop_lora.scoring.inputs import in_any_order

LENGTHS = (9, 6, 4, 2)


def _ids(*, left: bool = False, width: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token numbers with padding 0, and their mask."""
    drawn = torch.randint(3, 90, (4, width), generator=torch.Generator().manual_seed(0))
    ids, mask = torch.zeros_like(drawn), torch.zeros_like(drawn)
    for row, length in enumerate(LENGTHS):
        place = slice(width - length, None) if left else slice(length)
        ids[row, place], mask[row, place] = drawn[row, :length], 1
    return ids, mask


def _nfn(model: torch.nn.Module, **inputs: torch.Tensor) -> dict[str, float]:
    scores = plop.score(model, batches=[inputs], stop="fixed", progress=False)
    return {row.type: pytest.approx(row.nfn, rel=1e-4) for row in scores.types}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5"])
@pytest.mark.parametrize("embedded", [True, False])
def test_the_side_of_the_padding_changes_nothing(models, family: str, embedded: bool) -> None:
    """Where the mask moves and the embeddings stay, padding is scored in place of tokens."""
    model = models(family)
    target = {"decoder_input_ids": _ids()[0][:, :5] + 1} if family == "t5" else {}
    found = []
    for left in (True, False):
        ids, mask = _ids(left=left)
        with torch.no_grad():
            embeds = model.get_input_embeddings()(ids)
        given = {"inputs_embeds": embeds} if embedded else {"input_ids": ids}
        found.append(_nfn(model, attention_mask=mask, **given, **target))
    assert list(found[0]) == list(found[1])
    assert found[0] == {name: value.expected for name, value in found[1].items()}


def test_positions_in_three_directions_move_with_their_tokens() -> None:
    ids, mask = _ids(left=True)
    positions = torch.stack([mask.cumsum(1) + part for part in range(3)])
    (batch,) = ready_batches(
        [{"input_ids": ids, "attention_mask": mask, "position_ids": positions}]
    )
    assert batch.inputs["position_ids"][1, 3, :2].tolist() == [2, 3]
    assert torch.equal(batch.inputs["input_ids"], _ids()[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda mask: torch.where(mask[:, None, None].bool(), 0.0, -torch.inf),
        lambda mask: mask[:, None, None].bool(),
        lambda mask: torch.where(mask.bool(), 0.0, -1e9),
        lambda mask: mask.cumsum(1),
        lambda mask: {"full_attention": mask},
    ],
    ids=["additive", "of four dimensions", "additive of two", "packed", "one for each kind"],
)
def test_a_mask_that_does_not_say_which_tokens_there_are(models, make) -> None:
    """The sum of such a mask is no number of tokens: an overflow, or a count of padding."""
    ids, mask = _ids()
    with pytest.raises(DataError, match=r"Batch 0 has an attention_mask \(.*\[batch, token\]"):
        plop.score(models("llama"), batches=[{"input_ids": ids, "attention_mask": make(mask)}])


@pytest.mark.parametrize("left", [True, False])
def test_padding_without_a_mask_is_told_by_its_token(left: bool) -> None:
    """Every padded place would count as a token, and the encoder would read it."""
    model = families.build("bert")
    assert model.config.pad_token_id == 0
    with_mask = dict(zip(("input_ids", "attention_mask"), _ids(), strict=True))
    wanted = {name: value.expected for name, value in _nfn(model, **with_mask).items()}
    assert _nfn(model, input_ids=_ids(left=left)[0]) == wanted


def test_padding_that_ends_texts_as_well_is_asked_about() -> None:
    """GPT-2's padding is its end of a text: how many of them are meant nobody can tell."""
    batch = {"input_ids": _ids()[0]}
    with pytest.raises(DataError, match=r"Batch 0 has no attention_mask, and token 0 both fills"):
        list(ready_batches([batch], Padding(0, ends=True)))
    (one,) = ready_batches([{"input_ids": _ids()[0][:1]}], Padding(0, ends=True))
    assert "attention_mask" not in one.inputs


def test_a_decoder_begins_with_padding() -> None:
    ids = torch.tensor([[0, 5, 6, 0], [0, 7, 8, 9]])
    (batch,) = ready_batches([{"input_ids": ids[:, 1:3], "decoder_input_ids": ids}], Padding(0))
    assert batch.inputs["decoder_attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_embeddings_of_a_decoder_are_told_from_the_encoders() -> None:
    """With one width for both sides the encoder's mask would count the decoder's padding."""
    ids, mask = _ids()
    embeds = torch.ones(4, 9, 8)
    (batch,) = ready_batches(
        [{
            "input_ids": ids, "attention_mask": mask, "decoder_inputs_embeds": embeds,
            "decoder_attention_mask": mask.flip(0),
        }]
    )  # fmt: skip
    assert batch.inputs["decoder_inputs_embeds"].shape == (4, 10, 8)
    assert batch.inputs["decoder_attention_mask"].shape == (4, 10)


@pytest.mark.slow
def test_batches_of_the_contract_pass(models) -> None:
    for family in conftest.MODELS:
        plop.score(models(family), batches=[conftest.make_batch(family)], progress=False)


def test_batches_in_blocks_of_kinds_are_drawn_in_any_order(models) -> None:
    """Adaptive stopping on sorted batches decided by the first kind alone."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 90, (40, 8), generator=generator)
    batches = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in ids.split(2)]
    ready = tuple(ready_batches(batches))

    def names(seed: int | None) -> list[str]:
        return [name for batch in in_any_order(ready, seed).batches for name in batch.names]

    as_given = names(None)
    assert as_given == [name for batch in ready for name in batch.names]
    assert names(1) != as_given
    assert sorted(names(1)) == sorted(as_given)
    assert names(1) == names(1) != names(2)
    found = plop.score(models("llama"), batches=batches, tolerance=9.0, progress=False)
    used = set(found.measurements.sequence_ids)
    assert 0 < len(used) < 40
    assert used & set(as_given[:20])
    assert used & set(as_given[20:]), "the first batches are of both halves"
    assert "in an order drawn with the seed" in found.provenance.data
