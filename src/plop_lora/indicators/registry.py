"""Every indicator as one row: what it is, where it comes from, which direction, how it is measured.

An indicator is added by its row alone. `plop score --indicator` records it, `plop place
--indicator` chooses by it, and `plop verify --arms` proves the choice; a strategy such as `plop`
says from which end of the order the types are taken. No torch: measures import it where they use
it.
"""

from __future__ import annotations

from dataclasses import dataclass

from plop_lora.errors import UsageError
from plop_lora.indicators.eva import eva_ranks
from plop_lora.indicators.gradient import gradient_norms
from plop_lora.indicators.kappatune import kappa_order
from plop_lora.indicators.kinds import Measure, OfFeatures, OfModels, OfRecords, OfWeights
from plop_lora.indicators.scored import effective_rank, nfn, parameter_share, response_gain
from plop_lora.options import check_word

NFN = "nfn"


@dataclass(frozen=True, slots=True)
class Indicator:
    """One row of the registry.

    Attributes:
        name: The name that the command line and records use.
        title: The heading of its column in a table.
        description: What it is, and which values come first.
        source: The paper, or what else it rests on.
        lower_first: Whether the types with the lowest values are adapted first.
        needs: What it looks at.
        memory: What it holds in memory beside the model.
        measure: How it is measured, of one of four kinds.
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
        """Whether it is a number of `Scores`; the others are signals of a model in training."""
        return not isinstance(self.measure, OfModels)

    def first(self, value: float) -> float:
        """Return a key by which values sort, those that are adapted first in front."""
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
            memory="one number a token of a batch",
            measure=OfFeatures(nfn),
        ),
        Indicator(
            name="response-gain",
            title="gain",
            description="||Wz|| / ||z||, NFN without its denominator, lowest first",
            source="the numerator of PLoP's NFN, https://arxiv.org/abs/2506.20629; a yardstick",
            lower_first=True,
            needs="features",
            memory="one number a token of a batch",
            measure=OfFeatures(response_gain),
        ),
        Indicator(
            name="rank-of-weights",
            title="rank of W",
            description="the effective rank of the weight, (Σσ²)² / Σσ⁴, highest first",
            source="a baseline that looks at no data: the participation ratio of the squared "
            "singular values",
            lower_first=False,
            needs="weights",
            memory="a float32 copy of a weight whose smaller side is at most 256",
            measure=OfWeights(effective_rank),
        ),
        Indicator(
            name="parameter-share",
            title="share",
            description="a type's share of the parameters, highest first",
            source="a baseline that looks at neither data nor weights",
            lower_first=False,
            needs="scores",
            memory="nothing",
            measure=OfRecords(parameter_share),
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
            lower_first=False,  # its value is minus the place in PEFT's order
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
            memory="a forward and 2 × rank directions an input",
            measure=OfModels(eva_ranks, are_ranks=True),
        ),
    )
}
"""Name → row."""


def find_indicator(name: str) -> Indicator:
    """Return a row of `INDICATORS`.

    Raises:
        UsageError: there is none of that name; the nearest is offered.
    """
    check_word("indicator", name, INDICATORS)
    return INDICATORS[name]


def recorded_indicator(name: str) -> Indicator:
    """Return a row whose numbers a record of scores holds.

    Raises:
        UsageError: there is none of that name, or it is measured on a model in training.
    """
    row = find_indicator(name)
    if not row.is_recorded:
        recorded = [one.name for one in INDICATORS.values() if one.is_recorded]
        raise UsageError(
            f"The indicator {name!r} needs {row.needs} and is measured on the model that is "
            f"trained: plop verify --arms {name}. Scores can hold: {', '.join(recorded)}."
        )
    return row
