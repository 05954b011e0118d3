"""The formulas of the Normalized Feature Norm, on weights and on rows of features.

    NFN(W, z) = ||W z|| / (||z|| E||W u||),   u uniform on the unit sphere

With X = d_in ||W u||² / ||W||_F², E||W u|| = ||W||_F / sqrt(d_in) · E sqrt(X), and
E sqrt(X) ≈ 1 - Var(X) / 8 with Var(X) = 2 d_in / (d_in + 2) · (Σσ⁴ / (Σσ²)² - 1 / d_in).

Source: PLoP, arXiv 2506.20629, section 3. The authors' code draws one Gaussian vector per token;
the closed form needs none, and its finite-width term makes the two agree in narrow layers.

Shape letters: N rows (tokens), I in, O out, K probes. All results are float32 on the device of
the input, and no function synchronises with the device.
"""

from __future__ import annotations

import functools

import torch

EXACT_WIDTH = 256
"""Σσ⁴ is computed exactly if the smaller side of the weight is at most this wide."""
PROBES = 32
"""Number of Gaussian vectors from which Σσ⁴ of a wider weight is estimated."""
MONTE_CARLO_DRAWS = 4096
"""Number of directions over which `monte_carlo` averages."""
PROBED_DRAWS = 4096
"""Number of Gaussian rows on which a layer is called whose weight cannot be read."""
_PIECE_ROWS = 256
_STREAM = 0x706C6F70


def row_norms(rows: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ||row - bias|| of each row, float32, shape [N].

    On a CPU torch reduces wide rows of bf16 about ten times slower than it copies a cache-sized
    piece into float32 and reduces there, so narrow dtypes go through a small buffer. A bias is
    subtracted in that buffer, because rounding the difference to bf16 would show in the norm.

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
    step = _PIECE_ROWS if on_cpu else max(1, len(rows))
    shape = (min(step, len(rows)), *rows.shape[1:])
    buffer = torch.empty(shape, dtype=torch.float32, device=rows.device)
    shift = None if bias is None else bias.float()
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        work = buffer[: len(piece)].copy_(piece)
        if shift is not None:
            work.sub_(shift)
        torch.linalg.vector_norm(work, dim=inner, out=norms_N[start : start + len(piece)])
    return norms_N


def expected_norm(weight_OI: torch.Tensor, *, denominator: str, seed: int) -> torch.Tensor:
    """Return E||W u|| for u uniform on the unit sphere, a float32 scalar on the weight's device.

    It is 0 for a weight that is all zero.

    Args:
        weight_OI: Weight of any floating dtype.
        denominator: `analytic` (closed form) or `monte_carlo` (mean over random directions).
        seed: Seed of the probes or directions, which are the same for all weights of a shape.
    """
    if denominator == "monte_carlo":
        return _monte_carlo_norm(weight_OI, seed)
    width = weight_OI.shape[1]
    square = frobenius_square(weight_OI)
    fourth = sum_of_fourth_powers(weight_OI, seed)
    variance = 2 * width / (width + 2) * (fourth / square**2 - 1 / width)
    norm = (square / width).sqrt() * (1 - variance.clamp(min=0) / 8)
    # The variance of a weight that is all zero would be 0 / 0.
    return torch.where(square == 0, square, norm)


def frobenius_square(weight_OI: torch.Tensor) -> torch.Tensor:
    """Return ||W||_F², a float32 scalar, summed row by row of the stored layout."""
    rows_RI = weight_OI if weight_OI.is_contiguous() else weight_OI.T
    return row_norms(rows_RI).square().sum()


def sum_of_fourth_powers(weight_OI: torch.Tensor, seed: int) -> torch.Tensor:
    """Return Σσ⁴ = ||WᵀW||_F², a float32 scalar.

    It is exact for narrow weights. For wide ones it is estimated by the mean of (gᵀ WᵀW h)² over
    all pairs of `PROBES` Gaussian vectors, which is unbiased and reads the weight once; the mean of
    ||WᵀW g||² would read it twice for an equal error. The relative error enters NFN multiplied by
    Σσ⁴ / (4 (Σσ²)²), about a thousandth if the singular values are similar.
    """
    out_features, in_features = weight_OI.shape
    if min(out_features, in_features) <= EXACT_WIDTH:
        weight = weight_OI.float()
        gram = weight @ weight.T if out_features <= in_features else weight.T @ weight
        return gram.square().sum()
    image_OK = (weight_OI @ _probes(in_features, seed).to(weight_OI)).float()
    squares_KK = (image_OK.T @ image_OK).square()
    return (squares_KK.sum() - squares_KK.trace()) / (PROBES * (PROBES - 1))


@functools.lru_cache(maxsize=8)
def _probes(width: int, seed: int) -> torch.Tensor:
    """Return the probes of a width, cached because the weights of a model have few widths."""
    with torch.inference_mode(False):
        return gaussian(width, PROBES, torch.empty(0), seed)


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
