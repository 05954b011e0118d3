"""How the servers' loaders stack projections, and what falls out of a stack. Pure.

A server computes q, k and v as one matrix, gate and up as another, and stacks their adapters when
it loads them. What it does where one of them has no adapter differs by server, and is here as data.

| SGLang 0.5.10 on, adapted in a block | what its loader makes of it                              |
|--------------------------------------|----------------------------------------------------------|
| q and v, with k or without           | served; a missing k is zero                              |
| q without v                          | the adapter does not load (KeyError)                     |
| k or v without q                     | no layer takes them: the first request fails             |
| gate, with up or without             | served; a missing up is zero                             |
| up without gate                      | no layer takes it: the first request fails               |
| q_a and kv_a_proj_with_mqa           | served                                                   |
| one of these two                     | of another shape than the buffer, or without a layer     |
| in_proj_qkvz, in_proj, out_proj      | served where the model's class gives their sizes         |
| in_proj_qkv, _z, _a, _b, _ba         | no buffer of this name: the server does not start        |
| o, out, down, qkv_proj, gate_up_proj | served                                                   |
| a module in `target_parameters`      | no layer unless `--lora-target-modules` names it         |

Its own code, from the wheels of 0.5.10 to 0.5.23, does this for every subset of the first seven.

vLLM leaves any missing member at zero, but for one group of linear attention: with `in_proj_z`
alone it counts all slices as missing, and the first request fails; before 0.29.0 so it does with
`in_proj_qkv` alone.

Source: SGLang `srt/lora/lora.py` (`normalize_…`), `utils.py` (`get_normalized_target_modules`,
`get_target_module_name`, `get_default_hidden_dim`), `mem_pool.py` (`load_lora_weight_to_buffer`);
vLLM `lora/layers/column_parallel_linear.py` (`expand_packed_lora`), `lora_weights.py` (`pack`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stack:
    """Projections of one input whose adapters a server stacks.

    Attributes:
        lead: The one whose name the loader looks for; the others are found beside it.
        members: The others.
        needed: Those of the others without which the stack of the lead does not load.
    """

    lead: str
    members: tuple[str, ...]
    needed: tuple[str, ...] = ()


SGLANG_STACKS = (
    Stack("q_proj", ("k_proj", "v_proj"), needed=("v_proj",)),
    Stack("gate_proj", ("up_proj",)),
    Stack("q_a_proj", ("kv_a_proj_with_mqa",), needed=("kv_a_proj_with_mqa",)),
)
VLLM_STACKS = (Stack("in_proj_qkv", ("in_proj_z",)),)
VLLM_STACKS_BEFORE_0_29 = (Stack("in_proj_qkv", ("in_proj_z",), needed=("in_proj_z",)),)


@dataclass(frozen=True, slots=True)
class Missing:
    """Adapted weights that do not load, and the names beside them that would have to be adapted."""

    lost: tuple[str, ...]
    partner: str
    partners: tuple[str, ...]


def missing_of(names: Iterable[str], stacks: Sequence[Stack]) -> list[Missing]:
    """Return what a loader cannot stack among adapted weights, by the partner that is missing.

    Args:
        names: Dotted names of the adapted modules, or their last words alone.
        stacks: Those of the server.
    """
    adapted = dict.fromkeys(names)
    lost: dict[str, dict[str, str]] = {}
    for name in adapted:
        owner, dot, leaf = name.rpartition(".")
        for wanted in _wanted(leaf, stacks):
            partner = f"{owner}{dot}{wanted}"
            if partner not in adapted:
                lost.setdefault(wanted, {})[name] = partner
    return [
        Missing(tuple(pairs), wanted, tuple(dict.fromkeys(pairs.values())))
        for wanted, pairs in lost.items()
    ]


def _wanted(leaf: str, stacks: Sequence[Stack]) -> tuple[str, ...]:
    """Return what must be adapted beside a projection for it to be served."""
    for stack in stacks:
        if leaf == stack.lead:
            return stack.needed
        if leaf in stack.members:
            return (stack.lead,)
    return ()


_NORMALISED = {
    "q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj",
    "q_a_proj": "fused_qkv_a_proj_with_mqa", "kv_a_proj_with_mqa": "fused_qkv_a_proj_with_mqa",
}  # fmt: skip
"""Source: SGLang `get_normalized_target_modules`."""


def unlisted(names: Iterable[str], targets: Iterable[str]) -> tuple[str, ...]:
    """Return the adapted modules for which SGLang makes no layer, since no target names them."""
    layers = {layer_of(target) for target in targets}
    return tuple(name for name in names if layer_of(name) not in layers)


def layer_of(name: str) -> str:
    """Return the name of the layer that serves a projection."""
    leaf = name.rpartition(".")[2]
    return _NORMALISED.get(leaf, leaf)
