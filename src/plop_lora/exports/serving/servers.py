"""What each inference server reads of a PEFT configuration, by release, as data. Pure.

Read in the sources of vLLM 0.24.0 to 0.33.0 and of SGLang 0.5.10 to 0.5.23. No server was run; of
SGLang's loader the stacking and the copy into its buffers were, on a CPU. "Rejected" says that the
server does not start, refuses the adapter or fails at its first request; "ignored" that it serves
something else without a word.

| of an adapter                       | vLLM                                  | SGLang          |
|-------------------------------------|---------------------------------------|-----------------|
| rank_pattern                        | from 0.32.0; before, ignored          | rejected        |
| alpha_pattern                       | from 0.32.0; before, ignored          | ignored         |
| use_rslora                          | served; of experts apart from 0.30.0  | ignored         |
| use_dora, kasa, monteclora          | rejected                              | rejected        |
| bias, lora_bias                     | rejected                              | ignored (1)     |
| trainable_token_indices             | rejected                              | ignored         |
| modules_to_save: score, classifier  | from 0.31.0 (2); before, rejected     | ignored         |
| modules_to_save: embeddings, head   | rejected                              | ignored         |
| modules_to_save: others             | rejected                              | rejected        |
| layer_replication, qalora, bdlora   | rejected from 0.32.0; before, ignored | rejected        |
| alora_invocation_tokens             | rejected from 0.32.0; before, ignored | ignored         |
| arrow_config, init lora_ga          | ignored                               | ignored         |
| init pissa, olora, corda, loftq     | rejected from 0.32.0; before, ignored | ignored         |
| other inits, velora_config          | served                                | served          |
| target_modules as a pattern         | served                                | rejected        |
| target_parameters                   | experts (3)                           | rejected (4)    |
| text-only names, multimodal class   | from 0.33.0; before, ignored          | ignored         |
| in_proj_qkv without in_proj_z       | from 0.29.0; before, rejected         | rejected (4)    |
| out_proj, in_proj, in_proj_qkvz (5) | served                                | from 0.5.11 (4) |
| q_a_proj, kv_a_proj_with_mqa        | served                                | from 0.5.11 (4) |
| q_b_proj, kv_b_proj                 | served                                | from 0.5.12     |
| wq_b, wk, weights_proj              | served                                | from 0.5.14     |

(1) Biases of modules without an adapter, which `bias="all"` saves, are rejected. (2) Of models that
are served as classifiers. (3) See `experts.py`. (4) See `stacking.py`. (5) And `fc1_latent_proj`,
`fc2_latent_proj`. Names that stand in no row are served as far as the class of the model has them.

Source: vLLM `lora/peft_helper.py`, `lora_model.py`, `lora_weights.py`, `model_manager.py`,
`config/lora.py`; SGLang `srt/lora/lora_config.py`, `lora.py`, `lora_manager.py`, `mem_pool.py`,
`utils.py`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from plop_lora.errors import UsageError, nearest
from plop_lora.exports.serving.stacking import (
    SGLANG_STACKS,
    VLLM_STACKS,
    VLLM_STACKS_BEFORE_0_29,
    Stack,
)

FOLD = "Fold the trained adapter: plop export ADAPTER --to vllm -o DIR"
MERGE = "Merge the trained adapter into its model with model.merge_and_unload() and serve that"


@dataclass(frozen=True, slots=True)
class Server:
    """What a release of a server reads of a PEFT configuration.

    Attributes:
        name: What `--serve` takes.
        release: A release that has these rules.
        oldest: The oldest release that was read.
        ranks: Allowed values of its `--max-lora-rank`; empty where any is.
        default_rank: Its `--max-lora-rank` when none is given; None: that of its first adapters.
        reads_rslora: Whether it scales by alpha / sqrt(r) when `use_rslora` says so.
        reads_expert_rslora: Whether it does so where each expert has adapters of its own.
        reads_patterns: Whether it gives weights the rank and the alpha of the two patterns.
        mixed_ranks: Whether weights may have other ranks than `r`.
        patterns: Whether `target_modules` may be a regular expression.
        leaves: Module names it has LoRA layers for; empty where any linear layer has.
        rejects: Settings of PEFT that it refuses; it ignores the others in `FEATURES`.
        rejects_inits: Whether it refuses inits that change the base weights when PEFT loads them.
        heads: Whole modules that it serves, of classifiers.
        drops: Whole modules that it passes over; it fails at any other.
        reads_text_names: Whether a multimodal class takes the names of its text-only class.
        stacks: Projections whose adapters it stacks, some of which must come together.
        sized_by_class: Module names that load only where the model's class gives their sizes.
        unsized: Model types of transformers whose class there is known to give none.
    """

    name: str
    release: str
    oldest: str
    ranks: tuple[int, ...]
    default_rank: int | None
    reads_rslora: bool
    reads_expert_rslora: bool
    reads_patterns: bool
    mixed_ranks: bool
    patterns: bool
    leaves: frozenset[str]
    rejects: frozenset[str]
    rejects_inits: bool
    heads: frozenset[str]
    drops: frozenset[str]
    reads_text_names: bool
    stacks: tuple[Stack, ...]
    sized_by_class: frozenset[str]
    unsized: frozenset[str]

    def scaling(self, config: Mapping[str, Any]) -> float:
        """Return the factor that it puts in front of every B·A."""
        rank = config["r"]
        root = self.reads_rslora and config.get("use_rslora")
        return float(config["lora_alpha"] / (math.sqrt(rank) if root else rank))


VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's `--max-lora-rank`. Source: vLLM `config/lora.py`, `MaxLoRARanks`."""

# fmt: off
_SGLANG_FIRST = frozenset({
    "q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj",
    "gate_proj", "up_proj", "gate_up_proj", "down_proj", "embed_tokens", "lm_head",
})
_SGLANG_BY_CLASS = frozenset({
    "out_proj", "in_proj", "in_proj_qkvz", "fc1_latent_proj", "fc2_latent_proj",
})
_SGLANG_0_5_11 = _SGLANG_FIRST | _SGLANG_BY_CLASS | {"q_a_proj", "kv_a_proj_with_mqa"}
_SGLANG_0_5_12 = _SGLANG_0_5_11 | {"q_b_proj", "kv_b_proj"}
_SGLANG_LEAVES = _SGLANG_0_5_12 | {"wq_b", "wk", "weights_proj"}

_EXTRA_TENSORS = frozenset({"use_dora", "kasa_config", "monteclora_config"})
_OTHER_SHAPES = frozenset({"layer_replication", "use_qalora", "use_bdlora"})
_VLLM_FIRST = _EXTRA_TENSORS | {"bias", "lora_bias", "trainable_token_indices"}
_OUTSIDE = frozenset({
    "embed_tokens", "lm_head", "score", "classifier", "wte", "embed_in", "embed_out",
    "word_embeddings", "embeddings",
})
# fmt: on
"""Module names are those that SGLang has sizes for, and what is mapped to them; those by class only
where the model's class defines `get_hidden_dim`, as Qwen3.5 does."""

SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        Server(
            name="vllm",
            release="0.33.0",
            oldest="0.24.0",
            ranks=VLLM_RANKS,
            default_rank=16,
            reads_rslora=True,
            reads_expert_rslora=True,
            reads_patterns=True,
            mixed_ranks=True,
            patterns=True,
            leaves=frozenset(),
            rejects=_VLLM_FIRST | _OTHER_SHAPES | {"alora_invocation_tokens"},
            rejects_inits=True,
            heads=frozenset({"score", "classifier"}),
            drops=frozenset(),
            reads_text_names=True,
            stacks=VLLM_STACKS,
            sized_by_class=frozenset(),
            unsized=frozenset(),
        ),
        Server(
            name="sglang",
            release="0.5.23",
            oldest="0.5.10",
            ranks=(),
            default_rank=None,
            reads_rslora=False,
            reads_expert_rslora=False,
            reads_patterns=False,
            mixed_ranks=False,
            patterns=False,
            leaves=_SGLANG_LEAVES,
            rejects=_EXTRA_TENSORS | _OTHER_SHAPES,
            rejects_inits=False,
            heads=frozenset(),
            drops=_OUTSIDE,
            reads_text_names=False,
            stacks=SGLANG_STACKS,
            sized_by_class=_SGLANG_BY_CLASS,
            unsized=frozenset({"qwen3_next"}),
        ),
    )
}
"""Name → the newest release that was read, of `plop export --serve NAME`."""

_BEFORE: dict[str, tuple[tuple[str, dict[str, object]], ...]] = {
    "vllm": (
        ("0.33.0", {"reads_text_names": False}),
        ("0.32.0", {"reads_patterns": False, "rejects_inits": False, "rejects": _VLLM_FIRST}),
        ("0.31.0", {"heads": frozenset()}),
        ("0.30.0", {"reads_expert_rslora": False}),
        ("0.29.0", {"stacks": VLLM_STACKS_BEFORE_0_29}),
    ),
    "sglang": (
        ("0.5.14", {"leaves": _SGLANG_0_5_12}),
        ("0.5.12", {"leaves": _SGLANG_0_5_11}),
        ("0.5.11", {"leaves": _SGLANG_FIRST}),
    ),
}
"""Name → what holds before a release in the place of what holds from it on, the newest first."""


def server_of(given: str) -> Server:
    """Return the rules of a server, or of one of its releases.

    A release above the newest that was read has the rules of that one.

    Args:
        given: `NAME`, or `NAME==RELEASE`.

    Raises:
        UsageError: An unknown server, no release, or one older than any that was read.

    >>> server_of("vllm").reads_patterns, server_of("vllm==0.31.0").reads_patterns
    (True, False)
    """
    name, asked, release = given.partition("==")
    if name not in SERVERS:
        raise UsageError(
            f"Nothing is known about serving with {name!r}.{nearest(name, SERVERS)} "
            f"Allowed: {', '.join(SERVERS)}, or NAME==RELEASE."
        )
    newest = SERVERS[name]
    if not asked:
        return newest
    wanted = _parts(release)
    if not wanted:
        raise UsageError(
            f"{release!r} is no release of {name}. Give one such as {name}=={newest.release}."
        )
    if wanted < _parts(newest.oldest):
        raise UsageError(
            f"The rules of {name} {release} are not known: {newest.oldest} to {newest.release} "
            f"were read. Serve with one of these, or see the newest rules with --serve {name}."
        )
    changes: dict[str, Any] = {}
    for since, before in _BEFORE[name]:
        if wanted < _parts(since):
            changes |= {"release": release, **before}
    return dataclasses.replace(newest, **changes)


def _parts(release: str) -> tuple[int, ...]:
    """Return the numbers of a release, three or more; none where it is no release."""
    found = re.fullmatch(r"v?(\d+(?:\.\d+)*)(?:\.?(?:post|rc|dev)\d+)?", release.strip())
    numbers = [int(part) for part in found[1].split(".")] if found else []
    return tuple(numbers + [0] * (3 - len(numbers))) if numbers else ()


MODULES_TO_SAVE = "modules_to_save"

FEATURES: dict[str, tuple[str, str]] = {
    "use_dora": ("DoRA (use_dora)", MERGE),
    "bias": ("trained biases (bias)", 'Train with bias="none", or merge the adapter'),
    "lora_bias": ("biases of B (lora_bias)", "Train with lora_bias=False, or merge the adapter"),
    MODULES_TO_SAVE: (
        "whole trained modules (modules_to_save)",
        "Train without modules_to_save, or merge the adapter",
    ),
    "trainable_token_indices": ("trained tokens (trainable_token_indices)", MERGE),
    "alora_invocation_tokens": ("activated LoRA (alora_invocation_tokens)", MERGE),
    "layer_replication": ("repeated layers (layer_replication)", MERGE),
    "use_qalora": ("QA-LoRA (use_qalora)", MERGE),
    "use_bdlora": ("block-diagonal LoRA (use_bdlora)", MERGE),
    "arrow_config": ("routing between adapters (arrow_config)", MERGE),
    "kasa_config": ("KaSA (kasa_config)", MERGE),
    "monteclora_config": ("MonteCLoRA (monteclora_config)", MERGE),
}
"""Setting of PEFT that no server here implements → what it is, and what to do."""

_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
CONVERT = (
    "Save it as a plain LoRA: model.save_pretrained(DIR, "
    "path_initial_model_for_weight_conversion=INITIAL), INITIAL being the adapter saved before "
    "training (with rslora and rank_pattern together PEFT cannot; merge it then)"
)
LOFTQ = "Serve the quantised base model that LoftQ made instead of the original"


def unfoldable(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what of a configuration is more than B·A beside the original weights, and what to do.

    Such an adapter can be served neither as it is nor with its scaling folded.
    """
    for key in features_in(config):
        yield FEATURES[key]
    init = config.get("init_lora_weights")
    if changes_base(init):
        what = f"init_lora_weights {init!r}, which changed the base weights at the start"
        yield what, LOFTQ if init == "loftq" else CONVERT


def changes_base(init: object) -> bool:
    """Whether an initialisation moves a part of the base weights into the adapter."""
    return isinstance(init, str) and init.lower().startswith(_CHANGES_BASE)


def features_in(config: Mapping[str, Any]) -> list[str]:
    """Return the keys of `FEATURES` that a configuration uses."""
    return [key for key in FEATURES if config.get(key) not in (None, False, "none", [], {})]
