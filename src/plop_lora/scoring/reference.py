"""Measure the same choice on random tokens, to tell an effect of the data from one of the model.

The model is run on random tokens in batches of the same shapes as the user's. If the same module
types score lowest on them, the choice says more about the model than about the task.

Shape letters: B batch, T token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
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
"""Maximum number of random sequences."""
TOKENS = 256
"""Number of random tokens that is enough: more of them hardly change the means."""
_IDS = {"input_ids": SIDES[0], "decoder_input_ids": SIDES[1]}
_READ = {*_IDS, *SIDES, "token_type_ids", "position_ids"}


def random_batches(
    batches: Sequence[Batch], model: nn.Module, tokenizer: PreTrainedTokenizerBase, seed: int
) -> tuple[Batch, ...]:
    """Return batches of random tokens with the shapes of the first sequences of `batches`.

    Args:
        batches: Batches of the user, in the order of scoring.
        model: Model whose input embedding gives the size of the vocabulary.
        tokenizer: Tokenizer of the model, whose special tokens are not drawn, or None.
        seed: Seed of the random draws.

    Returns:
        The random batches. The tuple is empty if the vocabulary is unknown, or if a batch holds
        inputs other than tokens, such as images.
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
    """Yield batches until there are enough sequences or tokens; the last one may be cut short."""
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
    """Return a batch with random tokens in place of its own.

    Padding, the first token of a decoder, and special tokens that do not count are kept.
    """
    inputs = dict(batch.inputs)
    for ids, mask in _IDS.items():
        if ids not in inputs:
            continue
        given_BT = inputs[ids]
        there_BT = inputs.get(mask, torch.ones_like(given_BT))
        mask_BT = batch.text_masks.get(mask, there_BT).bool().clone()
        mask_BT[:, 0] &= mask == SIDES[0]
        places_BT = torch.randint(len(allowed), given_BT.shape, generator=generator)
        drawn_BT = allowed[places_BT].to(given_BT)
        inputs[ids] = torch.where(mask_BT, drawn_BT, given_BT)
    names = tuple(f"{RANDOM_TOKENS} {number} {row}" for row in range(len(batch.names)))
    return replace(batch, inputs=inputs, names=names)


def _tokens(batches: Sequence[Batch]) -> int:
    """Return the number of tokens in some batches, those of encoder and decoder together."""
    return sum(
        int(batch.inputs.get(mask, torch.ones_like(batch.inputs[ids])).sum())
        for batch in batches
        for ids, mask in _IDS.items()
        if ids in batch.inputs
    )


def references_of(
    stop_rule: StopRule, measured: Measured, random: Measured | None
) -> tuple[ReferenceChoice, ...]:
    """Return the entry of the record that describes the choice on random tokens, if any."""
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
