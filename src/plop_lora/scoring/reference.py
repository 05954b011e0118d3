"""The choice on inputs that are not the user's: whether it comes from the data or from the model.

Random tokens of the shapes of the user's own batches go through the model once more. Where the
same types are lowest on them, the choice says more about the model than about the task.

Shape letters: B batch, T token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from plop_lora.data.batches import SIDES, Batch
from plop_lora.placement.stopping import examine
from plop_lora.records import ReferenceChoice
from plop_lora.scoring.inputs import vocabulary_of
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.stopping import StopRule, group_estimates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RANDOM_TOKENS = "random tokens"
SEQUENCES = 8
TOKENS = 256
"""Random sequences at most, and tokens after which there are enough: random tokens are all alike,
so that few of them say what many would."""
_IDS = {"input_ids": SIDES[0], "decoder_input_ids": SIDES[1]}
_READ = {*_IDS, *SIDES, "token_type_ids", "position_ids"}


def random_batches(
    batches: Sequence[Batch], model: nn.Module, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[Batch, ...]:
    """Return random tokens in the shapes of the first sequences of some batches.

    Args:
        batches: in the order of scoring.
        model: says how many tokens there are.
        tokenizer: says which of them are special, which are not drawn; None where there is none.
        seed: of the draw.

    Returns:
        None at all where the vocabulary is unknown, or where a batch holds more than tokens, such
        as images that some of its tokens stand for.
    """
    allowed = vocabulary_of(model, tokenizer)
    beginning = list(_beginning(batches))
    if not allowed or any(not _of_tokens(batch) for batch in beginning):
        return ()
    generator = torch.Generator().manual_seed(seed)
    drawn_from = torch.tensor(allowed)
    return tuple(
        _drawn(batch, drawn_from, generator, number) for number, batch in enumerate(beginning)
    )


def _beginning(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Yield the first sequences, in batches as they are but for the last."""
    sequences = tokens = 0
    for batch in batches:
        if sequences >= SEQUENCES or tokens >= TOKENS:
            return
        width = max(1, _tokens([batch]) // len(batch.names))
        wanted = min(SEQUENCES - sequences, -(-(TOKENS - tokens) // width))
        if len(batch.names) > wanted and batch.can_split():
            batch = batch.part(0, wanted)
        yield batch
        sequences += len(batch.names)
        tokens += _tokens([batch])


def _of_tokens(batch: Batch) -> bool:
    return "input_ids" in batch.inputs and set(batch.inputs) <= _READ


def _drawn(batch: Batch, allowed: torch.Tensor, generator: torch.Generator, number: int) -> Batch:
    """Return a batch with other tokens; padding stays, and so does what a decoder begins with."""
    inputs = dict(batch.inputs)
    for ids, mask in _IDS.items():
        if ids not in inputs:
            continue
        given_BT = inputs[ids]
        mask_BT = inputs.get(mask, torch.ones_like(given_BT)).bool().clone()
        mask_BT[:, 0] &= mask == SIDES[0]
        places_BT = torch.randint(len(allowed), given_BT.shape, generator=generator)
        drawn_BT = allowed[places_BT].to(given_BT)
        inputs[ids] = torch.where(mask_BT, drawn_BT, given_BT)
    names = tuple(f"{RANDOM_TOKENS} {number} {row}" for row in range(len(batch.names)))
    return Batch(inputs, names)


def _tokens(batches: Sequence[Batch]) -> int:
    """Return how many tokens batches hold, on both sides."""
    return sum(
        int(batch.inputs.get(mask, torch.ones_like(batch.inputs[ids])).sum())
        for batch in batches
        for ids, mask in _IDS.items()
        if ids in batch.inputs
    )


def references_of(
    stop_rule: StopRule, measured: Measured, random: Measured | None
) -> tuple[ReferenceChoice, ...]:
    """Return what the record says of the choice without the user's data."""
    if random is None:
        return ()
    estimates = group_estimates(stop_rule.sites, random)
    chosen = examine(estimates, stop_rule.settings).chosen
    return (
        ReferenceChoice(
            name=RANDOM_TOKENS,
            chosen=chosen,
            same_choice=set(chosen) == set(stop_rule.decide(measured).chosen),
            nfn={name: estimates[name].value for name in sorted(estimates)},
            sequences=len(random.names),
            tokens=random.tokens,
        ),
    )
