"""Logits for the tokens that are judged, and for no others.

A model writes logits for every token over its whole vocabulary, and the loss of a finetune reads
those that predict a completion. For a small model the rest is a large share of a step: the head of
a 135 M model costs as much as a third of its blocks, that of a 270 M model with 262,144 tokens
more than all of them. Shape letters: B batch, T token, N kept tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORED = -100
"""The label of a token that is not judged."""


@contextlib.contextmanager
def kept_rows(model: PreTrainedModel, kept_BT: torch.Tensor) -> Iterator[None]:
    """Let the output head of a model see only the features where `kept_BT` is true.

    The model's own forward runs, so that what it does to its logits, such as a scale or a soft
    cap, is done to those that are left; `kept_logits` reads them. A head that is not called as a
    module, or on features of another shape, computes all logits, which `kept_logits` reads too.

    Args:
        model: A causal language model, with adapters or without.
        kept_BT: Whether the token after each one is judged; of the batch's shape.
    """

    def select(head: Any, given: tuple[Any, ...]) -> tuple[object, ...] | None:
        features_BTH = given[0]
        if features_BTH.shape[:-1] != kept_BT.shape:
            return None
        return (features_BTH[kept_BT].unsqueeze(0), *given[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def kept_logits(logits: torch.Tensor, kept_BT: torch.Tensor) -> torch.Tensor:
    """Return the logits of the kept tokens, [N, V], row by row of the batch.

    Args:
        logits: The logits of a forward inside `kept_rows`, of shape [1, N, V] or [B, T, V].
        kept_BT: The mask that `kept_rows` was given.
    """
    return logits[kept_BT] if logits.shape[:-1] == kept_BT.shape else logits[0]


def next_token_nats(
    model: PreTrainedModel, inputs: dict[str, Any], labels_BT: torch.Tensor, *, forward: Any = None
) -> torch.Tensor:
    """Return the loss of every judged token in nats, [N] in float32, row by row of the batch.

    Args:
        model: A causal language model, with adapters or without.
        inputs: Keyword arguments of its forward, without labels.
        labels_BT: Token numbers, `IGNORED` where a token is not judged. The first token of a row
            has nothing before it to be predicted from, and is not judged either.
        forward: Function that is called in place of the model, such as its wrapper for several
            processes.
    """
    next_BT = functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORED)
    kept_BT = next_BT != IGNORED
    with kept_rows(model, kept_BT):
        output = (forward or model)(**inputs, use_cache=False)
    logits_NV = kept_logits(output.logits, kept_BT)
    return functional.cross_entropy(logits_NV.float(), next_BT[kept_BT], reduction="none")
