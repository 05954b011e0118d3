"""Operators: one interface to the weight of a site for every kind of module.

An operator returns the product W z of its module, taken from the module's output if that is the
product, and the expected norm E||W u|| of the whole weight or of a part of it.

Covers `nn.Linear` and its subclasses, transformers' `Conv1D`, routers that own a plain weight,
embeddings, and quantised layers, which are only called. Experts are in `experts.py`, weights that
are sharded over processes in `sharded.py`.

Shape letters: N rows, O out, I in, K probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from plop_lora.indicators.expected_norms import PROBED_DRAWS, expected_norm, gaussian, row_norms
from plop_lora.models.devices import forward_attribute
from plop_lora.scoring.sites.fused import FusedPart
from plop_lora.scoring.sites.sharded import ShardedOperator, is_spread

_CONFIRMED_ROWS = 8
_TOLERANCE = 0.03
"""Difference, relative to the norm of a product, that rounding in half precision can explain."""
Product = tuple[torch.Tensor, torch.Tensor | None]
"""Rows [N, O] of a module's output, and the bias [O] that is still in them, or None."""


class Operator(Protocol):
    """The interface of the measurement to the module of a site."""

    @property
    def in_features(self) -> int:
        """Width of the features."""

    @property
    def out_features(self) -> int:
        """Number of rows of the weight."""

    def product(self, features: torch.Tensor, output: Any) -> Product:
        """Return W z of features [..., I], from the module's output if that is the product."""

    def weight(self, part: FusedPart | None) -> torch.Tensor | None:
        """Return a part of the weight as [O, I], or all of it; None if it cannot be read."""

    def expected_norm(
        self, part: FusedPart | None, *, like: torch.Tensor, denominator: str, seed: int
    ) -> torch.Tensor:
        """Return E||W u|| of a part of the weight, a float32 scalar on the device of `like`."""


@dataclass(frozen=True, slots=True)
class DenseOperator:
    """A module with a plain weight: `Linear`, `Conv1D` (stored transposed), or a router."""

    module: Any
    transposed: bool = False

    @property
    def in_features(self) -> int:
        """Width of the features."""
        return int(self.weight_OI().shape[1])

    @property
    def out_features(self) -> int:
        """Number of rows of the weight."""
        return int(self.weight_OI().shape[0])

    def weight_OI(self) -> torch.Tensor:
        """Return the weight as [out, in]."""
        weight: torch.Tensor = self.module.weight
        return weight.T if self.transposed else weight

    def product(self, features: torch.Tensor, output: object) -> Product:
        """Return the output with its bias; the product of a router is computed again.

        The output of a router is its selection of experts, not its product.
        """
        width = self.out_features
        shape = (*features.shape[:-1], width)
        if isinstance(output, torch.Tensor) and output.shape == shape:
            return output.reshape(-1, width), getattr(self.module, "bias", None)
        rows_NI = features.reshape(-1, features.shape[-1])
        return nn.functional.linear(rows_NI.to(self.weight_OI().dtype), self.weight_OI()), None

    def weight(self, part: FusedPart | None) -> torch.Tensor:
        """Return a part of the weight, or all of it."""
        return self.weight_OI() if part is None else part.of_weight(self.weight_OI())

    def expected_norm(
        self, part: FusedPart | None, *, like: torch.Tensor, denominator: str, seed: int
    ) -> torch.Tensor:
        """Return E||W u|| in closed form, or from draws with `denominator="monte_carlo"`."""
        return expected_norm(self.weight(part), denominator=denominator, seed=seed).to(like.device)


@dataclass(frozen=True, slots=True)
class EmbeddingOperator:
    """An embedding, as the matrix that maps a one-hot token to its row."""

    module: nn.Embedding

    @property
    def in_features(self) -> int:
        """Number of tokens."""
        return self.module.num_embeddings

    @property
    def out_features(self) -> int:
        """Width of a row."""
        return self.module.embedding_dim

    def product(self, features: torch.Tensor, output: object) -> Product:
        """Return rows of the weight, because subclasses may scale their output."""
        return self.module.weight[features.reshape(-1)], None

    def weight(self, part: FusedPart | None) -> torch.Tensor:
        """Return the weight as [width, tokens]; an embedding has no parts."""
        return self.module.weight.T

    def expected_norm(
        self, part: FusedPart | None, *, like: torch.Tensor, denominator: str, seed: int
    ) -> torch.Tensor:
        """Return E||W u|| of the weight as [width, tokens]."""
        return expected_norm(self.weight(part), denominator=denominator, seed=seed).to(like.device)


@dataclass(frozen=True, slots=True)
class OpaqueOperator:
    """A quantised layer, whose weight is never read; the layer is only called.

    Its bias is its output for a zero input, and its expected norm is the mean over Gaussian rows.
    If activations are quantised as well (FP8, W8A8), the expected norm includes their rounding.
    """

    module: Any

    @property
    def in_features(self) -> int:
        """Width of the features."""
        return int(self.module.in_features)

    @property
    def out_features(self) -> int:
        """Number of rows of the weight."""
        return int(self.module.out_features)

    def product(self, features: torch.Tensor, output: Any) -> Product:
        """Return the output, and as bias the output for a zero input."""
        zero_1I = torch.zeros(1, self.in_features, dtype=features.dtype, device=features.device)
        return output.reshape(-1, self.out_features), self._run(zero_1I)[0]

    def weight(self, part: FusedPart | None) -> None:
        """Return None: the stored tensor is not the matrix that the layer multiplies by."""

    def expected_norm(
        self, part: FusedPart | None, *, like: torch.Tensor, denominator: str, seed: int
    ) -> torch.Tensor:
        """Return the mean of ||W g|| / ||g|| over `PROBED_DRAWS` Gaussian rows."""
        draws_KI = gaussian(PROBED_DRAWS, self.in_features, like, seed)
        images_KO, bias_O = self.product(draws_KI, self._run(draws_KI))
        return (part_norms(images_KO, bias_O, part) / row_norms(draws_KI)).mean()

    def is_linear(self, rows_NI: torch.Tensor) -> bool:
        """Return whether doubling the input doubles the output without the bias."""
        once, twice = self.product(rows_NI, self._run(rows_NI)), self._run(rows_NI * 2)
        bias_O = once[1] if once[1] is not None else 0.0
        return _close((twice - bias_O).float(), 2 * (once[0] - bias_O).float())

    def _run(self, features: torch.Tensor) -> torch.Tensor:
        """Call the layer without its hooks."""
        product: torch.Tensor = getattr(self.module, forward_attribute(self.module))(features)
        return product


def confirmed(operator: Operator, features: torch.Tensor, output: object) -> Operator | None:
    """Return the operator of a module, given the features and the output of its first call.

    A layer that does more than multiply by its weight (BitNet scales its output) gets an
    `OpaqueOperator` if it is linear, and None if it is not.
    """
    if not isinstance(operator, DenseOperator):
        return operator
    module, width = operator.module, operator.out_features
    own = type(module).forward in (nn.Linear.forward, Conv1D.forward)
    if own and "forward" not in vars(module):
        return operator
    if features.shape[-1] != operator.in_features:
        return None
    if not isinstance(output, torch.Tensor) or output.shape != (*features.shape[:-1], width):
        return operator  # a router, whose product is computed from its weight
    few_NI = features.reshape(-1, features.shape[-1])[:_CONFIRMED_ROWS]
    rows_NO = output.reshape(-1, width)[:_CONFIRMED_ROWS].float()
    weight_OI, bias_O = operator.weight_OI(), getattr(module, "bias", None)
    product_NO = nn.functional.linear(few_NI.to(weight_OI.dtype), weight_OI).float()
    expected_NO = product_NO if bias_O is None else product_NO + bias_O.float()
    if _close(rows_NO, expected_NO):
        return operator
    declared = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if declared != (width, operator.in_features):
        return None
    opaque = OpaqueOperator(module)
    return opaque if opaque.is_linear(few_NI) else None


def _close(found_NO: torch.Tensor, expected_NO: torch.Tensor) -> bool:
    difference = torch.linalg.vector_norm(found_NO - expected_NO)
    return not bool(difference > _TOLERANCE * torch.linalg.vector_norm(expected_NO))


def part_norms(
    rows_NO: torch.Tensor, bias_O: torch.Tensor | None, part: FusedPart | None
) -> torch.Tensor:
    """Return the norm of each row, or of a part of it, without the bias; float32 [N]."""
    if part is None:
        return row_norms(rows_NO, bias_O)
    return row_norms(part.of_output(rows_NO), None if bias_O is None else part.of_output(bias_O))


def part_rows(
    rows_NO: torch.Tensor, bias_O: torch.Tensor | None, part: FusedPart | None
) -> torch.Tensor:
    """Return each row, or a part of it, without the bias; float32 [N, O]."""
    if part is not None:
        rows_NO = part.of_output(rows_NO).flatten(1)
        bias_O = None if bias_O is None else part.of_output(bias_O).flatten()
    return rows_NO.float() if bias_O is None else rows_NO.float() - bias_O.float()


def operator_of(module: nn.Module) -> Operator | None:
    """Return the operator of a module, or None if it cannot be measured.

    A layer whose weight is packed or is a tensor subclass gets an `OpaqueOperator`. A module that
    neither declares its widths nor holds a plain matrix called `weight` is not measured.
    """
    if isinstance(module, nn.Embedding):
        return EmbeddingOperator(module)
    if isinstance(module, nn.modules.conv._ConvNd):
        return None
    weight = getattr(module, "weight", None)
    if isinstance(module, Conv1D):
        return DenseOperator(module, transposed=True)
    declared = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if is_spread(weight) and weight.ndim == 2:
        return ShardedOperator(module)
    if weight is not None and _is_plain(weight) and declared in ((None, None), weight.shape):
        return DenseOperator(module)
    if all(isinstance(size, int) for size in declared) and not _wraps(module):
        return OpaqueOperator(module)
    return None


def _wraps(module: nn.Module) -> bool:
    """Return whether a layer wraps inner layers that are sites themselves."""
    return any(operator_of(inner) is not None for inner in module.modules() if inner is not module)


def _is_plain(weight: object) -> bool:
    return (
        isinstance(weight, torch.Tensor)
        and weight.ndim == 2
        and weight.is_floating_point()
        and weight.element_size() > 1
        and type(weight.data) is torch.Tensor
    )
