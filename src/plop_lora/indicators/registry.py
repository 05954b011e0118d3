"""The registry of indicators: description, source, direction and measure of each.

A new indicator needs only a row here. `plop score --indicator` records it, `plop place --indicator`
chooses by it, and `plop verify --arms` tests the choice; a strategy such as `plop` determines from
which end of the order the types are taken. Does not import torch: measures import it lazily.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plop_lora.errors import UsageError
from plop_lora.indicators.contrast import contrast
from plop_lora.indicators.eva import eva_ranks
from plop_lora.indicators.gradient import gradient_norms
from plop_lora.indicators.kappatune import kappa_order
from plop_lora.indicators.kinds import (
    Measure,
    OfFeatures,
    OfModels,
    OfRecords,
    OfReferences,
    OfWeights,
)
from plop_lora.indicators.scored import (
    depth,
    effective_rank,
    nfn,
    parameter_share,
    response_gain,
)
from plop_lora.indicators.singular_values import log_condition, stable_rank
from plop_lora.indicators.texts import (
    mean_direction_share,
    nfn_with_special_tokens,
    rank_of_inputs,
    rank_of_outputs,
    token_spread,
)
from plop_lora.options import check_word

NFN = "nfn"
CONTRAST = "contrast"


@dataclass(frozen=True, slots=True)
class Indicator:
    """One row of the registry.

    Attributes:
        name: Name on the command line and in records.
        title: Heading of its column in a table.
        description: Description, and whether the lowest or highest values come first.
        source: Paper, or another justification.
        lower_first: Whether the types with the lowest values are adapted first.
        needs: Inputs of the measure.
        memory: Memory that the measure needs in addition to the model.
        measure: Measure, of one of the kinds in `kinds`.
    """

    name: str
    title: str
    description: str
    source: str
    lower_first: bool
    needs: str
    memory: str
    measure: Measure

    @property
    def is_recorded(self) -> bool:
        """Whether `Scores` can hold it; the others are measured on the model to be trained."""
        return not isinstance(self.measure, OfModels)

    def first(self, value: float) -> float:
        """Return a sort key that puts the values of types to adapt first in front."""
        return value if self.lower_first else -value


INDICATORS: dict[str, Indicator] = {
    row.name: row
    for row in (
        Indicator(
            name=NFN,
            title="NFN",
            description="the Normalized Feature Norm, lowest first",
            source="PLoP, arXiv 2506.20629, https://arxiv.org/abs/2506.20629",
            lower_first=True,
            needs="features",
            memory="one number per token of a batch",
            measure=OfFeatures(nfn),
        ),
        Indicator(
            name="response-gain",
            title="gain",
            description="||Wz|| / ||z||, NFN without its denominator, lowest first",
            source="the numerator of PLoP's NFN, https://arxiv.org/abs/2506.20629; a baseline",
            lower_first=True,
            needs="features",
            memory="one number per token of a batch",
            measure=OfFeatures(response_gain),
        ),
        Indicator(
            name="nfn-special-tokens",
            title="NFN, all tokens",
            description="NFN over all tokens of a text, also the special ones, lowest first",
            source="PLoP, whose code counts them, https://arxiv.org/abs/2506.20629",
            lower_first=True,
            needs="features",
            memory="one number per token of a batch",
            measure=OfFeatures(nfn_with_special_tokens),
        ),
        Indicator(
            name="token-spread",
            title="spread",
            description="the standard deviation of NFN over the tokens of a text, lowest first",
            source="a baseline: how far NFN is a property of single tokens",
            lower_first=True,
            needs="features",
            memory="one number per token of a batch",
            measure=OfFeatures(token_spread),
        ),
        Indicator(
            name="mean-share",
            title="mean share",
            description="the share of a text's mean input in the output, ||Wm||² / mean ||Wz||², "
            "lowest first",
            source="a baseline: the features of language models share a direction, "
            "https://arxiv.org/abs/1909.00512",
            lower_first=True,
            needs="features",
            memory="a float32 copy of the output of one call",
            measure=OfFeatures(mean_direction_share),
        ),
        Indicator(
            name="rank-of-inputs",
            title="rank of z",
            description="the effective rank of the directions of a text's inputs, highest first",
            source="a baseline: the participation ratio of their second moment",
            lower_first=False,
            needs="features",
            memory="a float32 copy of the input of one call, and tokens × tokens of a text",
            measure=OfFeatures(rank_of_inputs),
        ),
        Indicator(
            name="rank-of-outputs",
            title="rank of Wz",
            description="the effective rank of the directions of a text's outputs, highest first",
            source="a baseline: the participation ratio of their second moment",
            lower_first=False,
            needs="features",
            memory="a float32 copy of the output of one call, and tokens × tokens of a text",
            measure=OfFeatures(rank_of_outputs),
        ),
        Indicator(
            name="rank-of-weights",
            title="rank of W",
            description="the effective rank of the weight, (Σσ²)² / Σσ⁴, highest first",
            source="a baseline that is independent of the data: the participation ratio of the "
            "squared singular values",
            lower_first=False,
            needs="weights",
            memory="a float32 copy of a weight whose smaller side is at most 256",
            measure=OfWeights(effective_rank),
        ),
        Indicator(
            name="stable-rank",
            title="stable rank",
            description="the stable rank of the weight, ||W||_F² / σ_max², highest first",
            source="a baseline that is independent of the data, https://arxiv.org/abs/math/0503442",
            lower_first=False,
            needs="weights",
            memory="a float32 copy of one weight",
            measure=OfWeights(stable_rank),
        ),
        Indicator(
            name="log-condition",
            title="log κ",
            description="the logarithm of the condition number of the weight, lowest first",
            source="KappaTune, arXiv 2506.16289, https://arxiv.org/abs/2506.16289",
            lower_first=True,
            needs="weights",
            memory="two float32 copies of one weight",
            measure=OfWeights(log_condition),
        ),
        Indicator(
            name="depth",
            title="depth",
            description="the layer as a share of the last one, highest first",
            source="a baseline that is independent of data and weights",
            lower_first=False,
            needs="scores",
            memory="nothing",
            measure=OfRecords(depth),
        ),
        Indicator(
            name="parameter-share",
            title="share",
            description="a type's share of the parameters, highest first",
            source="a baseline that is independent of data and weights",
            lower_first=False,
            needs="scores",
            memory="nothing",
            measure=OfRecords(parameter_share),
        ),
        Indicator(
            name=CONTRAST,
            title="contrast",
            description="log NFN on the texts minus log NFN on general text, lowest first",
            source="a baseline of this project: PLoP's rule with the model's part of NFN removed; "
            "no study has tested it",
            lower_first=True,
            needs="a reference",
            memory="nothing",
            measure=OfReferences(contrast),
        ),
        Indicator(
            name="gradient",
            title="gradient",
            description="the norm of the loss's gradient in one batch, highest first",
            source="a baseline; gradient-based placement as in GoRA, arXiv 2502.12171, "
            "https://arxiv.org/abs/2502.12171",
            lower_first=False,
            needs="a batch with labels",
            memory="a training step's activations and one gradient",
            measure=OfModels(gradient_norms),
        ),
        Indicator(
            name="kappa",
            title="KappaTune",
            description="PEFT's KappaTune: condition number of the weight, lowest first",
            source="KappaTune, arXiv 2506.16289, https://arxiv.org/abs/2506.16289; "
            "peft.helpers.KappaTuneSelector",
            lower_first=False,  # its value is minus the position in PEFT's order
            needs="weights",
            memory="a float32 copy of one weight",
            measure=OfModels(kappa_order, takes_batches=False),
        ),
        Indicator(
            name="eva",
            title="EVA",
            description="PEFT's EVA: ranks by the explained variance of the inputs",
            source="EVA, arXiv 2410.07170, https://arxiv.org/abs/2410.07170; "
            "peft.tuners.lora.eva.get_eva_state_dict",
            lower_first=False,
            needs="batches",
            memory="a forward pass and 2 × rank directions per input",
            measure=OfModels(eva_ranks, are_ranks=True),
        ),
    )
}
"""Name → row."""


def find_indicator(name: str) -> Indicator:
    """Return the indicator of a name.

    Raises:
        UsageError: There is no such indicator; the message suggests the nearest name.
    """
    check_word("indicator", name, INDICATORS)
    return INDICATORS[name]


def recorded_indicator(name: str) -> Indicator:
    """Return the indicator of a name that a record of scores can hold.

    Raises:
        UsageError: There is no such indicator, or it is measured on the model to be trained.
    """
    row = find_indicator(name)
    if not row.is_recorded:
        recorded = [one.name for one in INDICATORS.values() if one.is_recorded]
        raise UsageError(
            f"The indicator {name!r} needs {row.needs} and is measured on the model that is "
            f"trained: plop verify --arms {name}. Scores can hold: {', '.join(recorded)}."
        )
    return row


def recorded_indicators(names: Sequence[str], *, reference: bool) -> tuple[Indicator, ...]:
    """Return the indicators to record beside NFN, each once; NFN itself is always recorded.

    Args:
        names: Names of indicators.
        reference: Whether general text is scored as well.

    Raises:
        UsageError: A name is unknown, or its indicator cannot be recorded in such a run.
    """
    rows = [recorded_indicator(name) for name in dict.fromkeys(names)]
    for row in rows:
        if isinstance(row.measure, OfReferences) and not reference:
            raise UsageError(
                f"The indicator {row.name!r} compares your texts with general text. Leave out "
                "--no-reference (in a recipe, reference: false), or the indicator."
            )
    return tuple(row for row in rows if row.name != NFN)
