"""The hooks: one context manager that turns a forward pass into sums per row and sequence.

Inside it, the forward of every site adds Σ NFN, Σ of each further indicator and the number of
tokens of each sequence to a small buffer on its device (`sums.py`). No tensor that grows with
tokens × width is kept, and nothing is copied to the host before the end of the batch.

Shape letters: B batch, T token, N kept rows (B × T flattened), L layers, R buffer rows,
S routed pairs, E expert, I in, O out.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from plop_lora.errors import MeasurementError
from plop_lora.indicators import NFN, FeatureRows, NotComputableError
from plop_lora.indicators.expected_norms import expected_norm, row_norms
from plop_lora.models.devices import recorded_calls
from plop_lora.scoring.measurement.settings import NFN_ALONE, IndicatorSettings
from plop_lora.scoring.measurement.sums import (
    COUNTS,
    SUMS,
    BatchSums,
    Floats,
    Found,
    Layout,
    Routing,
)
from plop_lora.scoring.measurement.weights import Weights, WeightValues
from plop_lora.scoring.sites.find import NO_PRODUCT, NO_TOKENS, Site
from plop_lora.scoring.sites.fused import FusedPart
from plop_lora.scoring.sites.operators import Operator, confirmed, part_norms, part_rows
from plop_lora.scoring.sites.sharded import ShardedOperator

Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]
ExpectedNorm = float | list[float]
"""E||W u|| of a site, or of each of its experts, with all digits of float32."""


@dataclass
class Probe:
    """State that the hooks write to; `begin` and `finish` enclose one batch.

    Attributes:
        sites: The measured sites.
        indicators: The indicators to compute.
        known: Expected norms by the name of the site, as `expected_norms` returned them before.
        weights: Values of indicators of weights, to which new ones are added.
        encoder: Modules of the encoder of an encoder-decoder.
        window: Length to a multiple of which the model pads its inputs, or None.
        current: Sums that the hooks write to. An engine that interleaves several batches sets it
            whenever another batch runs.
    """

    sites: Sequence[Site]
    indicators: IndicatorSettings
    known: Mapping[str, ExpectedNorm] = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)
    encoder: frozenset[nn.Module] = frozenset()
    window: int | None = None
    current: BatchSums | None = None
    _expected_norms: dict[int, torch.Tensor] = field(default_factory=dict)
    _operators: dict[nn.Module, Operator | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Assign rows of the buffer to each site."""
        ends = itertools.accumulate((site.host.copies for site in self.sites), initial=0)
        self.starts = tuple(ends)
        self._features = self.indicators.features
        measures, seed = self.indicators.weights, self.indicators.seed
        self._weights = WeightValues(self.sites, measures, seed, self.weights)

    @property
    def in_step(self) -> bool:
        """Whether the weights are sharded over processes that all run the same batches."""
        return any(isinstance(site.operator, ShardedOperator) for site in self.sites)

    def rows_of(self, index: int) -> slice:
        """Return the rows of the buffer that belong to a site."""
        return slice(self.starts[index], self.starts[index + 1])

    def begin(self, layout: Layout) -> None:
        """Begin the sums of a batch of `layout.size` sequences."""
        self.current = BatchSums(layout, self.starts[-1], SUMS + len(self._features))

    def finish(self) -> Found:
        """End the current batch and copy its sums to the host, in one transfer per device.

        Raises:
            MeasurementError: A sum is NaN or infinite; the first site in forward order is named.
        """
        batch_sums, self.current = self.current, None
        assert batch_sums is not None
        added = np.zeros((batch_sums.layers, batch_sums.rows, batch_sums.layout.size))
        for buffer_LRB in batch_sums.buffers.values():
            added += buffer_LRB.cpu().double().numpy()
        sums = dict(zip(self._features, added[SUMS:], strict=True))
        for name, sums_RB in sums.items():
            site = self._first_broken(batch_sums, sums_RB)
            if site is not None:
                raise MeasurementError(_broken(site, name))
        nfn_RB, unassignable = sums.pop(NFN), frozenset(batch_sums.unassignable)
        found = batch_sums.left_out, batch_sums.without
        return Found(nfn_RB, added[COUNTS], sums, unassignable, *found)

    def _first_broken(self, batch_sums: BatchSums, sums_RB: Floats) -> str | None:
        """Return the name of the first site in forward order whose sums are not finite."""
        broken_R: NDArray[np.bool_] = np.logical_not(np.isfinite(sums_RB).all(axis=1))
        if not broken_R.any():
            return None
        first = next(index for index in batch_sums.order if broken_R[self.rows_of(index)].any())
        return self.sites[first].name

    def hook(self, indices: Sequence[int]) -> Hook:
        """Return the forward hook of a module that holds the sites at `indices`."""

        def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            batch_sums = self.current
            if batch_sums is None:
                return
            features = arguments[0] if arguments else None
            tokens_BT = None
            if isinstance(features, torch.Tensor):
                if not features.is_floating_point():
                    features = features.unsqueeze(-1)
                features, output = batch_sums.layout.batch_first(features, output)
                tokens_BT = batch_sums.layout.tokens_of(features, in_encoder=module in self.encoder)
            if features is None or tokens_BT is None:
                if batch_sums.layout.size == 1 and batch_sums.layout.text_only:
                    batch_sums.left_out.update(dict.fromkeys(indices, NO_TOKENS))
                else:
                    batch_sums.unassignable.update(indices)
                return
            self._add(indices, features, output, tokens_BT, in_encoder=module in self.encoder)

        return record

    def _add(
        self,
        indices: Sequence[int],
        features: torch.Tensor,
        output: Any,
        tokens_BT: torch.Tensor,
        *,
        in_encoder: bool,
    ) -> None:
        batch_sums = self.current
        assert batch_sums is not None
        operator = self._operator(indices[0], features, output)
        if operator is None:
            batch_sums.left_out.update(dict.fromkeys(indices, NO_PRODUCT))
            return
        rows_NO, bias_O = operator.product(features, output)
        inputs_N = batch_sums.input_norms(features)
        if isinstance(operator, ShardedOperator):
            inputs_N = operator.whole_norms(
                inputs_N, width=features.shape[-1], whole=operator.in_features
            )
        layers = batch_sums.on(rows_NO.device).unbind()
        # `!= 0` keeps NaN, which must be reported; a zero input has no direction and no NFN.
        seen_BT = tokens_BT & (inputs_N.view(tokens_BT.shape) != 0)
        for index in indices:
            compute = self._compute_expected_norm(index, operator, rows_NO)
            expected = self._expected_norm(index, rows_NO.device, compute)
            valid_BT = seen_BT & (expected != 0)
            norms_N, products = self._products(index, operator, rows_NO, bias_O)
            rows = FeatureRows(
                output_norms_N=norms_N,
                input_norms_N=inputs_N,
                expected_norm=expected,
                kept_N=valid_BT.flatten(),
                in_features=self.sites[index].host.in_features,
                out_features=self.sites[index].out_features,
                products=products,
                sequences=functools.partial(_sequences_of, valid_BT),
                grid=(valid_BT.shape[0], valid_BT.shape[1]),
                inputs=functools.partial(_inputs_of, operator, features),
                read=functools.partial(
                    _read_of, batch_sums.layout, features, in_encoder=in_encoder
                ),
            )
            row = self.starts[index]
            batch_sums.order.append(index)
            for layer, values_N in self._measured(index, rows):
                values_BT = values_N.view(valid_BT.shape)
                layers[layer][row] += torch.where(valid_BT, values_BT, 0.0).sum(dim=1)
            layers[COUNTS][row] += valid_BT.sum(dim=1)
            self._weights.add(index, functools.partial(operator.weight, self.sites[index].part))

    def _compute_expected_norm(
        self, index: int, operator: Operator, like: torch.Tensor
    ) -> Callable[[], torch.Tensor]:
        site, settings = self.sites[index], self.indicators
        return functools.partial(
            operator.expected_norm,
            site.part,
            like=like,
            denominator=settings.denominator,
            seed=_seed_of(site, settings.seed),
        )

    def _products(
        self, index: int, operator: Operator, rows_NO: torch.Tensor, bias_O: torch.Tensor | None
    ) -> tuple[torch.Tensor, Callable[[], torch.Tensor]]:
        """Return the norms of the products of a site, and a function that returns the products."""
        part = self.sites[index].part
        norms_N = part_norms(rows_NO, bias_O, part)
        if isinstance(operator, ShardedOperator):
            whole = operator.out_features
            norms_N = operator.whole_norms(norms_N, width=rows_NO.shape[1], whole=whole)
            return norms_N, _spread_rows
        return norms_N, functools.partial(part_rows, rows_NO, bias_O, part)

    def _measured(self, index: int, rows: FeatureRows) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the layer of the buffer and the values [N] of each indicator that has them."""
        assert self.current is not None
        for layer, (name, measure) in enumerate(self._features.items(), start=SUMS):
            try:
                values_N = measure.per_token(rows)
            except NotComputableError as reason:
                self.current.without.setdefault(name, {})[index] = str(reason)
            else:
                yield layer, values_N

    def _operator(self, index: int, features: torch.Tensor, output: object) -> Operator | None:
        """Return the operator of a site, decided by its first call; None if none is correct."""
        site = self.sites[index]
        if site.module not in self._operators:
            assert site.operator is not None
            self._operators[site.module] = confirmed(site.operator, features, output)
        return self._operators[site.module]

    def _expected_norm(
        self, index: int, device: torch.device, compute: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """Return the expected norm of a site or of each of its experts, computed only once."""
        if index not in self._expected_norms:
            known = self.known.get(self.sites[index].name)
            self._expected_norms[index] = (
                compute()
                if known is None
                else torch.tensor(known, dtype=torch.float32, device=device)
            )
        return self._expected_norms[index]

    def expected_norms(self) -> dict[str, ExpectedNorm]:
        """Return the expected norms that were used so far, by the name of the site."""
        return {
            self.sites[index].name: norm.tolist() for index, norm in self._expected_norms.items()
        }

    def weighed(self) -> Weights:
        """Return the values of the indicators of weights; see `WeightValues.result`."""
        return self._weights.result()

    def zeros(self) -> frozenset[int]:
        """Return the sites whose weight is all zero and therefore has no NFN."""
        return frozenset(
            i for i, norm in self._expected_norms.items() if not bool((norm != 0).any())
        )

    def ran(self) -> frozenset[int]:
        """Return the sites that a forward pass reached, with or without countable rows."""
        return frozenset(self._expected_norms)

    def routing(
        self, hidden_TH: torch.Tensor, experts_S: torch.Tensor, tokens_S: torch.Tensor
    ) -> Routing | None:
        """Return the routing of pairs of expert and token; tokens index the rows of `hidden_TH`."""
        mask_BT = None if self.current is None else self.current.layout.tokens_of(hidden_TH)
        return None if mask_BT is None else Routing(experts_S, tokens_S, mask_BT)

    def add_routed(
        self,
        indices: Sequence[int],
        weights_EOI: torch.Tensor,
        features_SI: torch.Tensor,
        products_SO: torch.Tensor,
        routing: Routing | None,
    ) -> None:
        """Record one projection of stacked experts.

        Args:
            indices: Indices of the sites that are this projection or parts of it.
            weights_EOI: Weights of the projection.
            features_SI: Inputs, one row for each routed pair.
            products_SO: Outputs without the bias.
            routing: Expert and token of each pair; None if the sequences are unknown.
        """
        batch_sums = self.current
        if batch_sums is None:
            return
        if routing is None:
            batch_sums.unassignable.update(indices)
            return
        inputs_S = row_norms(features_SI)
        valid_S = routing.valid_S & (inputs_S != 0)
        cells_S = routing.cells_S
        layers = batch_sums.on(products_SO.device).unbind()
        for index in indices:
            part = self.sites[index].part
            compute = functools.partial(self._expert_norms, weights_EOI, self.sites[index])
            expected_S = self._expected_norm(index, products_SO.device, compute)[routing.experts_S]
            kept_S = valid_S & (expected_S != 0)
            rows = FeatureRows(
                output_norms_N=part_norms(products_SO, None, part),
                input_norms_N=inputs_S,
                expected_norm=expected_S,
                kept_N=kept_S,
                in_features=self.sites[index].host.in_features,
                out_features=self.sites[index].out_features,
                products=functools.partial(part_rows, products_SO, None, part),
                sequences=functools.partial(getattr, routing, "sequences_S"),
                grid=None,
                inputs=features_SI.float,
                read=functools.partial(getattr, routing, "valid_S"),
            )
            own = self.rows_of(index)
            batch_sums.order.append(index)
            for layer, values_S in self._measured(index, rows):
                cells = layers[layer][own].view(-1)
                cells.index_add_(0, cells_S, torch.where(kept_S, values_S, 0.0))
            layers[COUNTS][own].view(-1).index_add_(0, cells_S, kept_S.float())
            self._weights.add(index, functools.partial(_sliced, weights_EOI, part))

    def _expert_norms(self, weights_EOI: torch.Tensor, site: Site) -> torch.Tensor:
        denominator, first = self.indicators.denominator, _seed_of(site, self.indicators.seed)
        norms = (
            expected_norm(weight_OI, denominator=denominator, seed=seed)
            for seed, weight_OI in enumerate(_sliced(weights_EOI, site.part), start=first)
        )
        return torch.stack(list(norms))


def _broken(site: str, indicator: str) -> str:
    """Return the message for an indicator of a site that is not finite."""
    if indicator == NFN:
        return (
            f"{site} produced NaN or infinity, so its score and those of all later modules would "
            "be meaningless. If the model runs in float16 or bfloat16, score it with "
            "--dtype float32; if that does not help, its weights are damaged."
        )
    return (
        f"The indicator {indicator!r} is NaN or infinity for {site}, whose features are finite. "
        f"Leave out --indicator {indicator}."
    )


def _seed_of(site: Site, seed: int) -> int:
    """Return the seed of the random draws for the weight of a site.

    The errors of the expected norms of a module type are then independent, so that they average
    out in the score of the type.
    """
    return zlib.crc32(f"{seed} {site.name}".encode())


def _sliced(weights_EOI: torch.Tensor, part: FusedPart | None) -> torch.Tensor:
    return weights_EOI if part is None else part.of_weight(weights_EOI)


def _sequences_of(kept_BT: torch.Tensor) -> torch.Tensor:
    """Return the number of the sequence of each row of a batch, [N]."""
    rows_B1 = torch.arange(len(kept_BT), device=kept_BT.device)[:, None]
    return rows_B1.expand_as(kept_BT).flatten()


def _spread_rows() -> torch.Tensor:
    """Refuse to return the rows of an output that is sharded over processes.

    Raises:
        NotComputableError: Always.
    """
    raise NotComputableError("a tensor-parallel plan shards it over processes")


def _inputs_of(operator: Operator, features: torch.Tensor) -> torch.Tensor:
    """Return the input rows [N, I] of a call in float32.

    Raises:
        NotComputableError: A process holds a part of them only, or they are token numbers.
    """
    if isinstance(operator, ShardedOperator):
        return _spread_rows()
    if not features.is_floating_point():
        raise NotComputableError("its inputs are token numbers")
    return features.reshape(-1, features.shape[-1]).float()


def _read_of(layout: Layout, features: torch.Tensor, *, in_encoder: bool) -> torch.Tensor:
    """Return whether each row of a call is a token that the model reads, [N]."""
    read_BT = layout.tokens_of(features, in_encoder=in_encoder, read=True)
    assert read_BT is not None  # as many rows as tokens that count
    return read_BT.flatten()


def _fits(site: Site, norm: ExpectedNorm | None) -> bool:
    """Return whether a cached norm has the form a site needs: a number, or one per expert."""
    if isinstance(norm, list):
        return site.host.is_parameter and len(norm) == site.host.copies
    return norm is not None and not site.host.is_parameter


@contextlib.contextmanager
def attach(
    sites: Sequence[Site],
    indicators: IndicatorSettings = NFN_ALONE,
    *,
    known: Mapping[str, ExpectedNorm] | None = None,
    weights: Weights | None = None,
    encoder: nn.Module | None = None,
    window: int | None = None,
) -> Iterator[Probe]:
    """Register the hooks of the sites inside the `with` block, and yield the probe they write to.

    The hooks are removed at the end, also after an exception.
    """
    inside = frozenset(encoder.modules()) if encoder is not None else frozenset()
    expected_norms = known or {}
    fitting = {
        s.name: expected_norms[s.name] for s in sites if _fits(s, expected_norms.get(s.name))
    }
    remembered = {} if weights is None else weights
    probe = Probe(sites, indicators, fitting, remembered, inside, window)
    members: dict[nn.Module, list[int]] = defaultdict(list)
    for index, site in enumerate(sites):
        if site.operator is not None:
            members[site.module].append(index)
    with contextlib.ExitStack() as stack:
        for module, indices in members.items():
            stack.enter_context(recorded_calls(module, probe.hook(indices)))
        yield probe
