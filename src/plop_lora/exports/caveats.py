"""What a placement costs in the software that trains and serves it, as data. Pure.

One row for each cost: when it applies, what is said, where that was found and on which day. Reports
and exports show the rows that apply to a placement. Where a cost follows from the sizes of the
model it is computed from them; a number that others have measured is quoted with its source.
Imports neither torch nor any trainer. It does not cover what a trainer's file cannot express: an
export names that as a loss.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from plop_lora.exports.narrow import Narrowed, one_rank
from plop_lora.exports.serving.checks import lint
from plop_lora.exports.serving.servers import SERVERS
from plop_lora.models.architectures import HOLDS_QUERY_AND_VALUE, QUERY_OR_VALUE
from plop_lora.records import Placement

FUSED_GROUPS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("mlp", ("gate_proj", "up_proj", "down_proj")),
)
"""Modules that the LoRA kernels of Unsloth and Axolotl compute together, by the module above."""
READS_RANKS = ("peft", "axolotl", "unsloth")
"""Trainers that read a rank for each module."""
TOKENS = 1000
BYTES = 2
"""Bytes of a number in bfloat16 or float16."""


class Scope(StrEnum):
    """Where a cost is met.

    `training` is in a trainer, `loss` where an export would have to give a part up, which it says
    itself, and `serving` in an inference server, of which `--serve` says more.
    """

    TRAINING = "training"
    LOSS = "loss"
    SERVING = "serving"


Values = Mapping[str, str]
"""Values of the placeholders of a text by name."""


@dataclass(frozen=True, slots=True)
class Caveat:
    """One row of the registry.

    Attributes:
        name: Name of the row.
        scope: Where the cost is met.
        applies: Function that returns the values of the text, or None where there is no such cost.
        text: What is said, in one sentence with placeholders, without a full stop.
        source: Address of the page or the code that says so.
        seen: Day of that page, or the day on which the code was read, as YYYY-MM-DD.
        trainers: Names of the targets that it concerns; empty where it does not depend on them.
    """

    name: str
    scope: Scope
    applies: Callable[[Placement], Values | None]
    text: str
    source: str
    seen: str
    trainers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """What a row says of one placement: its name, the values of its text, and where it is from."""

    name: str
    text: str
    values: Values
    source: str
    seen: str

    def __str__(self) -> str:
        """Return the line that a terminal shows."""
        return f"Cost: {self.text} ({_short(self.source)}, {self.seen})."


def caveats_of(
    placement: Placement, *, to: str | None = None, serve: str | None = None
) -> tuple[Applied, ...]:
    """Return the costs that a placement has, in the order of the registry.

    Args:
        placement: The placement.
        to: Name of the trainer that it is exported to. By default the rows of every trainer are
            returned, and with a name only those that concern it and that the export does not say.
        serve: The server that the placement has been checked for, which reports on serving itself.
    """
    found = []
    for row in CAVEATS:
        foreign = to is not None and row.trainers and to not in row.trainers
        told = (to is not None and row.scope is Scope.LOSS) or (
            serve is not None and row.scope is Scope.SERVING
        )
        values = None if foreign or told or not placement.sites else row.applies(placement)
        if values is not None:
            text = row.text.format(**values)
            found.append(Applied(row.name, text, values, row.source, row.seen))
    return tuple(found)


# --------------------------------------------------------------------------- conditions


def _unfused(placement: Placement) -> Values | None:
    """Return the groups of modules of which some have an adapter and some have none."""
    placed = {site.name for site in placement.sites}
    every = placed | set(placement.untouched) | {host.name for host in placement.hosts}
    split = []
    for parent, leaves in FUSED_GROUPS:
        owners = {name.rpartition(".")[0] for name in placed if name.rpartition(".")[2] in leaves}
        for owner in owners:
            members = [f"{owner}.{leaf}" for leaf in leaves]
            whole = owner.rpartition(".")[2] == parent and every.issuperset(members)
            if whole and not placed.issuperset(members):
                split.append(leaves)
                break
    if not split:
        return None
    return {"groups": " / ".join(", ".join(leaf[:-5] for leaf in leaves) for leaves in split)}


def _dropout(placement: Placement) -> Values | None:
    dropout = placement.settings.dropout
    return {"dropout": f"{dropout:g}"} if dropout else None


def _kept_inputs(placement: Placement) -> Values | None:
    """Return the size of the inputs that adapters keep, where it is above that of query and value.

    A module that shares its input with another counts it again, so that both are upper bounds.
    """
    widths = {host.name: host.in_features for host in placement.hosts if not host.is_parameter}
    kept = sum(widths.get(site.name, 0) for site in placement.sites)
    usual = sum(
        host.in_features
        for host in placement.hosts
        if not host.is_parameter and _is_query_or_value(host.type)
    )
    if not usual or kept <= usual:
        return None
    return {"kept": _size(TOKENS * BYTES * kept), "usual": _size(TOKENS * BYTES * usual)}


def _is_query_or_value(module_type: str) -> bool:
    leaf = module_type.rpartition(".")[2]
    return bool(QUERY_OR_VALUE.fullmatch(leaf) or HOLDS_QUERY_AND_VALUE.fullmatch(leaf))


def _stacked_experts(placement: Placement) -> Values | None:
    """Return the size of the largest weight of stacked experts with an adapter."""
    shapes = {host.name: host.in_features * host.out_features for host in placement.hosts}
    stacks = [
        (shapes[site.name] * site.copies, site.copies)
        for site in placement.sites
        if site.is_parameter and site.copies > 1 and site.name in shapes
    ]
    if not stacks:
        return None
    size, experts = max(stacks)
    return {"experts": f"{experts:,}", "size": _size(size * BYTES)}


def _several_ranks(placement: Placement) -> Values | None:
    ranks = {site.rank for site in placement.sites}
    if len(ranks) == 1:
        return None
    one = one_rank(Narrowed(placement)).placement
    share = one.trainable_parameters / placement.trainable_parameters
    return {"rank": str(one.sites[0].rank), "share": f"{share:.0%}"}


def _rank_flag(placement: Placement) -> Values | None:
    """Return the flag of vLLM where the largest rank is above its default."""
    server = SERVERS["vllm"]
    largest = max(site.rank for site in placement.sites)
    allowed = [rank for rank in server.ranks if rank >= largest]
    if server.default_rank is None or largest <= server.default_rank or not allowed:
        return None
    return {
        "rank": str(largest), "flag": str(allowed[0]), "default": str(server.default_rank),
    }  # fmt: skip


def _served_as(server: str, severity: str) -> Callable[[Placement], Values | None]:
    """Return a condition: that this is the worst that a server does with the trained adapter."""

    def condition(placement: Placement) -> Values | None:
        findings = lint(placement, server)  # the worst first
        return {} if findings and findings[0].severity == severity else None

    return condition


def sentence(text: str) -> str:
    """Return a text of the registry as a sentence.

    >>> sentence("training takes longer"), sentence("vLLM refuses it")
    ('Training takes longer.', 'vLLM refuses it.')
    """
    is_name = text[1:2].isupper()
    return f"{text if is_name else text[:1].upper() + text[1:]}."


def _short(source: str) -> str:
    """Return a short name of an address.

    >>> _short("https://github.com/unslothai/unsloth/issues/1265"), _short("https://a.org/b/c.html")
    ('unsloth#1265', 'a.org')
    """
    issue = re.fullmatch(r"https://github\.com/[^/]+/([^/]+)/(?:issues|pull)/(\d+)", source)
    return f"{issue[1]}#{issue[2]}" if issue else source.split("/")[2]


def _size(number: float) -> str:
    """Return a number of bytes in MB or GB.

    >>> _size(2.5e6), _size(1.2e10)
    ('2.5 MB', '12 GB')
    """
    unit, scale = ("GB", 1e9) if number >= 1e9 else ("MB", 1e6)
    return f"{number / scale:.3g} {unit}"


CAVEATS: tuple[Caveat, ...] = (
    Caveat(
        name="unfused",
        scope=Scope.TRAINING,
        applies=_unfused,
        text="Unsloth and Axolotl train {groups} without their LoRA kernels, which need adapters "
        "on all of these; about 10 % slower for q, k, v, by Unsloth's estimate",
        source="https://github.com/unslothai/unsloth/issues/1265",
        seen="2024-11-11",
        trainers=("unsloth", "axolotl"),
    ),
    Caveat(
        name="dropout",
        scope=Scope.TRAINING,
        applies=_dropout,
        text="dropout {dropout} switches off the LoRA kernels of Unsloth and Axolotl",
        source="https://docs.axolotl.ai/docs/lora_optims.html",
        seen="2026-07-24",
        trainers=("unsloth", "axolotl"),
    ),
    Caveat(
        name="kept-inputs",
        scope=Scope.TRAINING,
        applies=_kept_inputs,
        text="training keeps up to {kept} of adapter inputs per 1,000 tokens, against {usual} for "
        "query and value (16 bits, no gradient checkpointing); PEFT measured 2.3 GB more for the "
        "MLP of a 3 B model",
        source="https://github.com/huggingface/peft/pull/2845",
        seen="2025-10-16",
    ),
    Caveat(
        name="stacked-experts",
        scope=Scope.TRAINING,
        applies=_stacked_experts,
        text="PEFT copies the stacked weight of all {experts} experts in each forward pass, {size} "
        "for the largest one in 16 bits",
        source="https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/layer.py",
        seen="2026-08-21",
        trainers=("peft", "axolotl", "trl", "ms-swift"),
    ),
    Caveat(
        name="several-ranks",
        scope=Scope.LOSS,
        applies=_several_ranks,
        text=f"only {', '.join(READS_RANKS)} read a rank for each module; the other trainers use "
        "rank {rank} everywhere, {share} of the parameters",
        source="https://huggingface.co/docs/peft/package_reference/lora",
        seen="2026-08-21",
    ),
    Caveat(
        name="rank-flag",
        scope=Scope.SERVING,
        applies=_rank_flag,
        text="vLLM needs --max-lora-rank {flag} for rank {rank}; its default is {default}",
        source="https://docs.vllm.ai/en/latest/features/lora.html",
        seen="2026-11-26",
    ),
    *(
        Caveat(
            name=f"{severity}-{server}",
            scope=Scope.SERVING,
            applies=_served_as(server, severity),
            text=f"{title} {does}; plop export --serve {server} says what to do",
            source=source,
            seen="2026-11-26",
        )
        for server, title, source in (
            ("vllm", "vLLM", "https://docs.vllm.ai/en/latest/features/lora.html"),
            ("sglang", "SGLang", "https://docs.sglang.ai/advanced_features/lora.html"),
        )
        for severity, does in (
            ("rejected", "would refuse the trained adapter"),
            ("ignored", "would silently ignore a part of the trained adapter"),
        )
    ),
)
"""The costs in the order in which they are told."""
