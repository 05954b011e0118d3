"""Indicators of a text: numbers that belong to a sequence, from the rows of one call of a site.

Each is computed for every sequence by itself and repeated for each of its tokens, so that its mean
is weighted by tokens, its interval is over texts, and nothing is kept from one batch to the next.
Sequences whose rows are routed to experts have no value. Imports torch lazily.

Shape letters: B sequences, T places of a sequence, N rows (B × T), D width of a row, S a side of a
Gram matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plop_lora.indicators.kinds import FeatureRows, NotComputableError
from plop_lora.indicators.scored import nfn

if TYPE_CHECKING:
    import torch

LARGEST_SIDE = 4096
"""Largest side of a Gram matrix: 64 MiB of float32."""
_ELEMENTS = 1 << 22
"""Number of elements of the Gram matrices that are computed at a time."""


def mean_direction_share(rows: FeatureRows) -> torch.Tensor:
    """Return the share of the mean input in the output of each text, ||W m||² / mean ||W z||².

    m is the mean of z over the tokens of the text, so W m is the mean of W z. The share is 1 if all
    tokens have the same features, and about 1 / tokens if their outputs have no common part. A
    weight with a large share has a large NFN because of what is common to all tokens, rather than
    of what tells them apart. The types with the lowest share come first.

    Source: a baseline; that the features of language models share a direction is shown by
    Ethayarajh, arXiv 1909.00512, and Sun et al., arXiv 2402.17762. Memory: a float32 copy of the
    output of one call.
    """
    import torch

    shape = _grid(rows)
    kept_BT = rows.kept_N.view(shape)
    products_BTD = rows.products().view(*shape, -1).masked_fill(~kept_BT[..., None], 0)
    summed_B = products_BTD.sum(dim=1).square().sum(dim=1)
    squares_BT = torch.where(kept_BT, rows.output_norms_N.view(shape).square(), 0.0)
    total_B = squares_BT.sum(dim=1) * kept_BT.sum(dim=1)
    return _repeated((summed_B / total_B).where(total_B > 0, 0), shape)


def rank_of_inputs(rows: FeatureRows) -> torch.Tensor:
    """Return the effective rank of the inputs of each text, (Σλ)² / Σλ².

    λ are the eigenvalues of the second moment of z / ||z|| over the tokens of the text, not
    centred. Each token counts by its direction alone, as in NFN; otherwise a single token with a
    very large norm would make the rank 1. It lies between 1 and the number of tokens or the width
    of the inputs, whichever is smaller, so texts of other lengths give other ranks. The types with
    the highest rank come first.

    Source: a baseline; the participation ratio, as for `effective_rank`. Memory: a float32 copy of
    the input of one call, and the inner products of its tokens. Time: in tokens × tokens × width
    for each text, which is tokens / outputs of the time of the layer itself.
    """
    return _ranks(rows, rows.inputs(), rows.input_norms_N)


def rank_of_outputs(rows: FeatureRows) -> torch.Tensor:
    """Return the effective rank of the outputs of each text: `rank_of_inputs` of W z.

    The types with the highest rank come first. Source and memory: as for `rank_of_inputs`, with the
    output in place of the input.
    """
    return _ranks(rows, rows.products(), rows.output_norms_N)


def token_spread(rows: FeatureRows) -> torch.Tensor:
    """Return the standard deviation of NFN over the tokens of each text.

    It is 0 for a text of one token. The types with the lowest spread come first. Source: a
    baseline. Memory: one number per token of a batch.
    """
    import torch

    shape = _grid(rows)
    kept_BT = rows.kept_N.view(shape)
    values_BT = torch.where(kept_BT, nfn(rows).view(shape), 0.0)
    counts_B = kept_BT.sum(dim=1).clamp(min=1)
    means_B = values_BT.sum(dim=1) / counts_B
    squares_BT = torch.where(kept_BT, (values_BT - means_B[:, None]).square(), 0.0)
    return _repeated((squares_BT.sum(dim=1) / counts_B).sqrt(), shape)


def nfn_with_special_tokens(rows: FeatureRows) -> torch.Tensor:
    """Return the mean NFN of each text over all of its tokens, also the special ones around it.

    NFN itself leaves them out, unless they are counted with --special-tokens; the two are equal
    then. Texts are weighted by the tokens that count in NFN, so that the mean can differ slightly
    from that of a run with --special-tokens. The types with the lowest value come first.

    Source: PLoP, arXiv 2506.20629, whose code counts them. Memory: one number per token of a batch.
    """
    import torch

    shape = _grid(rows)
    read_BT = (rows.read() & (rows.input_norms_N != 0)).view(shape)
    values_BT = torch.where(read_BT, nfn(rows).view(shape), 0.0)
    return _repeated(values_BT.sum(dim=1) / read_BT.sum(dim=1).clamp(min=1), shape)


def _grid(rows: FeatureRows) -> tuple[int, int]:
    """Return the numbers of sequences and of their places.

    Raises:
        NotComputableError: The rows are routed to experts.
    """
    if rows.grid is None:
        raise NotComputableError("its tokens are routed to experts")
    return rows.grid


def _repeated(values_B: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Return the number of each sequence for all of its places, [N]."""
    return values_B[:, None].expand(shape).reshape(-1)


def _ranks(rows: FeatureRows, given_ND: torch.Tensor, norms_N: torch.Tensor) -> torch.Tensor:
    """Return the effective rank of the directions of some rows of each text, [N].

    Σλ is the number of tokens with a direction, and Σλ² the sum of the squares of the Gram matrix
    of the tokens or, which is the same, of the dimensions; the smaller of the two is formed.
    """
    import torch

    sequences, places = _grid(rows)
    side = min(places, given_ND.shape[1])
    if side > LARGEST_SIDE:
        raise NotComputableError(f"a text and a row of it have more than {LARGEST_SIDE:,} entries")
    counted_N = rows.kept_N & (norms_N != 0)
    squares = []
    step = max(1, _ELEMENTS // side**2)
    for first in range(0, sequences, step):
        part = slice(first * places, (first + step) * places)
        units_ND = given_ND[part] / norms_N[part, None]
        units_BTD = units_ND.masked_fill(~counted_N[part, None], 0).view(
            -1, places, units_ND.shape[1]
        )
        left, right = units_BTD, units_BTD.transpose(1, 2)
        gram_BSS = torch.bmm(left, right) if side == places else torch.bmm(right, left)
        squares.append(gram_BSS.square().sum(dim=(1, 2)))
    squares_B = torch.cat(squares)
    counts_B = counted_N.view(sequences, places).sum(dim=1)
    return _repeated((counts_B.square() / squares_B).where(squares_B > 0, 0), (sequences, places))
