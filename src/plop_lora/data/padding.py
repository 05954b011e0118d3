"""Rows of token numbers as one tensor."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence


def padded(
    rows: Sequence[Sequence[int]], filler: int = 0, *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows to the width of the longest, with the mask that tells the padding.

    Args:
        rows: Token numbers of each row; at least one row.
        filler: Token number that pads a row.
        left: Whether to pad before each row, as generation needs it, instead of behind it.

    Returns:
        The token numbers and the mask, 1 for a token of a row and 0 for padding; both of shape
        [B, T].

    >>> padded([(5, 6), (7,)], left=True)[0].tolist()
    [[5, 6], [0, 7]]
    """
    side = "left" if left else "right"
    pad = functools.partial(pad_sequence, batch_first=True, padding_side=side)
    tokens = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad(tokens, padding_value=filler), pad([torch.ones_like(row) for row in tokens])
