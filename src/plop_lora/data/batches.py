"""Batches of token sequences, or made by the user, with the masks of the tokens that count.

Batches are right-padded and sorted by length. Padding is masked and never counted later, and so are
the special tokens around a text unless they were asked for. Shape letters: B batch, T token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from plop_lora.data.padding import padded
from plop_lora.data.tokens import TokenSequence
from plop_lora.errors import DataError


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of one forward pass.

    Attributes:
        inputs: Keyword arguments of the forward, whose tensors have B rows.
        names: Name of each row.
        text_masks: Masks [B, T] of the tokens that count, by the name of the attention mask of
            their side. Where a side has none, every token of its attention mask counts.
    """

    inputs: dict[str, Any]
    names: tuple[str, ...]
    text_masks: dict[str, torch.Tensor] = field(default_factory=dict)

    def part(self, start: int, end: int) -> Batch:
        """Return the rows from `start` to `end`."""
        inputs = {
            key: value[start:end] if self._by_row(key, value) else value
            for key, value in self.inputs.items()
        }
        text_masks = {side: mask_BT[start:end] for side, mask_BT in self.text_masks.items()}
        return Batch(inputs, self.names[start:end], text_masks)

    def can_split(self) -> bool:
        """Whether there are several rows and every tensor has one entry for each of them."""
        tensors = [(k, v) for k, v in self.inputs.items() if isinstance(v, torch.Tensor) and v.ndim]
        return len(self.names) > 1 and all(self._by_row(*tensor) for tensor in tensors)

    def _by_row(self, key: str, value: object) -> bool:
        if not isinstance(value, torch.Tensor) or value.shape[:1] != (len(self.names),):
            return False
        # Positions in time, height and width stand above the rows, of which there may be three.
        return key != "position_ids" or value.ndim != 3


# --------------------------------------------------------------------------- batches


def make_batches(
    sequences: Sequence[TokenSequence],
    *,
    batch_size: int | None,
    token_budget: int,
    decoder_start: int | None = None,
) -> list[Batch]:
    """Group sequences of similar length, longest first, and pad each group on the right.

    Longest first, so that running out of memory happens at the start and not after an hour.

    Args:
        sequences: The sequences, at least one.
        batch_size: Number of rows of a batch; None lets `token_budget` decide.
        token_budget: Largest B × T of a batch, padding included, where `batch_size` is None.
        decoder_start: Token number that a decoder of an encoder-decoder model begins with.
    """
    order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i].tokens), i))
    batches: list[Batch] = []
    start = 0
    while start < len(order):
        longest = len(sequences[order[start]].tokens)
        rows = batch_size or max(1, token_budget // longest)
        group = [sequences[index] for index in order[start : start + rows]]
        batches.append(_collate(group, decoder_start))
        start += rows
    return batches


def _collate(group: Sequence[TokenSequence], decoder_start: int | None) -> Batch:
    ids_BT, mask_BT = padded([sequence.tokens for sequence in group])
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT}
    text_masks = _text_masks([sequence.text_mask for sequence in group], SIDES[0])
    if group[0].target_tokens is not None:
        start = 0 if decoder_start is None else decoder_start
        shifted = [(start, *(s.target_tokens or ())[:-1]) for s in group]
        # One column more than needed where both sides are equally wide: the probe tells the
        # encoder's tokens from the decoder's by their number, and padding never counts.
        sides = padded(shifted)
        extra = int(sides[0].shape == ids_BT.shape)
        inputs["decoder_input_ids"], inputs[_DECODER_MASK] = (
            functional.pad(side_BT, (0, extra)) for side_BT in sides
        )
        behind_start = [(0, *m[:-1]) if (m := s.target_text_mask) else None for s in group]
        text_masks |= _text_masks(behind_start, _DECODER_MASK, extra)
    return Batch(inputs, tuple(sequence.name for sequence in group), text_masks)


def _text_masks(
    rows: Sequence[tuple[int, ...] | None], side: str, extra: int = 0
) -> dict[str, torch.Tensor]:
    """Return the mask of the tokens of a side that count; empty where all of them do."""
    given = [row for row in rows if row is not None]
    return {side: functional.pad(padded(given)[0], (0, extra))} if given else {}


@dataclass(frozen=True, slots=True)
class Padding:
    """The number of the padding token, None if unknown, and whether it also ends texts."""

    token: int | None = None
    ends: bool = False


def ready_batches(
    batches: Iterable[Mapping[str, Any]], padding: Padding | None = None
) -> Iterator[Batch]:
    """Take batches that the user made; name each row by its content and drop `labels`.

    Left padding is moved to the right, row by row, so that the side never changes a position.

    Args:
        batches: Inputs of the model by keyword.
        padding: The padding of batches of token numbers that come without a mask.

    Raises:
        DataError: A batch has no tensors, a row has zero tokens, a mask is not that of the tokens,
            or there is none and padding cannot be told from the end of a text.
    """
    for index, given in enumerate(batches):
        named = {key: value for key, value in dict(given).items() if key != "labels"}
        inputs = {k: v for k, v in named.items() if v is not None or k not in SIDES}
        tensors = [v for v in inputs.values() if isinstance(v, torch.Tensor) and v.ndim]
        if not tensors:
            raise DataError(f"Batch {index} holds no tensors; it has: {', '.join(inputs)}.")
        rows = len(inputs.get("input_ids", tensors[0]))
        for ids, mask in zip(_IDS, SIDES, strict=True):
            if mask in inputs:
                _check_mask(index, mask, inputs[mask])
            elif padding is not None:
                inputs = _masked(index, inputs, ids, mask, padding)
            if mask in inputs:
                inputs = _right_padded(index, inputs, mask)
        inputs = _told_apart(inputs)
        yield Batch(inputs, tuple(_row_name(inputs, row, rows) for row in range(rows)))


SIDES = ("attention_mask", "decoder_attention_mask")
"""The masks of a batch: of the encoder, or of a model with one stack, and of the decoder."""
_IDS = ("input_ids", "decoder_input_ids")
_DECODER = "decoder_"
_DECODER_MASK = "decoder_attention_mask"


def _check_mask(index: int, name: str, mask: Any) -> None:
    """Refuse a mask that does not say which tokens there are, as those made for attention.

    Raises:
        DataError: The mask has not one place for each token, or other values than 0 and 1.
    """
    if _is_mask(mask) and bool(((mask == 0) | (mask == 1)).all()):
        return
    shape = (
        f"of shape {list(mask.shape)}" if isinstance(mask, torch.Tensor) else type(mask).__name__
    )
    raise DataError(
        f"Batch {index} has an {name} ({shape}) that does not say which tokens there are. Give "
        "one of shape [batch, token], 1 for a token and 0 for padding; the model makes from it "
        "what its attention needs."
    )


def _masked(
    index: int, inputs: dict[str, object], ids: str, mask: str, padding: Padding
) -> dict[str, object]:
    """Add the mask of token numbers that end, or begin, with padding.

    Raises:
        DataError: Padding cannot be told from the end of a text.
    """
    ids_BT = inputs.get(ids)
    if padding.token is None or not isinstance(ids_BT, torch.Tensor) or ids_BT.ndim != 2:
        return inputs
    padding_BT = (ids_BT == padding.token).long()
    ends_BT = padding_BT.flip(1).cumprod(1).flip(1)
    # A decoder begins with the padding token in many models.
    begins_BT = torch.zeros_like(ends_BT) if mask == _DECODER_MASK else padding_BT.cumprod(1)
    padded_BT = ends_BT | begins_BT
    if padding.ends and bool((padded_BT.sum(1) > 1).any() or begins_BT.any()):
        raise DataError(
            f"Batch {index} has no {mask}, and token {padding.token} both fills up rows and ends "
            f"texts. Give its {mask}, of shape [batch, token] with 1 for a token and 0 for padding."
        )
    if padding.ends or not padded_BT.any():
        return inputs
    return inputs | {mask: 1 - padded_BT}


def _is_mask(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 2


def _of_side(inputs: Mapping[str, Any], mask: str) -> list[str]:
    """Return the names of the tensors that have a place for each token of a mask's side."""
    shape = inputs[mask].shape
    own = mask.startswith(_DECODER)
    return [
        key
        for key, value in inputs.items()
        if key.startswith(_DECODER) == own
        and isinstance(value, torch.Tensor)
        and value.shape[:2] == shape
    ]


def _right_padded(index: int, inputs: dict[str, Any], mask: str) -> dict[str, object]:
    """Move the padding of one side to the right.

    Raises:
        DataError: A row has zero tokens.
    """
    mask_BT = inputs[mask]
    empty = (mask_BT.sum(dim=1) == 0).nonzero()
    if len(empty):
        raise DataError(f"Batch {index}, row {int(empty[0])}, has zero tokens.")
    if bool((mask_BT[:, :-1] >= mask_BT[:, 1:]).all()):
        return inputs
    order_BT = mask_BT.argsort(dim=1, descending=True, stable=True)
    rows_B1 = torch.arange(len(mask_BT), device=mask_BT.device)[:, None]
    moved = {key: inputs[key][rows_B1, order_BT] for key in _of_side(inputs, mask)}
    positions = inputs.get("position_ids")
    if mask == SIDES[0] and isinstance(positions, torch.Tensor) and positions.ndim == 3:
        # Models that see have a position in time, height and width for each token.
        moved["position_ids"] = positions[:, rows_B1, order_BT]
    return inputs | moved


def _told_apart(inputs: dict[str, Any]) -> dict[str, object]:
    """Make the decoder's side one padded column wider where both sides are equally wide.

    The probe tells the encoder's tokens from the decoder's by their number: with one number for
    both, the encoder's mask would count the decoder's padding as tokens.
    """
    places, decoder_places = _places(inputs, SIDES[0]), _places(inputs, _DECODER_MASK)
    if places is None or decoder_places is None or places.shape[:2] != decoder_places.shape[:2]:
        return inputs
    mask_BT = torch.ones(places.shape[:2], dtype=torch.long, device=decoder_places.device)
    masked = {_DECODER_MASK: mask_BT} | inputs
    wider = {
        key: torch.cat([masked[key], torch.zeros_like(masked[key][:, :1])], dim=1)
        for key in _of_side(masked, _DECODER_MASK)
    }
    return masked | wider


def _places(inputs: Mapping[str, object], mask: str) -> torch.Tensor | None:
    """Return a tensor with a place for each token of a mask's side, None where there is none."""
    side = mask.removesuffix("attention_mask")
    for key in (mask, f"{side}input_ids", f"{side}inputs_embeds"):
        value = inputs.get(key)
        if isinstance(value, torch.Tensor) and value.ndim > 1:
            return value
    return None


def _row_name(inputs: Mapping[str, Any], row: int, rows: int) -> str:
    """Hash a row's content without its padding, so that a batch split keeps the names."""
    digest = hashlib.sha256()
    masks = {
        key: inputs[mask]
        for mask in SIDES
        if _is_mask(inputs.get(mask))
        for key in _of_side(inputs, mask)
    }
    for key in sorted(inputs):
        value = inputs[key]
        if key in SIDES or not isinstance(value, torch.Tensor) or len(value) != rows:
            continue
        content = value[row]
        if key in masks:
            content = content[masks[key][row].bool()]
        digest.update(key.encode() + content.cpu().float().numpy().tobytes())
    return digest.hexdigest()[:12]
