"""What an inference server rejects or silently ignores in a placement or an adapter. Pure.

Servers re-implement LoRA and read a part of PEFT's configuration only. What they do not read they
mostly pass over in silence, and the answers are then those of another adapter. Imports neither
torch nor a server; every check names the public source it follows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from plop_lora.errors import UsageError, nearest
from plop_lora.export.adapters import ranks_and_scalings
from plop_lora.export.names import matched_names
from plop_lora.export.patterns import check_patterns
from plop_lora.export.peft import peft_fields
from plop_lora.export.servers import (
    CONVERT,
    FEATURES,
    FOLD,
    LOFTQ,
    MERGE,
    SERVERS,
    Server,
    changes_base,
    features_in,
)
from plop_lora.export.stacking import missing_of, unlisted
from plop_lora.export.target import check_placed
from plop_lora.records import Host, PlacedSite, Placement

Severity = Literal["rejected", "ignored", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a server does not do as PEFT does.

    Attributes:
        severity: `rejected` (the server refuses the adapter), `ignored` (it serves something
            else without a word), `note` (it works if you do what `todo` says).
        what: what it is, and what the server makes of it.
        modules: names or targets it concerns; empty where it concerns all.
        todo: what to do about it.
    """

    severity: Severity
    what: str
    modules: tuple[str, ...]
    todo: str

    def __str__(self) -> str:
        """Return one line, with at most three of the modules."""
        more = f" and {len(self.modules) - 3} more" if len(self.modules) > 3 else ""
        where = f" ({', '.join(self.modules[:3])}{more})" if self.modules else ""
        return f"{self.severity}: {self.what}{where}. {self.todo}."


_TOWER = re.compile(
    r"(^|\.)(visual|vision\w*|image\w*|audio\w*|\w*projector|connector|merger)(\.|$)"
)
_FUSED = frozenset({"qkv_proj", "query_key_value", "c_attn", "Wqkv", "Wi", "gate_up_proj"})
_TABLES = frozenset({"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"})


@dataclass(frozen=True, slots=True)
class _Subject:
    """A configuration with the names it concerns: of weights where known, else its targets.

    `ranks` has (rank, scaling) by name; a pattern stands for itself where no name is known. Of a
    placement, `types` has the types of all known weights, and `others` the rest of the model.
    """

    config: Mapping[str, Any]
    names: tuple[str, ...]
    ranks: Mapping[str, tuple[int, float]]
    model_type: str = ""
    trained: bool = True
    added_tokens: bool = False
    types: Mapping[str, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()

    def modules(self) -> list[str]:
        """Return the adapted modules, without patterns, stacked experts and towers."""
        stacks = self.experts()
        known = (name for name in self.names if "*" not in name and "(" not in name)
        plain = (name.removesuffix(".weight") for name in known if not _inside(name, stacks))
        return [name for name in plain if not _TOWER.search(name)]

    def experts(self) -> dict[str, set[str]]:
        """Return the stacks of experts with the parameters that are adapted in each."""
        found: dict[str, set[str]] = {}
        for name in self.names:
            stack, _, parameter = name.rpartition(".")
            if stack.rpartition(".")[2] == "experts":
                found.setdefault(stack, set()).add(parameter)
        return found


def lint(
    source: Placement | Mapping[str, Any],
    server: str,
    *,
    modules: Sequence[str] = (),
    added_tokens: bool = False,
) -> tuple[Finding, ...]:
    """Return what a server will reject or ignore, the worst first; empty if nothing.

    Args:
        source: a placement, or the content of a trained adapter's `adapter_config.json`.
        server: a name in `SERVERS`.
        modules: names of the adapted weights, where `source` is a configuration and they are
            known; without them its targets stand for them.
        added_tokens: the adapter's folder holds an `added_tokens.json`.

    Raises:
        UsageError: an unknown server.
    """
    if server not in SERVERS:
        raise UsageError(
            f"Nothing is known about serving with {server!r}.{nearest(server, SERVERS)} "
            f"Allowed: {', '.join(SERVERS)}."
        )
    subject = _subject(source, tuple(modules), added_tokens)
    found = [finding for check in _CHECKS for finding in check(subject, SERVERS[server])]
    order = ("rejected", "ignored", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def rejections(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings that make a server refuse the adapter."""
    return tuple(finding for finding in findings if finding.severity == "rejected")


def _subject(
    source: Placement | Mapping[str, Any], modules: tuple[str, ...], added_tokens: bool
) -> _Subject:
    if isinstance(source, Placement):
        check_placed(source)
        known: tuple[Host | PlacedSite, ...] = (*source.hosts, *source.sites)
        matched = matched_names(source)
        ranks = {matched[site.name]: (site.rank, source.scaling) for site in source.sites}
        model_type = str((source.model.config or {}).get("model_type", ""))
        return _Subject(
            peft_fields(source), tuple(ranks), ranks, model_type, trained=False,
            types={entry.name: entry.type for entry in known},
            others=frozenset((*source.untouched, *(host.name for host in source.hosts))),
        )  # fmt: skip
    targets = source.get("target_modules") or ()
    listed = (targets,) if isinstance(targets, str) else tuple(targets)
    names = modules or (*listed, *(source.get("target_parameters") or ()))
    keys = dict.fromkeys(names)
    if not modules:
        keys |= source.get("rank_pattern") or {}
        keys |= source.get("alpha_pattern") or {}
    check_patterns(source, keys, "The adapter's configuration")
    ranks = ranks_and_scalings(source, keys)
    return _Subject(source, names, ranks, added_tokens=added_tokens)


def _features(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM `PEFTHelper._validate_features`; SGLang `validate_new_adapter`."""
    for key in features_in(subject.config):
        what, todo = FEATURES[key]
        severity: Severity = "rejected" if key in server.rejects else "ignored"
        value = subject.config[key]
        modules = tuple(value) if key == "modules_to_save" else ()
        yield Finding(severity, f"{what} is not served by {server.name}", modules, todo)


def _init(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: peft `PeftModel.save_pretrained`; peft pull request 1930."""
    init = subject.config.get("init_lora_weights")
    if changes_base(init):
        yield Finding(
            "ignored" if subject.trained else "note",
            f"the init {init!r} changes the base weights, and {server.name} serves the original",
            (),
            LOFTQ if init == "loftq" else CONVERT,
        )


def _rank(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM `PEFTHelper.validate_legal`, which compares `r`; issue 2847."""
    ranks = {name: rank for name, (rank, _) in subject.ranks.items()}
    largest = max([subject.config["r"], *ranks.values()])
    top = max(server.ranks, default=largest)
    if largest > top:
        over = tuple(name for name, rank in ranks.items() if rank > top)
        what = f"rank {largest} is above {top}, the largest --max-lora-rank of {server.name}"
        yield Finding("rejected", what, over, f"Place with --rank {top} or less, or merge it")
        return
    flag = min((rank for rank in server.ranks if rank >= largest), default=largest)
    if server.default_rank is None:
        what = f"{server.name} takes its largest rank from the adapters it is started with"
        todo = f"To load this one later, start the server with --max-lora-rank {flag}"
        yield Finding("note", what, (), todo)
    elif flag > server.default_rank:
        what = f"rank {largest} is above {server.default_rank}, the default of {server.name}"
        yield Finding("note", what, (), f"Start the server with --max-lora-rank {flag}")


def _scaling(subject: _Subject, server: Server) -> Iterator[Finding]:
    """One scaling is applied to all modules; ranks other than `r` may not even load.

    Source: vLLM `PEFTHelper` of the releases (a later source reads both patterns); SGLang
    `LoRAAdapter.scaling`, `mem_pool.py` (buffer shape against weight shape), issue 40835.
    """
    config, ranks = subject.config, subject.ranks
    served = server.scaling(config)
    mixed = tuple(name for name, (rank, _) in ranks.items() if rank != config["r"])
    wrong = tuple(
        name for name, (_, own) in ranks.items() if not math.isclose(own, served, rel_tol=1e-6)
    )
    if mixed and not server.mixed_ranks:
        what = f"{server.name} has one rank an adapter, and these are not of rank {config['r']}"
        yield Finding("rejected", what, mixed, FOLD)
    if config.get("use_rslora") and not server.reads_rslora:
        weaker = math.sqrt(config["r"])
        what = f"use_rslora is not read by {server.name}: the update is {weaker:.3g} times too weak"
        yield Finding("ignored", what, (), FOLD)
    elif wrong:
        what = f"rank_pattern and alpha_pattern: {server.name} scales all modules by {served:g}"
        yield Finding("ignored", what, wrong, FOLD)
    elif mixed and server.mixed_ranks:
        what = f"rank_pattern is not read by {server.name}, which scales all modules by {served:g}"
        yield Finding("note", what, mixed, "That is their own scaling: nothing to do")


def _targets(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: SGLang `get_normalized_target_modules`."""
    targets = subject.config.get("target_modules")
    if isinstance(targets, str) and targets != "all-linear" and not server.patterns:
        what = f"target_modules is a regular expression, {server.name} takes a list of names"
        yield Finding("rejected", what, (targets,), FOLD)


def _leaves(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM `check_unexpected_modules`; SGLang `_KNOWN_LORA_TARGET_MODULES`."""
    leaves = {name: name.rpartition(".")[2] for name in subject.modules()}
    if server.leaves:
        odd = tuple(name for name, leaf in leaves.items() if leaf not in server.leaves)
        what = f"{server.name} has no LoRA layer of this name unless the model's class adds one"
    else:
        odd = tuple(name for name, leaf in leaves.items() if leaf.startswith("conv"))
        what = f"{server.name} has LoRA for linear layers only"
    if odd:
        yield Finding("rejected", what, odd, "Place without these types, or merge the adapter")


def _sized(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: SGLang `get_hidden_dim`, of the model's class and by default."""
    names = tuple(
        name for name in subject.modules() if name.rpartition(".")[2] in server.sized_by_class
    )
    if names:
        refused = subject.model_type in server.unsized
        what = f"{server.name} loads them only where its class of the model gives their sizes"
        todo = "Place without these types, or merge the adapter"
        if not refused:
            todo = "Qwen3.5 and Nemotron-H do; for others look up get_hidden_dim of the class"
        yield Finding("rejected" if refused else "note", what, names, todo)


def _stacked(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: the table in `stacking.py`."""
    gaps = missing_of(subject.modules(), server.stacks)
    absent = [gap for gap in gaps if subject.others and not subject.others >= set(gap.partners)]
    for gap in gaps:
        what = f"{server.name} loads them only together with {gap.partner}"
        todo = MERGE
        if gap in absent:
            what += ", which some of these blocks have not"
        elif not absent:
            todo = _together(subject, server)
        yield Finding("rejected", what, gap.lost, todo)


def _together(subject: _Subject, server: Server) -> str:
    """Return what to place, or to train, so that all that is adapted is served."""
    names = dict.fromkeys(subject.modules())
    while gaps := missing_of(names, server.stacks):
        names |= {name: None for gap in gaps for name in gap.partners}
    types = {subject.types.get(name, name.rpartition(".")[2]) for name in names}
    if not subject.types:
        return f"Train {', '.join(sorted(types))} together, or merge the adapter"
    return (
        f"Place them together: plop place --strategy custom --types {','.join(sorted(types))}; "
        "or merge the trained adapter"
    )


def _parameters(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Modules that stand in `target_parameters`, as PEFT needs it in a model with experts.

    Source: SGLang `LoRAConfig`, which reads `target_modules` and no other field for its layers.
    """
    targets = subject.config.get("target_modules") or ()
    # A server that takes patterns looks at the weights themselves.
    if server.patterns or isinstance(targets, str):
        return
    known = (name for name in subject.modules() if name.rpartition(".")[2] in server.leaves)
    missing = unlisted(known, targets)
    if missing:
        leaves = dict.fromkeys(name.rpartition(".")[2] for name in (*targets, *missing))
        what = f"{server.name} reads target_modules only, and these stand in target_parameters"
        todo = f"Start the server with --lora-target-modules {' '.join(leaves)}, or merge it"
        yield Finding("rejected", what, missing, todo)


def _inside(name: str, stacks: Container[str]) -> bool:
    """Whether a weight stands somewhere in one of the stacks."""
    return any(name[: dot.start()] in stacks for dot in re.finditer(r"\.", name))


def _fused(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM `packed_modules_mapping` of the model classes; issues 4715 and 4915."""
    fused = tuple(
        name
        for name in subject.names
        if name.rpartition(".")[2] in _FUSED and ".experts." not in f".{name}"
    )
    if fused and not server.leaves:
        what = f"fused projections load only where {server.name}'s class keeps them fused"
        todo = "Phi-3 does; for others look up packed_modules_mapping of the class"
        yield Finding("note", what, fused, todo)


def _towers(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM `--enable-tower-connector-lora`; SGLang pull request 11519."""
    towers = tuple(name for name in subject.names if _TOWER.search(name))
    if towers:
        what = f"{server.name} applies LoRA to the language model only"
        todo = "Place without these types"
        if server.name == "vllm":
            todo += ", or start the server with --enable-tower-connector-lora (some classes)"
        yield Finding("ignored", what, towers, todo)


def _prefix(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM issues 34186, 34591 and 48019."""
    wrapped = any("language_model" in name.split(".") for name in subject.names)
    if wrapped or subject.model_type.endswith("_text"):
        trained = "multimodal" if wrapped else "text-only"
        what = (
            f"the names are those of the {trained} class; if {server.name} serves the checkpoint "
            "as another class, they match nothing and the base model answers"
        )
        todo = "Serve the class that was trained, and compare one answer with and without adapter"
        yield Finding("note", what, (), todo)


def _experts(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Experts that are stacked in one parameter.

    Source: vLLM `_stack_moe_lora_weights`, pull requests 52194 and 52198; SGLang pull requests
    25528 and 27381, closed; NeMo Automodel pull request 3626 for PEFT's change of layout.
    """
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


def _older(version: Any, than: tuple[int, ...]) -> bool:
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", str(version))
    return found is not None and tuple(int(part) for part in found.groups()) < than


def _tables(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM `embedding_modules` of the model classes, issue 32599; peft issue 2018."""
    tables = tuple(name for name in subject.names if name.rpartition(".")[2] in _TABLES)
    if tables:
        what = f"embeddings and heads have LoRA only in some classes of {server.name}"
        todo = "Place without them; where they are tied, PEFT adapts one side and not the other"
        yield Finding("note", what, tables, todo)


def _tokens(subject: _Subject, server: Server) -> Iterator[Finding]:
    """Source: SGLang `validate_new_adapter`; vLLM 0.12 dropped `lora_extra_vocab_size`."""
    if subject.added_tokens:
        severity: Severity = "ignored" if server.name == "vllm" else "rejected"
        what = f"added_tokens.json: {server.name} serves no tokens beyond the base vocabulary"
        todo = "Delete the file if its tokens are the base model's own; else merge the adapter"
        yield Finding(severity, what, (), todo)


_CHECKS: tuple[Callable[[_Subject, Server], Iterator[Finding]], ...] = (
    _features,
    _init,
    _rank,
    _scaling,
    _targets,
    _leaves,
    _sized,
    _stacked,
    _parameters,
    _fused,
    _towers,
    _prefix,
    _experts,
    _tables,
    _tokens,
)
