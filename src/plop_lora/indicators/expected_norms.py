"""The formulas of the Normalized Feature Norm, on weights and on rows of features.

    NFN(W, z) = ||W z|| / (||z|| E||W u||),   u uniform on the unit sphere

With g Gaussian, E||W u|| = E||W g|| / E||g|| and E||W g|| = ||W||_F E sqrt(Q), where Q is the mean
of independent χ² variables of one degree of freedom, weighted by the squared singular values. The
expectation is an integral (`spectra.py`), and about 1 - Σσ⁴ / (4 (Σσ²)²) if the values are similar.

Source: PLoP, arXiv 2506.20629, section 3. The authors' code draws one Gaussian vector per token;
the integral needs none, and the two agree in narrow layers and in those of low effective rank.

Shape letters: N rows (tokens), I in, O out, K draws. All results are float32 on the device of
the input. Only `expected_norm` and `sum_of_fourth_powers` wait for the device, once for a weight.
"""

from __future__ import annotations

import math

import torch

from plop_lora.indicators.spectra import mean_gaussian_norm, mean_root, spectrum

METHOD = 2
"""Version of the method, increased when `expected_norm` may return another number."""
MONTE_CARLO_DRAWS = 4096
"""Number of directions over which `monte_carlo` averages."""
PROBED_DRAWS = 4096
"""Number of Gaussian rows on which a layer is called whose weight cannot be read."""
_PIECE_ROWS = 256
_PIECE_ELEMENTS = 2_000_000
_STREAM = 0x706C6F70


def row_norms(rows: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ||row - bias|| of each row, float32, shape [N].

    On a CPU torch reduces many rows of bf16 at once much more slowly than cache-sized pieces of
    them. A bias is subtracted in a small float32 buffer, because rounding the difference to bf16
    would show in the norm.

    Args:
        rows: Tensor [N, ...], which may be a strided view; all dimensions but the first form a row.
        bias: Bias to subtract from each row, of the shape of a row.
    """
    on_cpu = rows.device.type == "cpu"
    inner = tuple(range(1, rows.ndim))
    if bias is None and (rows.dtype == torch.float32 or not on_cpu):
        plain_N: torch.Tensor = torch.linalg.vector_norm(rows, dim=inner, dtype=torch.float32)
        return plain_N
    norms_N = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    if bias is None:
        step = max(1, _PIECE_ELEMENTS // max(1, rows[:1].numel()))
        for start in range(0, len(rows), step):
            piece, norms = rows[start : start + step], norms_N[start : start + step]
            torch.linalg.vector_norm(piece, dim=inner, dtype=torch.float32, out=norms)
        return norms_N
    step = _PIECE_ROWS if on_cpu else max(1, len(rows))
    shape = (min(step, len(rows)), *rows.shape[1:])
    buffer = torch.empty(shape, dtype=torch.float32, device=rows.device)
    shift = bias.float()
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        work = buffer[: len(piece)].copy_(piece).sub_(shift)
        torch.linalg.vector_norm(work, dim=inner, out=norms_N[start : start + len(piece)])
    return norms_N


def expected_norm(weight_OI: torch.Tensor, *, denominator: str, seed: int) -> torch.Tensor:
    """Return E||W u|| for u uniform on the unit sphere, a float32 scalar on the weight's device.

    It is 0 for a weight that is all zero.

    Args:
        weight_OI: Weight of any floating dtype.
        denominator: `analytic` (closed form) or `monte_carlo` (mean over random directions).
        seed: Seed of the random vectors. Weights of equal shape should have different seeds, so
            that their errors are independent.
    """
    if denominator == "monte_carlo":
        return _monte_carlo_norm(weight_OI, seed)
    square = float(frobenius_square(weight_OI))
    norm = 0.0 if square == 0 else math.nan
    if 0 < square < math.inf:
        root = mean_root(spectrum(weight_OI, square, seed))
        norm = math.sqrt(square) * root / mean_gaussian_norm(weight_OI.shape[1])
    return torch.tensor(norm, dtype=torch.float32, device=weight_OI.device)


def frobenius_square(weight_OI: torch.Tensor) -> torch.Tensor:
    """Return ||W||_F², a float32 scalar, summed row by row of the stored layout."""
    rows_RI = weight_OI if weight_OI.is_contiguous() else weight_OI.T
    return row_norms(rows_RI).square().sum()


def sum_of_fourth_powers(weight_OI: torch.Tensor, seed: int) -> torch.Tensor:
    """Return Σσ⁴ = ||WᵀW||_F², a float32 scalar: exact for narrow weights, else an estimate.

    It is 0 for a weight that is all zero.
    """
    square = float(frobenius_square(weight_OI))
    fourth = 0.0 if square == 0 else math.nan
    if 0 < square < math.inf:
        fourth = square**2 * spectrum(weight_OI, square, seed).sum_of_squares
    return torch.tensor(fourth, dtype=torch.float32, device=weight_OI.device)


def _monte_carlo_norm(weight_OI: torch.Tensor, seed: int) -> torch.Tensor:
    width = weight_OI.shape[1]
    total = torch.zeros((), dtype=torch.float32, device=weight_OI.device)
    for piece in range(0, MONTE_CARLO_DRAWS, _PIECE_ROWS):
        draws_IK = gaussian(width, _PIECE_ROWS, weight_OI, seed + piece).float()
        images_OK = weight_OI.float() @ draws_IK
        total += (images_OK.norm(dim=0) / draws_IK.norm(dim=0)).sum()
    return total / MONTE_CARLO_DRAWS


def gaussian(rows: int, columns: int, like: torch.Tensor, seed: int) -> torch.Tensor:
    """Return Gaussian numbers, drawn on the CPU so that they are the same for every device.

    The seed is offset from that of `torch.manual_seed(seed)`: a weight initialised under a small
    seed could otherwise equal its own probes.
    """
    generator = torch.Generator().manual_seed(seed + _STREAM)
    return torch.randn(rows, columns, generator=generator).to(like.device, like.dtype)
