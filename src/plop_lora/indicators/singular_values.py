"""Indicators of a weight that need its extreme singular values. Imports torch lazily.

Shape letters: O out, I in, K columns of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plop_lora.indicators.kinds import NotComputableError

if TYPE_CHECKING:
    import torch

LARGEST_SIDE = 4096
"""Smaller side of a weight above which all singular values take minutes on a CPU."""
BLOCK, POWERS = 8, 8
"""Columns of the block, and its powers, that span the subspace of the largest singular value."""


def stable_rank(weight_OI: torch.Tensor, seed: int) -> torch.Tensor:
    """Return ||W||_F² / σ_max² of a weight, its stable rank.

    It lies between 1 and the smaller side, which it reaches if all singular values are equal. σ_max
    of a weight whose smaller side has more than 256 entries is the largest singular value in a
    block Krylov subspace of 64 dimensions, which is never above the exact one and differs from it
    by less than 0.1 % even where the singular values are close. The types with the highest stable
    rank come first.

    Source: a baseline; Rudelson, Vershynin, arXiv math/0503442, for the stable rank; Musco, Musco,
    arXiv 1504.05477, for the subspace. Memory: a float32 copy of one weight. Time: that of about
    200 tokens through the weight.

    Raises:
        NotComputableError: The weight is all zero.
    """
    from plop_lora.indicators.expected_norms import frobenius_square

    square = frobenius_square(weight_OI)
    if not bool(square > 0):
        raise NotComputableError("it is all zero")
    return square / _largest_square(weight_OI.float(), seed)


def log_condition(weight_OI: torch.Tensor, seed: int) -> torch.Tensor:
    """Return log10(σ_max / σ_min) of a weight, the logarithm of its condition number.

    All singular values are computed, in float32. The types with the lowest condition number come
    first, as in KappaTune.

    Source: KappaTune, arXiv 2506.16289, which ranks by the condition number itself. Memory: two
    float32 copies of one weight. Time: seconds for a weight whose smaller side has 2,048 entries.

    Raises:
        NotComputableError: The smaller side has more than `LARGEST_SIDE` entries, or the weight is
            singular to the precision of float32.
    """
    import torch

    if min(weight_OI.shape) > LARGEST_SIDE:
        raise NotComputableError(f"its smaller side has more than {LARGEST_SIDE:,} entries")
    values_K = torch.linalg.svdvals(weight_OI.float())
    largest, smallest = values_K[0], values_K[-1]
    least = largest * max(weight_OI.shape) * torch.finfo(torch.float32).eps
    if not bool(smallest > least):
        raise NotComputableError("it is singular to the precision of float32")
    return torch.log10(largest / smallest)


def _largest_square(weight_OI: torch.Tensor, seed: int) -> torch.Tensor:
    """Return σ_max² of a float32 weight."""
    import torch

    from plop_lora.indicators.expected_norms import gaussian
    from plop_lora.indicators.spectra import EXACT_WIDTH

    if min(weight_OI.shape) <= EXACT_WIDTH:
        largest: torch.Tensor = torch.linalg.matrix_norm(weight_OI, 2).square()
        return largest
    block_IK = gaussian(weight_OI.shape[1], BLOCK, weight_OI, seed)
    blocks = []
    for _ in range(POWERS):
        block_IK = _basis(weight_OI.T @ (weight_OI @ block_IK))
        blocks.append(block_IK)
    images_OK = weight_OI @ _basis(torch.cat(blocks, dim=1))
    squares_K = torch.linalg.eigvalsh((images_OK.T @ images_OK).cpu().double())
    found: torch.Tensor = squares_K[-1].to(weight_OI)
    return found


def _basis(columns_IK: torch.Tensor) -> torch.Tensor:
    """Return an orthonormal basis of some columns; the factorisation is small, and on the CPU."""
    import torch

    basis_IK: torch.Tensor = torch.linalg.qr(columns_IK.cpu())[0].to(columns_IK)
    return basis_IK
