"""Rows of token numbers as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def padded(
    rows: Sequence[Sequence[int]], filler: int = 0, *, width: int | None = None, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill the rows up with `filler` to one width.

    Args:
        rows: at least one.
        filler: the token at places that belong to no row.
        width: of the result, at least that of the longest row, which is taken where it is None.
        left: put the filler before each row, as for generation, instead of behind it.

    Returns:
        Token numbers and the mask, 1 at places that belong to a row; both of shape [B, T].

    >>> padded([(5, 6), (7,)], left=True)[0].tolist()
    [[5, 6], [0, 7]]
    """
    width = width or max(map(len, rows))
    ids_BT = torch.full((len(rows), width), filler, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids_BT[index, where] = torch.tensor(row, dtype=torch.long)
        mask_BT[index, where] = 1
    return ids_BT, mask_BT
