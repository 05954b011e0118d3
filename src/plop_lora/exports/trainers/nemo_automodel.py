"""A placement for NeMo Automodel: names with wildcards, or full names; one rank.

Automodel adapts `nn.Linear` and, in its own models, all experts of a layer together. A list of
target modules excludes a list of modules to leave out, so the targets alone must be exact.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import yaml

from plop_lora.errors import ExportError
from plop_lora.exports.fragment import (
    document,
    model_type,
    nothing_left,
    one_rank,
    rank_losses,
    settings_losses,
)
from plop_lora.exports.names import exact_endings
from plop_lora.exports.target import Loss, Rendered, Target
from plop_lora.exports.trainers.peft import plain
from plop_lora.placement import alpha_of
from plop_lora.records import AdapterSettings, Host, Placement

OWN_EXPERTS = ("DeepseekV3ForCausalLM", "Glm4MoeForCausalLM", "GptOssForCausalLM",
               "Qwen3MoeForCausalLM")  # fmt: skip
"""Architectures for which Automodel brings a model whose `mlp.experts` it adapts (0.7)."""

_CONV1D = ("decision_transformer", "gpt2", "imagegpt", "openai-gpt")
"""Families whose projections are transformers' `Conv1D`, which is no `nn.Linear`."""

_PLAIN = re.compile(r"[\w.-]+")
"""Names in which a pattern means nothing but its letters and dots."""

_USAGE = (
    "Put this section into an Automodel recipe in place of its own `peft:`, then:",
    "automodel RECIPE.yaml",
)


def _render(placement: Placement) -> Rendered:
    if model_type(placement, "NeMo Automodel") in _CONV1D:
        raise nothing_left("NeMo Automodel", "it adapts nn.Linear, and these weights are Conv1D")
    hosts, losses = _adapted(placement)
    if not hosts:
        raise nothing_left("NeMo Automodel", "it adapts stacked experts in its own models only")
    per_rank = sum(host.parameters_per_rank for host in hosts)
    rank = one_rank(placement, per_rank)
    losses += [*_dropout_losses(placement, hosts), *rank_losses(placement, rank)]
    losses += settings_losses(placement)
    fields: dict[str, Any] = {
        "_target_": "nemo_automodel.components._peft.lora.PeftConfig",
        "target_modules": patterns(placement, hosts),
        "exclude_modules": [],
        "match_all_linear": False,
        "dim": rank,
        "alpha": plain(alpha_of(rank, placement.scaling, AdapterSettings())),
        "dropout": placement.settings.dropout,
        "dropout_position": "pre",
        "lora_A_init": "uniform",
        "use_dora": False,
        "moe_rank_scaling": False,
    }
    text = document(placement, _USAGE, {"peft": fields}, losses)
    return Rendered(text, rank * per_rank, tuple(losses))


def _adapted(placement: Placement) -> tuple[list[Host], list[Loss]]:
    """Return the weights that will be adapted, and what that loses about experts."""
    placed = {site.name for site in placement.sites}
    hosts = [host for host in placement.hosts if host.name in placed]
    tables = [host for host in hosts if _is_embedding(host)]
    lost = [Loss(name, "not trained, Automodel adapts nn.Linear only") for name in _types(tables)]
    plain_hosts = [host for host in hosts if not (host.is_parameter or _is_embedding(host))]
    adapted, losses = _with_experts(placement, plain_hosts)
    return adapted, [*lost, *losses]


def _with_experts(placement: Placement, plain_hosts: list[Host]) -> tuple[list[Host], list[Loss]]:
    """Add the experts that will be adapted, all of a layer or none."""
    placed = {site.name for site in placement.sites}
    stacked = [host for host in placement.hosts if host.name in placed and host.is_parameter]
    if not stacked:
        return plain_hosts, []
    if placement.model.architecture not in OWN_EXPERTS:
        effect = "not trained, Automodel adapts stacked experts in its own models only"
        return plain_hosts, [Loss(name, effect) for name in _types(stacked)]
    blocks = {_owner(host.name) for host in stacked}
    every = [h for h in placement.hosts if h.is_parameter and _owner(h.name) in blocks]
    extra = [host for host in every if host.name not in placed]
    if not extra:
        return [*plain_hosts, *stacked], []
    if _cost(stacked) >= _cost(extra):
        effect = "trained as well, Automodel adapts all of a layer's experts or none"
        return [*plain_hosts, *every], [Loss(f"{name} untouched", effect) for name in _types(extra)]
    effect = "not trained, Automodel adapts all of a layer's experts or none"
    return plain_hosts, [Loss(name, effect) for name in _types(stacked)]


def _is_embedding(host: Host) -> bool:
    """Whether a weight is a table of rows to look up, outside the blocks and longer than wide.

    A head has its rows on the other side, whatever it is called.
    """
    leaf = host.name.rpartition(".")[2]
    named = re.search(r"embed|^wte$|^wpe$|^shared$", leaf) is not None
    return named and host.layer is None and host.in_features > host.out_features


def patterns(placement: Placement, hosts: Sequence[Host]) -> list[str]:
    """Return wildcards that hit exactly these weights, or their full names.

    Raises:
        ExportError: Not even full names are exact.
    """
    named = sorted({(host.type, _target(host)) for host in hosts})
    wanted = {name for _, name in named}
    for name in sorted(wanted):
        if not _PLAIN.fullmatch(name):
            raise ExportError(
                f"NeMo Automodel reads names as patterns, so {name!r} would not stand for itself. "
                "Export to another trainer: --to peft."
            )
    every = [_target(host) for host in placement.hosts] + list(placement.untouched)
    others = [name for name in every if name not in wanted]
    groups = [(_group(type_name, name), name) for type_name, name in named]
    endings = exact_endings(groups, others)
    if endings is not None and not any(re.search(r"(^|\.)\d+\.", ending) for ending in endings):
        wildcards = [f"*.{ending}" for ending in endings]
        if _exact(wildcards, wanted, others):
            return wildcards
    full = sorted(wanted)
    if not _exact(full, wanted, others):
        raise ExportError(
            "NeMo Automodel's wildcards cannot tell the placed weights from others of this model. "
            "Export to another trainer: --to peft."
        )
    return full


def matches(pattern: str, name: str) -> bool:
    """Whether Automodel takes a module name for a pattern: `*` stands for any text.

    A dot in a pattern stands for any one character, so that `*.proj` also hits `q_proj`.
    Source: `nemo_automodel/components/_peft/module_matcher.py`, for patterns with a leading `*`.

    >>> matches("*.o_proj", "model.layers.0.self_attn.o_proj"), matches("*.proj", "x.q_proj")
    (True, True)
    """
    return name == pattern or re.fullmatch(pattern.replace("*", ".*"), name) is not None


def _exact(targets: Sequence[str], wanted: Iterable[str], others: Iterable[str]) -> bool:
    """Whether the targets hit all that is wanted and nothing else, each as `matches` would."""
    hit = _hitter(targets)
    return all(hit(name) for name in wanted) and not any(hit(name) for name in others)


def _hitter(targets: Sequence[str]) -> Callable[[str], bool]:
    """Return a test for names: whether one of the targets `matches` it, in one look for all."""
    wildcards = [re.compile(target.replace("*", ".*")) for target in targets if "*" in target]
    full: dict[int, dict[tuple[int, ...], set[str]]] = defaultdict(lambda: defaultdict(set))
    for target in targets:
        if "*" not in target:
            dots = tuple(dot.start() for dot in re.finditer(r"\.", target))
            full[len(target)][dots].add(target)

    def hit(name: str) -> bool:
        if any(wildcard.fullmatch(name) for wildcard in wildcards):
            return True
        return any(_dotted(name, dots) in texts for dots, texts in full[len(name)].items())

    return hit


def _dotted(name: str, places: Iterable[int]) -> str:
    """Return the name with dots at these places: what a full name there would have to be."""
    letters = list(name)
    for place in places:
        letters[place] = "."
    return "".join(letters)


def _target(host: Host) -> str:
    """Return the module that Automodel adapts for a weight."""
    return _owner(host.name) if host.is_parameter else host.name


def _group(type_name: str, name: str) -> str:
    return "experts" if name.endswith(".experts") else type_name


def _owner(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _cost(hosts: Iterable[Host]) -> int:
    return sum(host.parameters_per_rank for host in hosts)


def _types(hosts: Iterable[Host]) -> list[str]:
    return list(dict.fromkeys(host.type for host in hosts))


def _dropout_losses(placement: Placement, hosts: Iterable[Host]) -> list[Loss]:
    dropout = placement.settings.dropout
    if not dropout or not any(host.is_parameter for host in hosts):
        return []
    return [Loss(f"the dropout {dropout:g} of experts", "they have none")]


def _check(placement: Placement, rendered: Rendered) -> None:
    """Match names as Automodel does: linear layers, and the experts of its own models."""
    from torch import nn

    from plop_lora.exports.readback import compare, weights_of

    fields = yaml.safe_load(rendered.text)["peft"]
    hit = _hitter(fields["target_modules"])
    own = placement.model.architecture in OWN_EXPERTS
    reached = [
        site.host
        for site in weights_of(placement)
        if hit(_target(site.host))
        and (own if site.host.is_parameter else isinstance(site.module, nn.Linear))
    ]
    meant = {host.name for host in _adapted(placement)[0]}
    compare(rendered, meant, reached, lambda hosts: fields["dim"] * _cost(hosts))


TARGET = Target(
    name="nemo-automodel",
    file_name="nemo_peft.yaml",
    render=_render,
    check=_check,
    description="Put it into your Automodel recipe in place of its peft section.",
    source="https://github.com/NVIDIA-NeMo/Automodel/blob/main/nemo_automodel/components/_peft/lora.py",
    read_by="by the rules of Automodel",
)
