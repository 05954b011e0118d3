"""Guards for every model: rows that are no tokens, and texts that change each other, are told."""

from __future__ import annotations

from typing import Any

import families
import pytest
import torch
from torch import nn

import plop_lora as plop
from plop_lora.data.batches import Batch, ready_batches
from plop_lora.errors import MeasurementError
from plop_lora.scoring.controls import ALONE, text_alone
from plop_lora.scoring.measurement.padding import is_square, split_square
from plop_lora.scoring.site_checks import NOT_TRIED

WIDTH, VOCABULARY = 16, 48


class Block(nn.Module):
    """Two layers; what happens between them is what a test is about."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.between = between

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        return x_BTI + self.down(torch.tanh(self.up(self.between(x_BTI))))


class Reader(nn.Module):
    """Reads token numbers; knows no mask, as a model that was not made for padding."""

    def __init__(self, between: nn.Module | None = None, *, time_first: bool = False) -> None:
        super().__init__()
        between = between or nn.Identity()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([Block(between), Block(between)])
        self.time_first = time_first

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None) -> torch.Tensor:
        x = self.embed(input_ids)
        x = x.transpose(0, 1) if self.time_first else x
        for layer in self.layers:
            x = layer(x)
        return x.transpose(0, 1) if self.time_first else x


def _texts(lengths: list[int]) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randint(1, VOCABULARY, (1, length), generator=generator) for length in lengths]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in drawn]


def _batch(lengths: list[int]) -> dict[str, torch.Tensor]:
    rows, width = _texts(lengths), max(lengths)
    return {
        key: torch.cat(
            [nn.functional.pad(row[key], (0, width - row[key].shape[1])) for row in rows]
        )
        for key in ("input_ids", "attention_mask")
    }


def _score(model: nn.Module, batches: list[dict[str, torch.Tensor]], **options: Any) -> plop.Scores:
    given = {"stop": "fixed", "progress": False, "reference": False} | options
    return plop.score(model, batches=batches, **given)


def _values(scores: plop.Scores) -> dict[str, tuple[float, int]]:
    return {site.name: (pytest.approx(site.nfn, rel=1e-5), site.tokens) for site in scores.sites}


def _plain(scores: plop.Scores) -> dict[str, tuple[float, int]]:
    return {site.name: (site.nfn, site.tokens) for site in scores.sites}


class OfBatch(nn.Module):
    """Takes the mean of the texts of a batch away."""

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        return x_BTI - 0.5 * x_BTI.mean(dim=0, keepdim=True)


class OfPadding(nn.Module):
    """Takes the mean of all places away, those of the padding too."""

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        return x_BTI - x_BTI.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("between", [OfBatch(), OfPadding()])
@pytest.mark.parametrize("stop", ["fixed", "adaptive"])
def test_texts_that_change_each_other_are_told_and_go_alone(between, stop: str) -> None:
    """The shapes are those of any model, so that nothing showed; the batch size changed scores."""
    lengths = [9, 7, 5, 4]
    together = _score(Reader(between), [_batch(lengths)], stop=stop)
    alone = _score(Reader(between), _texts(lengths))
    assert _plain(together) == _values(alone)
    told, one_at_a_time = together.notes
    assert told.startswith("a text alone gave other numbers than in its batch at ")
    assert one_at_a_time.startswith("texts went one at a time")
    assert alone.notes == ()


def test_ordinary_models_are_told_nothing() -> None:
    """The text that is run again leaves no trace in the record."""
    lengths = [9, 7, 5, 4]
    scores = _score(Reader(), [_batch(lengths)])
    assert scores.notes == ()
    assert (scores.sequences, scores.tokens) == (4, sum(lengths))
    assert not any(name.startswith(ALONE) for name in scores.measurements.sequence_ids)


def test_half_precision_is_no_other_text() -> None:
    """Rounding to eight bits differs with the batch; it must not be taken for a mixture."""
    model = families.build("llama").to(torch.bfloat16)
    notes = _score(model, [families.batch_of("llama")]).notes
    assert not [note for note in notes if "alone" in note or "at a time" in note]


def test_the_text_that_runs_again_is_a_short_one_with_padding() -> None:
    """The guard costs one short pass, and padding is what it looks for."""
    (batch,) = ready_batches([_batch([9, 7, 5, 4])])
    (one,) = text_alone([batch])
    assert one.inputs["input_ids"].shape == (1, 4)
    assert one.names == (ALONE + batch.names[3],)
    assert text_alone(list(ready_batches(_texts([9, 7])))) == ()


# --------------------------------------------------------------------------- time first


@pytest.mark.parametrize("rows", [2, 4, 6])
def test_as_many_texts_as_tokens(rows: int) -> None:
    """A time-first batch of 6 texts of 6 tokens was read as batch first: rows changed places."""
    lengths = [rows, *[max(1, rows - 2)] * (rows - 1)]
    scores = _score(Reader(time_first=True), [_batch(lengths)])
    assert _plain(scores) == _values(_score(Reader(), _texts(lengths)))
    assert scores.notes == ()


def test_batches_are_cut_until_none_is_square() -> None:
    (batch,) = ready_batches([_batch([4, 4, 3, 2])])
    pieces = split_square(batch, None)
    assert [len(piece.names) for piece in pieces] == [2, 2]
    assert not any(is_square(piece, None) for piece in pieces)
    (padded,) = ready_batches([_batch([3, 3, 3, 3])])
    assert is_square(padded, 4)
    assert not is_square(padded, None)


def test_positions_of_three_axes_are_not_cut_by_rows() -> None:
    """With three texts in a batch, time, height and width were taken for its texts."""
    inputs = {"input_ids": torch.ones(3, 5), "position_ids": torch.zeros(3, 3, 5)}
    assert not Batch(inputs, ("a", "b", "c")).can_split()
    plain = {"input_ids": torch.ones(3, 5), "position_ids": torch.zeros(3, 5)}
    assert Batch(plain, ("a", "b", "c")).can_split()


# --------------------------------------------------------------------------- rows and tokens


class Pooling(Block):
    """Has its layers read one row of each text, the mean."""

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        return x_BTI + self.down(torch.tanh(self.up(x_BTI.mean(dim=1))))[:, None]


def test_rows_that_are_not_the_tokens_are_told() -> None:
    """A layer that sees one row of each text has a score of its own kind; nothing said so."""
    model = Reader()
    model.layers[1] = Pooling(nn.Identity())
    scores = _score(model, _texts([5, 6, 7]))
    (note,) = scores.notes
    assert note.startswith("2 of 4 weights counted other rows than the tokens of the texts")
    assert "of which there are 18; layers.1.up counted 3 " in note


def test_experts_in_a_list_see_all_tokens_together() -> None:
    """Each of them sees a part of a text, which is what a router is for."""

    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(2)])

        def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
            first_BT = x_BTI[..., 0] > 0
            out = torch.zeros_like(x_BTI)
            for expert, chosen_BT in zip(self.experts, (first_BT, ~first_BT), strict=True):
                out[chosen_BT] = expert(x_BTI[chosen_BT])
            return out

    model = Reader()
    model.layers = nn.ModuleList([Routed(), Routed()])
    scores = _score(model, _texts([9, 8, 7]))
    assert len(scores.sites) == 4
    assert scores.notes == ()


def test_calls_that_were_left_out_are_told() -> None:
    """A layer that also reads a table of positions was scored on its tokens without a word."""

    class WithTable(Block):
        def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
            table = self.up(torch.ones(1, x_BTI.shape[1] + 3, WIDTH)).mean()
            return super().forward(x_BTI) + table

    model = Reader()
    model.layers[0] = WithTable(nn.Identity())
    (note,) = _score(model, _texts([5, 6])).notes
    assert note == (
        "some calls of layers.0.up were left out: its input rows are not the tokens of a text"
    )


def test_a_streamed_record_says_what_was_not_tried(tmp_path) -> None:
    """What cannot learn is found by a trial in memory, and by reading the code elsewhere."""
    model = families.build("llama")
    model.save_pretrained(tmp_path)
    batch = families.batch_of("llama")
    streamed = _score(str(tmp_path), [batch], engine="stream")
    assert streamed.notes == (NOT_TRIED,)
    assert _plain(streamed) == _values(_score(model, [batch]))
    assert streamed.sequences == len(batch["input_ids"])


class PadsItself(Reader):
    """Pads to a multiple of eight, which no configuration says."""

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None) -> torch.Tensor:
        missing = -input_ids.shape[1] % 8
        return super().forward(nn.functional.pad(input_ids, (0, missing)))


def test_padding_that_no_configuration_says_is_not_counted() -> None:
    """Sixteen rows of a text of eleven tokens are not its tokens; the others are scored."""
    scores = _score(PadsItself(), [_batch([11, 8])])
    assert {site.tokens for site in scores.sites} == {8}
    left_out, alone = scores.notes[-1], scores.notes[0]
    assert alone.startswith("texts went one at a time")
    assert left_out == (
        "some calls of layers.0.up and 3 other weights were left out: "
        "its input rows are not the tokens of a text"
    )
    with pytest.raises(MeasurementError, match="its input rows are not the tokens of a text"):
        _score(PadsItself(), [_batch([11, 9])])
