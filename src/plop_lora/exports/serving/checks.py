"""What an inference server rejects or silently ignores in a placement or an adapter. Pure.

Servers re-implement LoRA and read a part of PEFT's configuration only. What they do not read they
mostly pass over in silence, and the answers are then those of another adapter. Imports neither
torch nor a server; every check names the public source it follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from plop_lora.exports.serving.experts import experts_apart, stacked_experts
from plop_lora.exports.serving.findings import TOWER, Finding, Severity, Subject, subject_of
from plop_lora.exports.serving.servers import (
    CONVERT,
    FEATURES,
    FOLD,
    LOFTQ,
    MERGE,
    MODULES_TO_SAVE,
    Server,
    changes_base,
    features_in,
    server_of,
)
from plop_lora.exports.serving.stacking import missing_of, unlisted
from plop_lora.records import Placement

_FUSED = frozenset({"qkv_proj", "query_key_value", "c_attn", "Wqkv", "Wi", "gate_up_proj"})
_TABLES = frozenset({"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"})


def lint(
    source: Placement | Mapping[str, object],
    server: str,
    *,
    modules: Sequence[str] = (),
    added_tokens: bool = False,
) -> tuple[Finding, ...]:
    """Return what a server will reject or ignore, the worst first; empty if nothing.

    Args:
        source: A placement, or the content of a trained adapter's `adapter_config.json`.
        server: A name in `SERVERS`, or `NAME==RELEASE`.
        modules: Names of the adapted weights, where `source` is a configuration and they are
            known; without them its targets stand for them.
        added_tokens: The adapter's folder holds an `added_tokens.json`.

    Raises:
        UsageError: An unknown server, or a release whose rules are not known.
    """
    rules = server_of(server)
    subject = subject_of(source, tuple(modules), added_tokens)
    found = [finding for check in _CHECKS for finding in check(subject, rules)]
    order = ("rejected", "ignored", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _features(subject: Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM `PEFTHelper._validate_features`; SGLang `validate_new_adapter`."""
    for key in features_in(subject.config):
        what, todo = FEATURES[key]
        if key == MODULES_TO_SAVE:
            yield from _whole_modules(subject.config[key], server)
            continue
        severity: Severity = "rejected" if key in server.rejects else "ignored"
        what = f"{what} is not served by {server.name}"
        if subject.config[key] == "all" and severity == "ignored":
            what += ", whose first request fails where modules without an adapter have biases"
        yield Finding(severity, what, (), todo)


def _whole_modules(names: Sequence[str], server: Server) -> Iterator[Finding]:
    """Source: vLLM `PEFTHelper._validate_features`; SGLang `LoRAAdapter._process_weight`."""
    what, todo = FEATURES[MODULES_TO_SAVE]
    heads = tuple(name for name in names if name in server.heads)
    dropped = tuple(name for name in names if name in server.drops)
    others = tuple(name for name in names if name not in server.heads | server.drops)
    if others:
        yield Finding("rejected", f"{what} is not served by {server.name}", others, todo)
    if dropped:
        yield Finding("ignored", f"{what} is not served by {server.name}", dropped, todo)
    if heads:
        yield Finding(
            "note",
            f"{what}: {server.name} serves those of a classifier",
            heads,
            "Serve the model as the classifier that was trained",
        )


def _init(subject: Subject, server: Server) -> Iterator[Finding]:
    """Source: peft `PeftModel.save_pretrained`; peft pull request 1930; vLLM `PEFTHelper`.

    LoRA-GA changes the base weights in training only, so that a server cannot tell.
    """
    init = subject.config.get("init_lora_weights")
    if not changes_base(init):
        return
    what = f"the init {init!r} changes the base weights, and {server.name} serves the original"
    severity: Severity = "ignored" if subject.trained else "note"
    if server.rejects_inits and str(init).lower() != "lora_ga":
        what = f"{server.name} refuses the init {init!r}, which changes the base weights"
        severity = "rejected" if subject.trained else "note"
    yield Finding(severity, what, (), LOFTQ if init == "loftq" else CONVERT)


def _rank(subject: Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM `PEFTHelper.validate_legal`; issue 2847."""
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


def _scaling(subject: Subject, server: Server) -> Iterator[Finding]:
    """One scaling is applied to all modules; ranks other than `r` may not even load.

    Source: vLLM `PEFTHelper.get_rank_and_scaling`; SGLang `LoRAAdapter.scaling`, `mem_pool.py`
    (buffer shape against weight shape), issue 40835.
    """
    if server.reads_patterns:
        return
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


def _targets(subject: Subject, server: Server) -> Iterator[Finding]:
    """Source: SGLang `get_normalized_target_modules`."""
    targets = subject.config.get("target_modules")
    if isinstance(targets, str) and targets != "all-linear" and not server.patterns:
        what = f"target_modules is a regular expression, {server.name} takes a list of names"
        yield Finding("rejected", what, (targets,), FOLD)


def _leaves(subject: Subject, server: Server) -> Iterator[Finding]:
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


def _sized(subject: Subject, server: Server) -> Iterator[Finding]:
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


def _stacked(subject: Subject, server: Server) -> Iterator[Finding]:
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


def _together(subject: Subject, server: Server) -> str:
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


def _parameters(subject: Subject, server: Server) -> Iterator[Finding]:
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


def _fused(subject: Subject, server: Server) -> Iterator[Finding]:
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


def _towers(subject: Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM `--enable-tower-connector-lora`; SGLang pull request 11519."""
    towers = tuple(name for name in subject.names if TOWER.search(name))
    if towers:
        what = f"{server.name} applies LoRA to the language model only"
        todo = "Place without these types"
        if server.name == "vllm":
            todo += ", or start the server with --enable-tower-connector-lora (some classes)"
        yield Finding("ignored", what, towers, todo)


def _prefix(subject: Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM issues 34186, 34591 and 48019; `_get_text_lora_names`."""
    wrapped = any("language_model" in name.split(".") for name in subject.names)
    plain = subject.model_type.endswith("_text") and not server.reads_text_names
    if wrapped or plain:
        trained = "multimodal" if wrapped else "text-only"
        what = (
            f"the names are those of the {trained} class; if {server.name} serves the checkpoint "
            "as another class, they match nothing and the base model answers"
        )
        todo = "Serve the class that was trained, and compare one answer with and without adapter"
        yield Finding("note", what, (), todo)


def _tables(subject: Subject, server: Server) -> Iterator[Finding]:
    """Source: vLLM `embedding_modules` of the model classes, issue 32599; peft issue 2018."""
    tables = tuple(name for name in subject.names if name.rpartition(".")[2] in _TABLES)
    if tables:
        what = f"embeddings and heads have LoRA only in some classes of {server.name}"
        todo = "Place without them; where they are tied, PEFT adapts one side and not the other"
        yield Finding("note", what, tables, todo)


def _tokens(subject: Subject, server: Server) -> Iterator[Finding]:
    """Source: SGLang `validate_new_adapter`; vLLM 0.12 dropped `lora_extra_vocab_size`."""
    if subject.added_tokens:
        severity: Severity = "ignored" if server.name == "vllm" else "rejected"
        what = f"added_tokens.json: {server.name} serves no tokens beyond the base vocabulary"
        todo = "Delete the file if its tokens are the base model's own; else merge the adapter"
        yield Finding(severity, what, (), todo)


_CHECKS: tuple[Callable[[Subject, Server], Iterator[Finding]], ...] = (
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
    stacked_experts,
    experts_apart,
    _tables,
    _tokens,
)
