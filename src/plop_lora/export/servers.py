"""What each inference server reads of a PEFT configuration, as data. Pure.

The facts are those of the servers' public sources in autumn 2026, those about stacks and names of
modules of vLLM 0.33.0 and SGLang 0.5.23; no server was run here.

Source: vLLM `lora/peft_helper.py`, `config/lora.py`; SGLang `srt/lora/lora_config.py`, `lora.py`,
`lora_manager.py`, `utils.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from plop_lora.export.stacking import SGLANG_STACKS, VLLM_STACKS, Stack

FOLD = "Fold the trained adapter: plop export ADAPTER --to vllm -o DIR"
MERGE = "Merge the trained adapter into its model with model.merge_and_unload() and serve that"


@dataclass(frozen=True, slots=True)
class Server:
    """What a server reads of a PEFT configuration.

    Attributes:
        name: what `--serve` takes.
        ranks: allowed values of its `--max-lora-rank`; empty where any is.
        default_rank: its `--max-lora-rank` when none is given; None: that of its first adapters.
        reads_rslora: whether it scales by alpha / sqrt(r) when `use_rslora` says so.
        mixed_ranks: whether weights may have other ranks than `r`.
        patterns: whether `target_modules` may be a regular expression.
        leaves: module names it has LoRA layers for; empty where any linear layer has.
        rejects: settings of PEFT that it refuses by name; it ignores the others in `FEATURES`.
        stacks: projections whose adapters it stacks, some of which must come together.
        sized_by_class: module names that load only where the model's class gives their sizes.
        unsized: model types of transformers whose class there is known to give none.
    """

    name: str
    ranks: tuple[int, ...]
    default_rank: int | None
    reads_rslora: bool
    mixed_ranks: bool
    patterns: bool
    leaves: frozenset[str]
    rejects: frozenset[str]
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
_SGLANG_LEAVES = frozenset({
    "q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "out_proj",
    "gate_proj", "up_proj", "gate_up_proj", "down_proj",
    "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "wq_b", "wk", "weights_proj",
    "in_proj", "in_proj_qkvz",
    "fc1_latent_proj", "fc2_latent_proj", "embed_tokens", "lm_head",
})
_SGLANG_BY_CLASS = frozenset({
    "out_proj", "in_proj", "in_proj_qkvz", "fc1_latent_proj", "fc2_latent_proj",
})
# fmt: on
"""Source: SGLang `srt/lora/utils.py`: the names it has sizes for, and what is mapped to them; for
the second set only where the model's class defines `get_hidden_dim`, as Qwen3.5 does."""

SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        Server(
            name="vllm",
            ranks=VLLM_RANKS,
            default_rank=16,
            reads_rslora=True,
            mixed_ranks=True,
            patterns=True,
            leaves=frozenset(),
            rejects=frozenset(
                {"use_dora", "bias", "lora_bias", "modules_to_save", "trainable_token_indices"}
            ),
            stacks=VLLM_STACKS,
            sized_by_class=frozenset(),
            unsized=frozenset(),
        ),
        Server(
            name="sglang",
            ranks=(),
            default_rank=None,
            reads_rslora=False,
            mixed_ranks=False,
            patterns=False,
            leaves=_SGLANG_LEAVES,
            rejects=frozenset({"use_dora"}),
            stacks=SGLANG_STACKS,
            sized_by_class=_SGLANG_BY_CLASS,
            unsized=frozenset({"qwen3_next"}),
        ),
    )
}
"""Name → server of `plop export --serve NAME`."""

FEATURES: dict[str, tuple[str, str]] = {
    "use_dora": ("DoRA (use_dora)", MERGE),
    "bias": ("trained biases (bias)", 'Train with bias="none", or merge the adapter'),
    "lora_bias": ("biases of B (lora_bias)", "Train with lora_bias=False, or merge the adapter"),
    "modules_to_save": (
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


def changes_base(init: Any) -> bool:
    """Whether an initialisation moves a part of the base weights into the adapter."""
    return isinstance(init, str) and init.lower().startswith(_CHANGES_BASE)


def features_in(config: Mapping[str, Any]) -> list[str]:
    """Return the keys of `FEATURES` that a configuration uses."""
    return [key for key in FEATURES if config.get(key) not in (None, False, "none", [], {})]
