"""The section of the project's study: what it found on the networks that are nearest to a model."""

from __future__ import annotations

from plop_lora.records import ModelReference
from plop_lora.reports.page.blocks import DataTable, Section
from plop_lora.reports.text import Text, number
from plop_lora.study.findings import Findings, StudiedNetwork, findings

RULES = ("plop", "all-linear", "random")
"""The rules whose regret is shown."""


def study_section(model: ModelReference, words: Text) -> Section:
    """Return the pairs of the network that is most like a model, and what all pairs say."""
    found = findings()
    network = found.nearest(model.architecture, model.parameters)
    return Section(
        name="study",
        title=words("study.title"),
        lines=(
            words("study.about", pairs=len(found.pairs), networks=len(found.networks)),
            _likeness(model, network, found, words),
            *_pooled(found, words),
            *(() if network is None else (words("study.regret"),)),
        ),
        tables=() if network is None else (_pairs(network, found, words),),
    )


def _likeness(
    model: ModelReference, network: StudiedNetwork | None, found: Findings, words: Text
) -> str:
    if network is None:
        titles = [one.title for one in found.networks]
        return words("study.none", architecture=model.architecture, networks=words.listed(titles))
    known = model.parameters > 0
    return words(
        "study.nearest" if known else "study.nearest.unsized",
        network=network.title,
        architecture=network.architecture,
        size=words.count(network.parameters),
        own=words.count(model.parameters),
    )


def _pooled(found: Findings, words: Text) -> list[str]:
    together = found.pooled
    bounds = words.interval(together.low, together.high, digits=2, signed=True)
    return [
        words(
            "study.pooled", pairs=len(found.pairs), rho=number(together.rho, 2, signed=True),
            bounds=bounds or words("study.unbounded"),
        ),
        words("study.shown" if together.shown else "study.open"),
    ]  # fmt: skip


def _pairs(network: StudiedNetwork, found: Findings, words: Text) -> DataTable:
    return DataTable(
        caption=words("study.pairs", network=network.title),
        columns=(
            words("column.pair"),
            words("column.seeds"),
            words("column.rho"),
            *(words("column.regret", rule=rule) for rule in RULES),
        ),
        rows=tuple(
            (
                pair.name,
                words.count(pair.seeds),
                number(pair.correlation, 2, signed=True),
                *(
                    words("percent", number=number(100 * pair.regrets[rule], 1, signed=True))
                    for rule in RULES
                ),
            )
            for pair in found.of(network)
        ),
        numeric=(False, True, True, *(True for _ in RULES)),
    )
