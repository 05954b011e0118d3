"""Score a general text beside the user's, to tell what of a ranking comes from the user's texts.

The text is English prose that ships with the package. If the same module types score lowest on it,
the choice says more about the model than about the task. Its sequences are as long as the user's on
average: the first tokens of a sequence often have features unlike any other, so that texts of
another length would differ for that reason alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from plop_lora.data.batches import SIDES, Batch
from plop_lora.data.documents import Documents
from plop_lora.data.general_text import passages
from plop_lora.data.texts import Document
from plop_lora.errors import DataError, ModelError
from plop_lora.placement.stopping import examine
from plop_lora.recipe import ScoringSettings
from plop_lora.records import Agreement, ReferenceChoice
from plop_lora.scoring.assemble import by_site, packed, usable_sites
from plop_lora.scoring.inputs import tokenise
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.measurement.sums import Floats
from plop_lora.scoring.stopping import StopRule, group_estimates
from plop_lora.statistics import rank_correlation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "general English text"
FEWEST, MOST = 16, 32
"""Numbers of sequences: as many as have `TOKENS` tokens, or as many tokens as the user's texts if
these have fewer, within these limits."""
TOKENS = 1024
SHORTEST, LONGEST = 8, 128
"""Limits of the number of tokens of a sequence."""
CHARACTERS_PER_TOKEN = 8
"""Characters that are taken for each token, which is more than tokenizers need for English."""
_PREFIX = "reference "
_READ = {*SIDES, "input_ids", "decoder_input_ids", "token_type_ids", "position_ids"}


@dataclass(frozen=True, slots=True)
class Reference:
    """Batches of the general text, and a note where there can be none."""

    batches: tuple[Batch, ...] = ()
    notes: tuple[str, ...] = ()


def reference_batches(
    batches: Sequence[Batch],
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    asked: ScoringSettings,
) -> Reference:
    """Return batches of the general text, with sequences as long as the user's on average.

    There are none if the user has switched them off, and, with a note, if the user's batches hold
    other inputs than tokens, no tokenizer is known, or the tokenizer cannot read the text.

    Args:
        batches: Batches of the user.
        model: Model that the text is tokenised for.
        tokenizer: Tokenizer of the model, or None if it is not known.
        asked: Settings of the scoring, which hold for the text as well.
    """
    if not asked.reference:
        return Reference()
    others = sorted({key for batch in batches for key in batch.inputs} - _READ)
    if others or any("input_ids" not in batch.inputs for batch in batches):
        held = ", ".join(others) or "no tokens"
        return _none(f"the batches hold {held}, and a text alone would be another kind of input")
    if tokenizer is None:
        return _none("ready batches need their tokenizer for it")
    tokens, rows = _tokens(batches), sum(len(batch.names) for batch in batches)
    length = min(max(SHORTEST, round(tokens / rows)), LONGEST)
    count = min(max(FEWEST, -(-min(TOKENS, tokens) // length)), MOST)
    items = tuple(map(Document, passages("english", count, CHARACTERS_PER_TOKEN * length)))
    try:
        given = tokenise(
            model, tokenizer, Documents(NAME, items, count, 0), min(length, asked.max_length),
            asked.batch_size, special_tokens=asked.special_tokens,
        )  # fmt: skip
    except (DataError, ModelError):
        return _none("the tokenizer makes no tokens of it that the model has")
    return Reference(tuple(map(_named, given.batches)))


def not_finite() -> str:
    """Return the note of a record whose model gives no finite numbers on the general text."""
    return _none("the model gives NaN or infinity on it").notes[0]


def _none(reason: str) -> Reference:
    return Reference(notes=(f"{NAME} was not scored beside the data: {reason}",))


def _tokens(batches: Sequence[Batch]) -> int:
    """Return the number of tokens of some batches, in an encoder-decoder that of the encoder."""
    return sum(
        int(batch.inputs.get(SIDES[0], torch.ones_like(batch.inputs["input_ids"])).sum())
        for batch in batches
    )


def _named(batch: Batch) -> Batch:
    """Return a batch whose names differ from those of the user's texts, also of equal ones."""
    return replace(batch, names=tuple(_PREFIX + name for name in batch.names))


# --------------------------------------------------------------------------- the record


def references_of(
    stop_rule: StopRule, measured: Measured, reference: Measured | None, seed: int
) -> tuple[ReferenceChoice, ...]:
    """Return the entry of the record that compares the ranking with that on the general text.

    Args:
        stop_rule: Rule of the choice, which holds the sites.
        measured: Measurement of the user's texts.
        reference: Measurement of the general text, if there is one.
        seed: Seed of the resamples of the interval.
    """
    if reference is None:
        return ()
    given, others = (group_estimates(stop_rule.sites, one) for one in (measured, reference))
    chosen = set(stop_rule.decide(measured).chosen)
    lowest = examine(others, stop_rule.settings).chosen
    values, other_values = (
        {name: one.value for name, one in found.items()} for found in (given, others)
    )
    margin = exchange_margin(values, other_values, chosen, set(lowest))
    rows = usable_sites(by_site(measured)[1], measured)
    sums_SN, counts_SN = _by_site(reference)
    names = tuple(name.removeprefix(_PREFIX) for name in reference.names)
    return (
        ReferenceChoice(
            name=NAME,
            chosen=lowest,
            same_choice=set(lowest) == chosen,
            nfn={name: others[name].value for name in sorted(others)},
            sequences=len(names),
            tokens=reference.tokens,
            near_tie=margin is not None and margin <= stop_rule.settings.tolerance,
            margin=margin,
            agreement=_agreement(stop_rule, measured, reference, seed),
            measurements=packed(names, sums_SN[rows], counts_SN[rows]),
        ),
    )


def _by_site(reference: Measured) -> tuple[Floats, Floats]:
    """Return sums and counts [S, N]; those of sites whose rows belong to no sequence are zero."""
    both = by_site(reference)
    for values_SN in both:
        values_SN[sorted(reference.unassignable)] = 0
    return both


def exchange_margin(
    given: Mapping[str, float],
    others: Mapping[str, float],
    chosen: AbstractSet[str],
    lowest: AbstractSet[str],
) -> float | None:
    """Return the NFN by which the exchanged types differ, on the texts that separate them less.

    It is None if both choices are the same, or if one of the types was not seen on both texts.

    Args:
        given: NFN by type on the user's texts.
        others: NFN by type on the other texts.
        chosen: Types with the lowest NFN on the user's texts.
        lowest: As many types with the lowest NFN on the other texts.
    """
    here, there = chosen - lowest, lowest - chosen
    if not here or not (here | there) <= given.keys() & others.keys():
        return None
    on_given = max(given[name] for name in there) - min(given[name] for name in here)
    on_others = max(others[name] for name in here) - min(others[name] for name in there)
    return min(on_given, on_others)


def _agreement(
    stop_rule: StopRule, measured: Measured, reference: Measured, seed: int
) -> Agreement | None:
    """Return how far the ranking of the weights that a placement may choose is the same on both."""
    given, others = (group_estimates(stop_rule.sites, one) for one in (measured, reference))
    (sums_SN, counts_SN), (other_sums_SN, other_counts_SN) = map(_by_site, (measured, reference))
    rows = [
        index
        for index, site in enumerate(stop_rule.sites)
        if site.host.type in given and counts_SN[index].any() and other_counts_SN[index].any()
    ]
    nfn, other_nfn = (
        sums[rows].sum(axis=1) / counts[rows].sum(axis=1)
        for sums, counts in ((sums_SN, counts_SN), (other_sums_SN, other_counts_SN))
    )
    of_weights = rank_correlation(nfn, other_nfn, seed=seed)
    if of_weights is None:
        return None
    types = sorted(given.keys() & others.keys())
    of_types = rank_correlation(
        *([estimates[name].value for name in types] for estimates in (given, others)), seed=seed
    )
    return Agreement(
        weights=len(rows),
        correlation=of_weights.value,
        low=of_weights.low,
        high=of_weights.high,
        of_types=None if of_types is None else of_types.value,
    )
