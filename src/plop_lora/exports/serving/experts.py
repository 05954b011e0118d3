"""What a server makes of adapted experts, stacked in one parameter or each apart. Pure.

vLLM computes all experts of a layer at once and wants every projection of every expert adapted, or
none. SGLang fills with zeros what is missing, but makes its layer of experts only where the targets
name a projection of both its matrices.

Source: vLLM `lora_weights.py` (`pack_moe`), `model_manager.py` (`_stack_moe_lora_weights`), pull
requests 52194 and 52198; SGLang `lora_manager.py` (`init_lora_modules`), `mem_pool.py`, pull
requests 25528 and 27381, closed; NeMo Automodel pull request 3626 for PEFT's change of layout.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from plop_lora.exports.serving.findings import Finding, Subject
from plop_lora.exports.serving.servers import FOLD, MERGE, Server
from plop_lora.exports.serving.stacking import layer_of

_APART = re.compile(r"(.*(?:^|\.)experts)\.(\d+)\.(\w+)")
_PROJECTIONS = (
    frozenset({"gate_proj", "up_proj", "down_proj"}),
    frozenset({"w1", "w2", "w3"}),
)
_WITHOUT_GATE = frozenset({"up_proj", "down_proj"})


def stacked_experts(subject: Subject, server: Server) -> Iterator[Finding]:
    """Yield what a server makes of experts that are stacked in one parameter."""
    stacks = subject.experts()
    if not stacks:
        return
    names = tuple(stacks)
    if server.name != "vllm":
        what = f"{server.name} has no layer for experts that PEFT trained as one parameter"
        yield Finding("rejected", what, names, MERGE)
        return
    halves = tuple(stack for stack, parameters in stacks.items() if len(parameters) < 2)
    if halves:
        what = f"{server.name} wants both projections of the experts adapted, or none"
        yield Finding("rejected", what, halves, "Place the other one too, or merge the adapter")
    if _older(subject.config.get("peft_version"), (0, 19, 1)):
        what = "PEFT before 0.19.1 stored experts transposed, which vLLM cannot load"
        yield Finding("rejected", what, names, MERGE)
    else:
        what = "stacked experts load only where vLLM's class keeps them stacked (GPT-OSS does)"
        todo = (
            "For other classes start the server with --enable-mixed-moe-lora-format and mark the "
            "request is_3d_lora_weight"
        )
        yield Finding("note", what, names, todo)


def _older(version: object, than: tuple[int, ...]) -> bool:
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", str(version))
    return found is not None and tuple(int(part) for part in found.groups()) < than


def experts_apart(subject: Subject, server: Server) -> Iterator[Finding]:
    """Yield what a server makes of experts each of which has adapters of its own."""
    stacks: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in subject.modules():
        if found := _APART.fullmatch(name):
            stacks[found[1]][found[3]][int(found[2])] = name
    if not stacks:
        return
    if server.name == "vllm":
        yield from _all_or_none(subject, stacks)
        yield from _one_scaling(subject, server, stacks)
    else:
        yield from _both_matrices(subject, server, stacks)


def _all_or_none(
    subject: Subject, stacks: Mapping[str, Mapping[str, Mapping[int, str]]]
) -> Iterator[Finding]:
    gaps = tuple(stack for stack, leaves in stacks.items() if _gaps(stack, leaves, subject))
    if gaps:
        what = "vllm wants every projection of every expert of a layer adapted, or none"
        yield Finding("rejected", what, gaps, "Train them all, or merge the adapter")
    ungated = tuple(
        stack
        for stack, leaves in stacks.items()
        if stack not in gaps and not subject.others and leaves.keys() == _WITHOUT_GATE
    )
    if ungated:
        what = "experts without an adapted gate_proj load only where they have no such projection"
        yield Finding("note", what, ungated, "For other models train gate_proj too, or merge it")


def _gaps(stack: str, leaves: Mapping[str, Mapping[int, str]], subject: Subject) -> bool:
    """Whether something beside the adapted projections of a layer's experts is not adapted."""
    numbers = [set(experts) for experts in leaves.values()]
    if any(found != set(range(max(numbers[0]) + 1)) for found in numbers):
        return True
    if subject.others:
        return any(name.startswith(f"{stack}.") for name in subject.others)
    return leaves.keys() not in (*_PROJECTIONS, _WITHOUT_GATE)


def _one_scaling(
    subject: Subject, server: Server, stacks: Mapping[str, Mapping[str, Mapping[int, str]]]
) -> Iterator[Finding]:
    mixed = tuple(
        f"{stack}.*.{leaf}"
        for stack, leaves in stacks.items()
        for leaf, experts in leaves.items()
        if len({subject.ranks[name][0] for name in experts.values() if name in subject.ranks}) > 1
    )
    if mixed:
        what = "vllm has one rank for a projection of all experts of a layer"
        yield Finding("rejected", what, mixed, FOLD)
    if subject.config.get("use_rslora") and not server.reads_expert_rslora:
        weaker = math.sqrt(subject.config["r"])
        what = (
            f"use_rslora is not read for experts by vllm {server.release}: the update is "
            f"{weaker:.3g} times too weak"
        )
        yield Finding("ignored", what, tuple(stacks), FOLD)


def _both_matrices(
    subject: Subject, server: Server, stacks: Mapping[str, Mapping[str, Mapping[int, str]]]
) -> Iterator[Finding]:
    targets = subject.config.get("target_modules") or ()
    if isinstance(targets, str):
        return
    renamed = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    layers = {layer_of(renamed.get(target, target)) for target in targets}
    if not {"gate_up_proj", "down_proj"} <= layers:
        what = (
            f"{server.name} makes a layer of experts only where the targets name gate_proj and "
            "down_proj"
        )
        todo = "Start the server with --lora-target-modules that has both, or merge the adapter"
        yield Finding("ignored", what, tuple(stacks), todo)
