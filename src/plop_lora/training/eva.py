"""EVA: A starts as the principal directions of the features that reach its weight.

With the initialisation "eva", PEFT's `get_peft_model` silently draws the usual random A; the
features have to be passed to it afterwards. Its loop over them ends only when every direction has
converged, so the number of batches is bounded here.

Source: Paischer et al., "One Initialization to Rule them All", arXiv 2410.07170; peft
`tuners/lora/eva.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from plop_lora.errors import DataError, ModelError, PlopError
from plop_lora.evaluation.judged import Row
from plop_lora.evaluation.precision import precision
from plop_lora.records import TrialSpec
from plop_lora.training.tasks import task_named

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

ROWS = 512
"""The largest number of training rows; their batches repeat until the directions converge."""
BATCHES = 1000


def initialise_from_features(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], spec: TrialSpec
) -> None:
    """Initialise every A of a PEFT model with the principal directions of its input features.

    Raises:
        DataError: The rows have too few tokens for the largest rank.
        ModelError: The directions do not converge, or a weight has fewer inputs than its rank.
    """
    from peft import initialize_lora_eva_weights

    device = next(model.parameters()).device
    batches = _Batches(_batches(tokenizer, rows[:ROWS], spec), device)
    try:
        with precision(model):
            initialize_lora_eva_weights(
                model, batches, gather_distributed_inputs=False, show_progress_bar=False
            )
    except PlopError:
        raise
    except ValueError as error:
        raise ModelError(
            f"EVA cannot initialise these adapters: {error}. Use a smaller rank or --init default."
        ) from error


class _Batches:
    """Batches that can be iterated repeatedly up to a limit."""

    def __init__(self, batches: list[dict[str, torch.Tensor]], device: torch.device) -> None:
        self.batches = batches
        self.device = device
        self.left = BATCHES

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.batches:
            if not self.left:
                raise ModelError(
                    f"EVA did not converge in {BATCHES} batches. Use a smaller rank, more training "
                    "rows, or --init default."
                )
            self.left -= 1
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}


def _batches(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], spec: TrialSpec
) -> list[dict[str, torch.Tensor]]:
    """Return padded batches, each with at least twice as many tokens as the largest rank."""
    task = task_named(spec.task)
    needed = 2 * max(site.rank for site in spec.placement.sites)
    groups: list[list[dict[str, object]]] = [[]]
    for row in rows:
        tokens = list(task.tokens(row, tokenizer))[: spec.training.max_length]
        if len(groups[-1]) >= spec.training.batch_size and _tokens(groups[-1]) >= needed:
            groups.append([])
        groups[-1].append({"input_ids": tokens, "attention_mask": [1] * len(tokens)})
    if len(groups) > 1 and _tokens(groups[-1]) < needed:
        groups[-2:] = [groups[-2] + groups[-1]]
    if _tokens(groups[-1]) < needed:
        raise DataError(
            f"EVA needs {needed} tokens of training rows for rank {needed // 2}, and there are "
            f"{_tokens(groups[-1])}. Give more rows or use --init default."
        )
    return [dict(tokenizer.pad(group, return_tensors="pt")) for group in groups]


def _tokens(group: Sequence[dict[str, Any]]) -> int:
    return sum(len(row["input_ids"]) for row in group)
