"""Run stacked experts so that both of their matrix products can be measured for each expert.

A hook on the module receives its inputs but none of the intermediate products. Inside the context
manager, transformers' experts interface therefore dispatches to a function of this file, which
computes the same products in the same order as the grouped implementation and passes their rows to
the probe. The class of Llama 4 is outside the interface, so its forward is replaced.

Shape letters: T token, H width, S routed pairs (a token once for each of its experts), K experts
per token, E expert, I in, O out.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _grouped_linear

from plop_lora.models.devices import replaced_forward
from plop_lora.scoring.measurement.hooks import Probe
from plop_lora.scoring.measurement.sums import Routing
from plop_lora.scoring.sites.find import Site
from plop_lora.scoring.sites.stacked_experts import ExpertStack, stack_of

_BLOCKS = itertools.count()
"""Numbers for the names of the registered functions, so that measurements may be nested."""


@dataclass(frozen=True, slots=True, eq=False)
class _Recorder:
    """The sites of one stack of experts by parameter, and the probe that records their rows."""

    stack: ExpertStack
    sites: dict[str, list[int]]
    probe: Probe

    def add(
        self,
        leaf: str,
        features_SI: torch.Tensor,
        products_SO: torch.Tensor,
        routing: Routing | None,
    ) -> None:
        """Record the products of one projection, to which no bias has been added yet."""
        weights_EOI = self.stack.weights_EOI(leaf)
        indices = self.sites.get(leaf, [])
        self.probe.add_routed(indices, weights_EOI, features_SI, products_SO, routing)


@contextlib.contextmanager
def experts_measured(sites: Sequence[Site], probe: Probe) -> Iterator[None]:
    """Replace the forward of every stack of experts among the sites inside the `with` block."""
    recorders = _recorders(sites, probe)
    plain = {m: r for m, r in recorders.items() if not hasattr(m, "_apply_gate")}
    configs = {id(m.config): m.config for m in recorders if m not in plain}

    def forward(
        module: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
    ) -> Any:
        return _grouped(module, recorders.get(module), hidden, index, weights)

    name = f"plop_lora_measured_{next(_BLOCKS)}"
    before = {key: config._experts_implementation for key, config in configs.items()}
    ALL_EXPERTS_FUNCTIONS[name] = forward
    try:
        for config in configs.values():
            config._experts_implementation = name
        with contextlib.ExitStack() as stack:
            for module, recorder in plain.items():
                stack.enter_context(replaced_forward(module, _unrouted(module, recorder)))
            yield
    finally:
        for key, config in configs.items():
            config._experts_implementation = before[key]
        del ALL_EXPERTS_FUNCTIONS[name]


def _recorders(sites: Sequence[Site], probe: Probe) -> dict[Any, _Recorder]:
    grouped: dict[nn.Module, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, site in enumerate(sites):
        if site.operator is None:
            grouped[site.module][site.host.name.rpartition(".")[2]].append(index)
    recorders = {}
    for module, by_leaf in grouped.items():
        stack = stack_of(module)
        assert stack is not None
        recorders[module] = _Recorder(stack, by_leaf, probe)
    return recorders


def _grouped(
    module: Any,
    recorder: _Recorder | None,
    hidden_TH: torch.Tensor,
    index_TK: torch.Tensor,
    weights_TK: torch.Tensor,
) -> torch.Tensor:
    """Apply the experts to their tokens, sorted by expert, as the grouped implementation does."""
    choices = index_TK.shape[-1]
    experts_S, order_S = torch.sort(index_TK.reshape(-1))
    tokens_S = order_S // choices
    bins = torch.arange(module.num_experts, device=experts_S.device)
    ends_E = torch.searchsorted(experts_S, bins, right=True).to(torch.int32)
    routing = recorder.probe.routing(hidden_TH, experts_S, tokens_S) if recorder else None
    first, second = ("gate_up_proj" if module.has_gate else "up_proj"), "down_proj"

    def product(leaf: str, rows_SI: torch.Tensor) -> torch.Tensor:
        rows_SO: torch.Tensor = _grouped_linear(
            rows_SI, getattr(module, leaf), offs=ends_E, is_transposed=module.is_transposed
        )
        if recorder is not None:
            recorder.add(leaf, rows_SI, rows_SO, routing)
        if module.has_bias:
            rows_SO.add_(getattr(module, f"{leaf}_bias")[experts_S])
        return rows_SO

    rows_SO = product(first, hidden_TH[tokens_S])
    rows_SI = module._apply_gate(rows_SO) if module.has_gate else module.act_fn(rows_SO)
    rows_SH = product(second, rows_SI)
    if getattr(module, "has_post_expert_norm", False):  # transformers before 5.23 has none
        rows_SH = module.post_expert_norm(rows_SH)
    rows_SH = rows_SH * weights_TK.reshape(-1)[order_S, None]
    back_S = torch.empty_like(order_S)
    back_S[order_S] = torch.arange(len(order_S), device=order_S.device)
    mixed_TH: torch.Tensor = rows_SH[back_S].view(len(hidden_TH), choices, -1).sum(dim=1)
    return mixed_TH.to(hidden_TH.dtype)


def _unrouted(module: Any, recorder: _Recorder) -> Any:
    """Return the forward of Llama 4's experts with both products recorded.

    Every expert receives every token there. Tokens that are not routed to it are zero rows, which
    the probe does not count.
    """

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        stacked = hidden_states.view(module.gate_up_proj.shape[0], -1, module.hidden_size)
        experts, tokens = stacked.shape[:2]
        experts_S = torch.arange(experts, device=stacked.device).repeat_interleave(tokens)
        tokens_S = torch.arange(tokens, device=stacked.device).repeat(experts)
        routing = recorder.probe.routing(stacked[0], experts_S, tokens_S)
        gate_up = torch.bmm(stacked, module.gate_up_proj)
        recorder.add("gate_up_proj", stacked.flatten(0, 1), gate_up.flatten(0, 1), routing)
        gate, up = gate_up.chunk(2, dim=-1)
        inner = up * module.act_fn(gate)
        output = torch.bmm(inner, module.down_proj)
        recorder.add("down_proj", inner.flatten(0, 1), output.flatten(0, 1), routing)
        return output.view(-1, module.hidden_size)

    return forward
