"""Exports to trainers with switches, each of which adapts a part of every block or not.

torchtune and litgpt have no module names in their configuration. A switch stands for parts of a
block (query, key, value, projection, gate, up, down) and turns them on in every layer, each part
with an A of its own, also where transformers fuses several parts in one weight. Only the check
imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from plop_lora.errors import ExportError
from plop_lora.exports.target import Loss, Rendered
from plop_lora.records import Host, Placement, whole_weight

_QKV = ("query", "key", "value")
_PARTS: dict[str, tuple[str, ...]] = {
    "q_proj": ("query",),
    "k_proj": ("key",),
    "v_proj": ("value",),
    "qkv_proj": _QKV,
    "query_key_value": _QKV,
    "o_proj": ("projection",),
    "dense": ("projection",),
    "gate_proj": ("gate",),
    "up_proj": ("up",),
    "down_proj": ("down",),
    "gate_up_proj": ("gate", "up"),
    "fc1": ("up",),
    "fc2": ("down",),
    "dense_h_to_4h": ("up",),
    "dense_4h_to_h": ("down",),
    "experts": ("gate", "up", "down"),
}
"""Last part of a name in transformers → the parts of a block that the weight holds."""

Switches = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class SwitchDecision:
    """The switches that are on, the parameters of one rank unit, and the losses."""

    on: tuple[str, ...]
    hosts: tuple[Host, ...]
    parameters_per_rank: int
    losses: tuple[Loss, ...]


def decide(placement: Placement, switches: Switches, trainer: str) -> SwitchDecision:
    """Set the switches as close to a placement as possible.

    A switch of which only some weights are placed is turned on if that adds fewer parameters per
    rank unit than leaving it off would drop.

    Raises:
        ExportError: A switch also adapts weights of unknown size.
    """
    placed = {site.name for site in placement.sites}
    on: list[str] = []
    losses: list[Loss] = []
    for name, parts in switches.items():
        hosts = [host for host in placement.hosts if set(parts_of(host.name)) & set(parts)]
        inside = [host for host in hosts if host.name in placed]
        if not inside:
            continue
        outside = [host for host in hosts if host.name not in placed]
        turn_on = _cost(inside) >= _cost(outside)
        if turn_on:
            on.append(name)
        losses += _losses(name, inside, outside, turn_on)
    parts_on = {part for name in on for part in switches[name]}
    adapted = tuple(host for host in placement.hosts if set(parts_of(host.name)) & parts_on)
    _refuse_unknown(placement, parts_on, trainer)
    losses += _strangers(placement, switches)
    losses += _own_a(adapted)
    return SwitchDecision(tuple(on), adapted, _cost(adapted), tuple(dict.fromkeys(losses)))


def check_switches(
    placement: Placement,
    rendered: Rendered,
    *,
    trainer: str,
    switches: Switches,
    on: Sequence[str],
    rank: int,
    beside: Callable[[Sequence[Host]], int] = lambda hosts: 0,
) -> None:
    """Check the switches on the architecture: each adapts its parts in every block.

    Args:
        placement: Placement that was exported.
        rendered: Rendered file.
        trainer: Name of the trainer.
        switches: Switches of the trainer.
        on: Switches that the file turns on.
        rank: Rank that the file gives.
        beside: Parameters per rank unit that a switch trains beside these weights.

    Raises:
        ExportError: The switches adapt other weights, or other numbers of parameters, than
            `decide` intended.
    """
    from plop_lora.exports.readback import compare, weights_of

    parts_on = {part for name in on for part in switches[name]}
    hosts = [site.host for site in weights_of(placement)]
    reached = [h for h in hosts if h.layer is not None and set(parts_of(h.name)) & parts_on]
    meant = {host.name for host in decide(placement, switches, trainer).hosts}
    compare(rendered, meant, reached, lambda found: rank * (_cost(found) + beside(found)))


def parts_of(name: str) -> tuple[str, ...]:
    """Return the parts of a block that a weight holds, empty for other weights."""
    return _PARTS.get(name.rsplit(".", 1)[-1], ())


def _cost(hosts: Sequence[Host]) -> int:
    """Return the parameters of a rank unit, each part with its own A."""
    return sum(
        host.copies * (len(parts_of(host.name)) * host.in_features + host.out_features)
        for host in hosts
    )


def _losses(
    switch: str, inside: Sequence[Host], outside: Sequence[Host], turn_on: bool
) -> list[Loss]:
    if not outside:
        return []
    whole = f"{switch} is all or nothing in every layer"
    if turn_on:
        return [Loss(f"{_named(outside)} untouched", f"trained as well, {whole}")]
    return [Loss(_named(inside), f"not trained, {whole} and most of it is not placed")]


def _strangers(placement: Placement, switches: Switches) -> list[Loss]:
    """Return the losses of placed weights that no switch adapts."""
    reach = {part for parts in switches.values() for part in parts}
    types = [site.type for site in placement.sites if not set(parts_of(site.name)) & reach]
    return [
        Loss(type_name, "not trained, no switch of the file adapts it")
        for type_name in dict.fromkeys(types)
    ]


def _own_a(adapted: Sequence[Host]) -> list[Loss]:
    fused = [host for host in adapted if len(parts_of(host.name)) > 1]
    return [
        Loss(
            f"the one A of {type_name}",
            "each of its parts gets an A of its own, which is more parameters",
        )
        for type_name in dict.fromkeys(host.type for host in fused)
    ]


def _refuse_unknown(placement: Placement, parts_on: set[str], trainer: str) -> None:
    known = {host.name for host in placement.hosts}
    names = dict.fromkeys(whole_weight(name) for name in placement.untouched)
    containers = {name.rpartition(".")[0] for name in (*names, *known)}
    unknown = [
        name for name in names if name not in known | containers and set(parts_of(name)) & parts_on
    ]
    if unknown:
        raise ExportError(
            f"{trainer} would also adapt {unknown[0]} ({len(unknown)} such weights), which has no "
            "score and so no known size. Score the whole model (plop score without --include and "
            "--exclude), or export to another trainer: --to peft."
        )


def _named(hosts: Sequence[Host]) -> str:
    """Return `gate_proj, up_proj` or, for a few layers of one type, `2 of q_proj`."""
    types = list(dict.fromkeys(host.type for host in hosts))
    return f"{len(hosts)} weights ({', '.join(types)})"
