"""The hooks: one context manager that turns a forward pass into sums per row and sequence.

While it is open, every site's forward leaves Σ NFN and the number of tokens of each sequence in a
small buffer on its device. A site has one row of the buffer, a site of stacked experts one per
expert. Nothing that grows with tokens × width is kept, and nothing is copied to the host until
the batch is over.

Shape letters: B batch, T token, N kept rows (B × T flattened), R buffer rows, S routed pairs,
E expert, I in, O out.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from plop_lora.errors import MeasurementError
from plop_lora.scoring.devices import sent, watched
from plop_lora.scoring.nfn import expected_gain, row_norms
from plop_lora.scoring.operators import Operator, confirmed, part_norms
from plop_lora.scoring.sharded import ShardedOperator
from plop_lora.scoring.sites import NO_PRODUCT, NO_TOKENS, Site
from plop_lora.scoring.slices import Part

Floats = NDArray[np.float64]
Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]
Gain = float | list[float]
"""E||W u|| of a site, or of each of its experts; a float32 number, kept to its last digit."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How the rows that reach a module belong to the B sequences of a batch.

    `masks` holds the attention masks of the batch ([B, T] bool), of which there are two of
    different width in an encoder-decoder. The encoder sees those in `encoder_masks` only: where it
    shortens its input, its rows can be as many as the decoder's tokens. A decoder sees both, since
    its cross-attention reads what the encoder made.

    `text_only` says that the model gets nothing but tokens: rows that are not theirs (padding to
    a window, prompts, summaries, tables of positions) are then the model's own and count nowhere.
    """

    size: int
    masks: tuple[torch.Tensor, ...]
    encoder_masks: tuple[torch.Tensor, ...] = ()
    text_only: bool = False

    def batch_first(self, features: torch.Tensor, output: Any) -> tuple[torch.Tensor, Any]:
        """Return features and output as [B, T, ...], also where a module runs time first."""
        shapes = {tuple(mask_BT.shape) for mask_BT in self.masks}
        leading = tuple(features.shape[:2])
        if features.ndim < 3 or leading in shapes or leading[::-1] not in shapes:
            return features, output
        if isinstance(output, torch.Tensor) and tuple(output.shape[:2]) == leading:
            output = output.transpose(0, 1)
        return features.transpose(0, 1), output

    def tokens_of(self, features: torch.Tensor, *, in_encoder: bool = False) -> torch.Tensor | None:
        """Return which rows of [..., I] count, as [B, T] bool, or None if nobody can tell."""
        rows = features.numel() // features.shape[-1]
        for mask_BT in self.encoder_masks if in_encoder else self.masks:
            if rows == mask_BT.numel():
                return sent(mask_BT, features.device)
        whole = features.ndim >= 3 and features.shape[0] == self.size
        alone = self.size == 1 or rows == self.size
        if self.text_only and self.masks and rows != self.size:
            # Rows of a text alone, as a router hands them out; more rows are the model's own.
            routed = features.ndim == 2 and rows < max(map(torch.Tensor.numel, self.masks))
            whole, alone = False, self.size == 1 and routed
        if whole or alone or (not self.masks and rows % self.size == 0):
            shape = (self.size, rows // self.size)
            return torch.ones(shape, dtype=torch.bool, device=features.device)
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """The expert and the token of each routed pair; tokens count the rows of `mask_BT`."""

    experts_S: torch.Tensor
    tokens_S: torch.Tensor
    mask_BT: torch.Tensor

    @property
    def valid_S(self) -> torch.Tensor:
        """Whether the token of a pair counts."""
        return self.mask_BT.reshape(-1)[self.tokens_S]

    @property
    def cells_S(self) -> torch.Tensor:
        """The place of each pair in a buffer [expert, sequence], flattened."""
        return self.experts_S * len(self.mask_BT) + self.tokens_S // self.mask_BT.shape[1]


@dataclass(slots=True, eq=False)
class Tally:
    """What an open batch has added up to: sums and counts on each device, as one tensor [2, R, B].

    `order` lists the sites as they ran, `unassignable` those whose rows nobody can tell apart,
    `left_out` those with a call that counts nowhere, with the reason, and `last` the newest input
    with its row norms.
    """

    layout: Layout
    rows: int
    buffers: dict[torch.device, torch.Tensor] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    unassignable: set[int] = field(default_factory=set)
    left_out: dict[int, str] = field(default_factory=dict)
    last: tuple[weakref.ref[torch.Tensor], torch.Tensor] | None = None

    def on(self, device: torch.device) -> torch.Tensor:
        """Return the sums and counts of a device."""
        if device not in self.buffers:
            shape = (2, self.rows, self.layout.size)
            self.buffers[device] = torch.zeros(shape, dtype=torch.float32, device=device)
        return self.buffers[device]

    def input_norms(self, features: torch.Tensor) -> torch.Tensor:
        """Return the row norms of an input, once for the modules that share the tensor.

        Token numbers stand for one-hot features, of norm 1. Only a weak reference is kept: the
        probe must not prolong the life of an activation.
        """
        if not features.is_floating_point():
            return torch.ones(features.numel(), device=features.device)
        if self.last is not None and self.last[0]() is features:
            return self.last[1]
        norms_N = row_norms(features.reshape(-1, features.shape[-1]))
        self.last = (weakref.ref(features), norms_N)
        return norms_N


@dataclass
class Probe:
    """What the hooks write to; `begin` and `finish` frame one batch.

    The hooks write to the tally in `current`. An engine that has several batches under way
    changes it whenever another batch takes its turn.
    `known` holds gains by the name of their site, as `gains` returned them another time, and
    `encoder` the modules of the encoder of an encoder-decoder, and `window` the length to whose
    multiples the model pads its inputs.
    """

    sites: Sequence[Site]
    baseline: str
    seed: int
    known: Mapping[str, Gain] = field(default_factory=dict)
    encoder: frozenset[nn.Module] = frozenset()
    window: int | None = None
    current: Tally | None = None
    _gains: dict[int, torch.Tensor] = field(default_factory=dict)
    _operators: dict[nn.Module, Operator | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Give each site its rows of the buffer."""
        ends = itertools.accumulate((site.host.copies for site in self.sites), initial=0)
        self.starts = tuple(ends)

    @property
    def in_step(self) -> bool:
        """Whether other processes hold parts of the same weights and run the same batches."""
        return any(isinstance(site.operator, ShardedOperator) for site in self.sites)

    def rows_of(self, index: int) -> slice:
        """Return the rows of the buffer that belong to a site."""
        return slice(self.starts[index], self.starts[index + 1])

    def begin(self, layout: Layout) -> None:
        """Open a tally for a batch of `layout.size` sequences."""
        self.current = Tally(layout, self.starts[-1])

    def finish(self) -> tuple[Floats, Floats, frozenset[int], dict[int, str]]:
        """Close the current tally.

        Returns:
            Its sums and counts, both [R, B], moved to the host in one transfer a device, and the
            sites whose rows could not be assigned to sequences, and those with a call that was
            left out, with the reason.

        Raises:
            MeasurementError: a site saw NaN or infinity; the first in forward order is named.
        """
        tally, self.current = self.current, None
        assert tally is not None
        both = np.zeros((2, tally.rows, tally.layout.size))
        for buffer_2RB in tally.buffers.values():
            both += buffer_2RB.cpu().double().numpy()
        broken = ~np.isfinite(both[0]).all(axis=1)
        if broken.any():
            first = next(index for index in tally.order if broken[self.rows_of(index)].any())
            raise MeasurementError(
                f"{self.sites[first].name} produced NaN or infinity, so nothing after it means "
                "anything. If the model runs in float16 or bfloat16, score it with "
                "--dtype float32; if that does not help, its weights are damaged."
            )
        return both[0], both[1], frozenset(tally.unassignable), tally.left_out

    def hook(self, indices: Sequence[int]) -> Hook:
        """Return the forward hook of a module that holds the sites at `indices`."""

        def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            tally = self.current
            if tally is None:
                return
            features = arguments[0] if arguments else None
            tokens_BT = None
            if isinstance(features, torch.Tensor):
                if not features.is_floating_point():
                    features = features.unsqueeze(-1)
                features, output = tally.layout.batch_first(features, output)
                tokens_BT = tally.layout.tokens_of(features, in_encoder=module in self.encoder)
            if features is None or tokens_BT is None:
                if tally.layout.size == 1 and tally.layout.text_only:
                    tally.left_out.update(dict.fromkeys(indices, NO_TOKENS))
                else:
                    tally.unassignable.update(indices)
                return
            self._add(tally, indices, features, output, tokens_BT)

        return record

    def _add(
        self,
        tally: Tally,
        indices: Sequence[int],
        features: torch.Tensor,
        output: Any,
        tokens_BT: torch.Tensor,
    ) -> None:
        operator = self._operator(indices[0], features, output)
        if operator is None:
            tally.left_out.update(dict.fromkeys(indices, NO_PRODUCT))
            return
        rows_NO, bias_O = operator.product(features, output)
        inputs_N = tally.input_norms(features)
        if isinstance(operator, ShardedOperator):
            inputs_N = operator.whole_norms(
                inputs_N, width=features.shape[-1], whole=operator.in_features
            )
        sums_RB, counts_RB = tally.on(rows_NO.device)
        # `!= 0` keeps NaN, which must be seen; a zero input has no direction and no NFN.
        seen_BT = tokens_BT & (inputs_N.view(tokens_BT.shape) != 0)
        for index in indices:
            part = self.sites[index].part
            compute = functools.partial(
                operator.gain, part, like=rows_NO, baseline=self.baseline, seed=self.seed
            )
            gain = self._gain(index, rows_NO.device, compute)
            norms_N = part_norms(rows_NO, bias_O, part)
            if isinstance(operator, ShardedOperator):
                norms_N = operator.whole_norms(
                    norms_N, width=rows_NO.shape[1], whole=operator.out_features
                )
            ratios_BT = (norms_N / (inputs_N * gain)).view(tokens_BT.shape)
            row = self.starts[index]
            tally.order.append(index)
            valid_BT = seen_BT & (gain != 0)
            sums_RB[row] += torch.where(valid_BT, ratios_BT, 0.0).sum(dim=1)
            counts_RB[row] += valid_BT.sum(dim=1)

    def _operator(self, index: int, features: torch.Tensor, output: Any) -> Operator | None:
        """Return how to read a site, decided by its first call; None where nothing reads it."""
        site = self.sites[index]
        if site.module not in self._operators:
            assert site.operator is not None
            self._operators[site.module] = confirmed(site.operator, features, output)
        return self._operators[site.module]

    def _gain(
        self, index: int, device: torch.device, compute: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """Return the gain of a site, or of each of its experts: known, or computed once."""
        if index not in self._gains:
            known = self.known.get(self.sites[index].name)
            self._gains[index] = (
                compute()
                if known is None
                else torch.tensor(known, dtype=torch.float32, device=device)
            )
        return self._gains[index]

    def gains(self) -> dict[str, Gain]:
        """Return every gain that was needed so far, by the name of its site."""
        return {self.sites[index].name: gain.tolist() for index, gain in self._gains.items()}

    def zeros(self) -> frozenset[int]:
        """Return the sites whose weight is all zero: it has no direction that it could prefer."""
        return frozenset(i for i, gain in self._gains.items() if not bool((gain != 0).any()))

    def ran(self) -> frozenset[int]:
        """Return the sites that a forward pass came to, whatever it brought them."""
        return frozenset(self._gains)

    def routing(
        self, hidden_TH: torch.Tensor, experts_S: torch.Tensor, tokens_S: torch.Tensor
    ) -> Routing | None:
        """Return where routed pairs go: token numbers count the rows of `hidden_TH`."""
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
            indices: the sites that are this projection or parts of it.
            weights_EOI: its weights.
            features_SI: what went in, one row for each routed pair.
            products_SO: what came out, without a bias.
            routing: expert and token of each pair; None where nobody can tell the sequence.
        """
        tally = self.current
        if tally is None:
            return
        if routing is None:
            tally.unassignable.update(indices)
            return
        inputs_S = row_norms(features_SI)
        valid_S = routing.valid_S & (inputs_S != 0)
        cells_S = routing.cells_S
        sums_RB, counts_RB = tally.on(products_SO.device)
        for index in indices:
            part = self.sites[index].part
            compute = functools.partial(self._expert_gains, weights_EOI, part)
            gains_S = self._gain(index, products_SO.device, compute)[routing.experts_S]
            ratios_S = part_norms(products_SO, None, part) / (inputs_S * gains_S)
            rows = self.rows_of(index)
            tally.order.append(index)
            kept_S = valid_S & (gains_S != 0)
            sums_RB[rows].view(-1).index_add_(0, cells_S, torch.where(kept_S, ratios_S, 0.0))
            counts_RB[rows].view(-1).index_add_(0, cells_S, kept_S.float())

    def _expert_gains(self, weights_EOI: torch.Tensor, part: Part | None) -> torch.Tensor:
        sliced = weights_EOI if part is None else part.of_weight(weights_EOI)
        gains = [expected_gain(w, baseline=self.baseline, seed=self.seed) for w in sliced]
        return torch.stack(gains)


def _fits(site: Site, gain: Gain | None) -> bool:
    """Whether a known gain is one that a site can have: a number, or one for each expert."""
    if isinstance(gain, list):
        return site.host.is_parameter and len(gain) == site.host.copies
    return gain is not None and not site.host.is_parameter


@contextlib.contextmanager
def attach(
    sites: Sequence[Site],
    *,
    baseline: str,
    seed: int,
    known: Mapping[str, Gain] | None = None,
    encoder: nn.Module | None = None,
    window: int | None = None,
) -> Iterator[Probe]:
    """Watch the sites for the length of the block; the hooks go whatever happens inside."""
    inside = frozenset(encoder.modules()) if encoder is not None else frozenset()
    gains = known or {}
    fitting = {s.name: gains[s.name] for s in sites if _fits(s, gains.get(s.name))}
    probe = Probe(sites, baseline, seed, fitting, inside, window)
    members: dict[nn.Module, list[int]] = defaultdict(list)
    for index, site in enumerate(sites):
        if site.operator is not None:
            members[site.module].append(index)
    with contextlib.ExitStack() as stack:
        for module, indices in members.items():
            stack.enter_context(watched(module, probe.hook(indices)))
        yield probe
