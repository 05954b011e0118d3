"""The four ways in which an indicator is measured, and what each of them is given. No torch.

An indicator of features is given the rows of one call of a module while `score` runs the model, an
indicator of weights each weight as soon as it has run, an indicator of records what every record
of scores holds. One of models is given the model as it will be trained, with batches, by `verify`.

Shape letters: N rows (tokens), O out, I in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plop_lora.records import Host, Scores

if TYPE_CHECKING:
    import torch
    from torch import nn

Inputs = Mapping[str, Any]
"""Inputs of a model by keyword, with `labels`."""
IGNORED = -100
"""The label of a token that the loss passes over."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """One call of a site: N rows of features z, and of their products W z.

    A row is a token, or a token at one of its experts. What would take time or memory is a
    function, so that an indicator which does not ask for it does not pay for it.

    Attributes:
        output_norms_N: ||W z|| of each row, without the bias, in float32.
        input_norms_N: ||z|| of each row, in float32.
        expected_norm: E||W u|| for u uniform on the unit sphere: one number, or one for each row
            where the rows belong to different experts.
        kept_N: which rows count. What an indicator returns for the others is passed over.
        in_features: Width of z.
        out_features: Width of W z.
        products: Returns W z without the bias as float32 [N, O], which is made anew.
        sequences: Returns the number of the sequence of each row in the batch, [N].
    """

    output_norms_N: torch.Tensor
    input_norms_N: torch.Tensor
    expected_norm: torch.Tensor
    kept_N: torch.Tensor
    in_features: int
    out_features: int
    products: Callable[[], torch.Tensor]
    sequences: Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class OfFeatures:
    """Measured by `score` in the same forward pass as NFN, on the same tokens.

    Attributes:
        per_token: Returns one float32 number for each row, [N], on the device of the rows. A
            number that belongs to a sequence is given to each of its tokens. NaN and infinity
            raise, but for rows that do not count.
    """

    per_token: Callable[[FeatureRows], torch.Tensor]


@dataclass(frozen=True, slots=True)
class OfWeights:
    """Measured by `score` once for each weight, and not read from data.

    Attributes:
        per_weight: Returns one number for a weight [O, I], given the seed of the scoring; it is
            called once for each expert of a stack, whose mean is the number of the site. A
            weight that cannot be read, as a quantised one, has no number.
    """

    per_weight: Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True, slots=True)
class OfRecords:
    """Follows from any record of scores, those of older releases included; nothing is measured.

    Attributes:
        per_site: Returns one number for each of `Scores.sites`.
    """

    per_site: Callable[[Scores], Sequence[float]]


Select = Callable[["nn.Module", Sequence[Inputs], Sequence[Host], int], dict[str, float]]


@dataclass(frozen=True, slots=True)
class OfModels:
    """Measured by `verify` on the model as it will be trained.

    Attributes:
        per_host: Returns a number by the name of a host, given the model, batches with labels,
            the hosts, and the mean LoRA rank. A host that it cannot see is absent.
        takes_batches: Whether it looks at the batches.
        are_ranks: Whether its numbers are LoRA ranks rather than an order.
    """

    per_host: Select
    takes_batches: bool = True
    are_ranks: bool = False


Measure = OfFeatures | OfWeights | OfRecords | OfModels
