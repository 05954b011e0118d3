"""The five ways in which an indicator is measured, and their inputs. Does not import torch.

While `score` runs the model, an indicator of features receives the rows of each call of a module,
and an indicator of weights receives each weight once. An indicator of records receives a record of
scores, and one of references a record that compares the user's texts with general text. An
indicator of models receives, from `verify`, the model to be trained and batches.

Shape letters: N rows (tokens), O out, I in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plop_lora.records import Host, Scores
from plop_lora.statistics import Estimate

if TYPE_CHECKING:
    import torch
    from torch import nn

Inputs = Mapping[str, Any]
"""Inputs of a model by keyword, with `labels`."""
IGNORED = -100
"""Label of a token that the loss ignores."""


class NotComputableError(Exception):
    """An indicator has no value for a site; the text says why, as in `it is singular`.

    The site then has no value of this indicator. Other sites and other indicators keep theirs.
    """


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """One call of a site: N rows of features z, and of their products W z.

    A row is a token, or a token at one of its experts. Values that are expensive to compute are
    functions, which only the indicators that need them call. They raise a NotComputableError where
    the site does not have them.

    Attributes:
        output_norms_N: ||W z|| of each row, without the bias, in float32.
        input_norms_N: ||z|| of each row, in float32.
        expected_norm: E||W u|| for u uniform on the unit sphere: one number, or one for each row
            if the rows belong to different experts.
        kept_N: Whether each row counts. The values of an indicator for other rows are ignored.
        in_features: Width of z.
        out_features: Width of W z.
        products: Function that returns W z without the bias, as a new float32 tensor [N, O].
        sequences: Function that returns the index of the sequence of each row in the batch, [N].
        grid: Numbers B and T if the rows are T places of B sequences, one sequence after the
            other; None if they are routed to experts.
        inputs: Function that returns z, as a float32 tensor [N, I] that must not be changed.
        read: Function that returns whether each row is a token that the model reads, [N]. These are
            the rows that may count, and the special tokens around a text.
    """

    output_norms_N: torch.Tensor
    input_norms_N: torch.Tensor
    expected_norm: torch.Tensor
    kept_N: torch.Tensor
    in_features: int
    out_features: int
    products: Callable[[], torch.Tensor]
    sequences: Callable[[], torch.Tensor]
    grid: tuple[int, int] | None
    inputs: Callable[[], torch.Tensor]
    read: Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class OfFeatures:
    """An indicator that `score` measures in the same forward pass as NFN, on the same tokens.

    Attributes:
        per_token: Function that returns one float32 number for each row, [N], on the device of
            the rows. A number that belongs to a sequence is repeated for each of its tokens. NaN
            or infinity in a row that counts raises an error. A NotComputableError leaves the site
            without a value.
    """

    per_token: Callable[[FeatureRows], torch.Tensor]


@dataclass(frozen=True, slots=True)
class OfWeights:
    """An indicator that `score` computes once for each weight, independent of the data.

    Attributes:
        per_weight: Function that returns one number for a weight [O, I] and the seed of the
            scoring. The value of a stack is the mean over its experts. A weight that cannot be
            read, such as a quantised one, has no value, nor has one for which the function raises
            a NotComputableError.
    """

    per_weight: Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True, slots=True)
class OfRecords:
    """An indicator that is computed from any record of scores, also of older releases.

    Attributes:
        per_site: Function that returns one number for each of `Scores.sites`, or None.
    """

    per_site: Callable[[Scores], Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class OfReferences:
    """An indicator that compares the user's texts with the general text of a record of scores.

    Attributes:
        estimate: Function that returns the estimate for some indices of `Scores.sites`, None if
            none of these sites has a value. It raises a UsageError if the record holds no general
            text.
    """

    estimate: Callable[[Scores, Sequence[int]], Estimate | None]


Select = Callable[["nn.Module", Sequence[Inputs], Sequence[Host], int], dict[str, float]]


@dataclass(frozen=True, slots=True)
class OfModels:
    """An indicator that `verify` measures on the model to be trained.

    Attributes:
        per_host: Function that returns a value by the name of the host, given the model, batches
            with labels, the hosts, and the mean LoRA rank. Hosts that it does not support are
            absent.
        takes_batches: Whether it uses the batches.
        are_ranks: Whether its values are LoRA ranks rather than an order.
    """

    per_host: Select
    takes_batches: bool = True
    are_ranks: bool = False


Measure = OfFeatures | OfWeights | OfRecords | OfReferences | OfModels
