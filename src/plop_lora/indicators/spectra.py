"""The squared singular values of a weight, exactly or from products with a few random vectors.

The mean norm of W g, g Gaussian, depends on them alone. Of a wide weight only their sum, the sum of
their squares and, where a few of them dominate, the leading ones are needed.

Does not know of features, sites or hooks. Shape letters: I in, O out, K vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

EXACT_WIDTH = 256
"""Singular values are computed exactly if the smaller side of a weight is at most this wide."""
PROBES = 32
"""Number of random vectors with which a wider weight is multiplied at a time."""
STANDARD_ERROR = 1e-4
"""Relative standard error of E||W u|| above which the leading singular values are computed."""
_STREAM = 0x706C6F70
_NODES = torch.arange(-18.0, 21.0, dtype=torch.float64).exp()
"""Points of the integral in `mean_root`, one unit of log t apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The squared singular values of a weight, divided by their sum.

    Attributes:
        leading_K: The largest ones, float64 on the CPU; they may be none or all.
        rest: Sum of the others.
        rest_squares: Sum of the squares of the others.
    """

    leading_K: torch.Tensor
    rest: float = 0.0
    rest_squares: float = 0.0

    @property
    def sum_of_squares(self) -> float:
        """Σσ⁴ / (Σσ²)²."""
        return float(self.leading_K.square().sum()) + self.rest_squares


def spectrum(weight_OI: torch.Tensor, square: float, seed: int) -> Spectrum:
    """Return the squared singular values of a weight.

    The matrix S of `PROBES` random signs is multiplied by W. For all pairs of columns, the squares
    of the products (W s)ᵀ(W s') have the mean Σσ⁴, and their spread gives the standard error of
    that estimate. If the error would show in E||W u||, because a few singular values dominate, the
    leading ones are computed in the subspace of WᵀW S, and Σσ⁴ of the others is estimated anew.

    Args:
        weight_OI: Weight of any floating dtype, finite and not all zero.
        square: ||W||_F².
        seed: Seed of the random signs.

    Source: subspace iteration and deflated trace estimation as in Halko, Martinsson, Tropp,
    arXiv 0909.4061, and Meyer, Musco, Musco, Woodruff, "Hutch++", arXiv 2010.09649.
    """
    if min(weight_OI.shape) <= EXACT_WIDTH:
        return _exact(weight_OI)
    rng = np.random.default_rng([seed % 2**64, _STREAM])
    images_OK = weight_OI @ _signs(weight_OI.shape[1], weight_OI, rng)
    squares, error = _sum_of_squares(images_OK, square)
    if error / 4 > STANDARD_ERROR:
        return _deflated(weight_OI, images_OK, square, rng)
    return Spectrum(torch.zeros(0, dtype=torch.float64), 1.0, _possible(squares, 1.0, weight_OI))


def mean_root(found: Spectrum) -> float:
    """Return E sqrt(Q) for Q = Σ λ g², λ the values of a spectrum and g independent Gaussians.

    E sqrt(Q) = 1 / (2 sqrt(pi)) ∫ (1 - L(t)) t^(-3/2) dt with the Laplace transform
    L(t) = Π (1 + 2 λ t)^(-1/2). The values that are not known one by one are taken as equal, as
    many as agree with their sum and the sum of their squares.

    The integral is a sum over log t. Its terms beyond both ends form geometric series, because
    1 - L(t) is t for small t and 1 for large t.
    """
    logarithms = torch.log1p(2 * _NODES[:, None] * found.leading_K).sum(dim=1)
    if found.rest > 0 and found.rest_squares > 0:
        equal = found.rest_squares / found.rest
        logarithms += found.rest / equal * torch.log1p(2 * _NODES * equal)
    terms = -torch.expm1(-logarithms / 2) / _NODES.sqrt()
    beyond = 1 / math.expm1(0.5)
    outside = beyond * (_NODES[0].sqrt() + 1 / _NODES[-1].sqrt())
    return float(terms.sum() + outside) / (2 * math.sqrt(math.pi))


def mean_gaussian_norm(width: int) -> float:
    """Return E||g|| of a standard Gaussian vector."""
    return math.sqrt(2) * math.exp(math.lgamma((width + 1) / 2) - math.lgamma(width / 2))


def _exact(weight_OI: torch.Tensor) -> Spectrum:
    weight = weight_OI.float()
    gram = weight @ weight.T if len(weight) <= weight.shape[1] else weight.T @ weight
    values_K = torch.linalg.eigvalsh(gram.cpu().double()).clamp(min=0)
    return Spectrum(values_K / values_K.sum())


def _deflated(
    weight_OI: torch.Tensor, images_OK: torch.Tensor, square: float, rng: np.random.Generator
) -> Spectrum:
    """Return the leading values in the subspace of Wᵀ times the images, and the sums of the rest.

    With V an orthonormal basis of the subspace and G = WᵀW, Σσ⁴ = ||G||_F² has the parts ||VᵀGV||²,
    which the leading values give, and, outside the subspace, twice that of GV and that of G.
    The latter two are estimated with random signs from which the subspace is projected out.
    """
    reached_IK = (weight_OI.T @ images_OK).float()
    # The factorisation is missing on some devices, and small.
    basis_IK = torch.linalg.qr(reached_IK.cpu())[0].to(reached_IK.device)
    tests_IK = _signs(len(basis_IK), basis_IK, rng)
    tests_IK = tests_IK - basis_IK @ (basis_IK.T @ tests_IK)
    both = torch.cat([basis_IK, tests_IK], dim=1).to(weight_OI.dtype)
    images = (weight_OI @ both).float()
    inside_OK, outside_OK = images[:, :PROBES], images[:, PROBES:]
    leading_K = torch.linalg.eigvalsh((inside_OK.T @ inside_OK).cpu().double() / square)
    leading_K = leading_K.clamp(min=0)
    crossing = (inside_OK.T @ outside_OK).cpu().double().square().sum() / square**2
    squares, _ = _sum_of_squares(outside_OK, square)
    squares += 2 * float(crossing) / outside_OK.shape[1]
    rest = max(0.0, 1 - float(leading_K.sum()))
    return Spectrum(leading_K, rest, _possible(squares, rest, weight_OI))


def _sum_of_squares(images_OK: torch.Tensor, square: float) -> tuple[float, float]:
    """Return the unbiased estimate of Σσ⁴ / (Σσ²)² from images of random vectors, and its error.

    It is a U-statistic; its standard error follows from the spread of the means over the pairs
    that each vector is in.
    """
    images_OK = images_OK.float()
    count = images_OK.shape[1]
    squares_KK = ((images_OK.T @ images_OK).cpu().double() / square).square().fill_diagonal_(0)
    means_K = squares_KK.sum(dim=1) / (count - 1)
    return float(means_K.mean()), 2 * float(means_K.std()) / math.sqrt(count)


def _possible(squares: float, total: float, weight_OI: torch.Tensor) -> float:
    """Return a sum of squares within the limits that the number and sum of the values set."""
    return min(max(squares, total**2 / min(weight_OI.shape)), total**2)


def _signs(width: int, like: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return random signs [width, PROBES], drawn on the CPU so that every device has the same.

    A random byte gives eight of them, which makes them much cheaper than Gaussian numbers.
    """
    packed = rng.integers(0, 256, (width, PROBES // 8), dtype=np.uint8)
    bits = torch.from_numpy(np.unpackbits(packed, axis=1).view(np.int8))
    return (2 * bits - 1).to(like.device).to(like.dtype)
