"""Controls of a measurement: random tokens, and one of the user's texts once more, alone.

A text alone, without padding and without neighbours, has to give what it gives in its batch. Where
it does not, the model mixes the texts of a batch or reads their padding, and they go one at a time.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from plop_lora.data.batches import Batch
from plop_lora.errors import MeasurementError
from plop_lora.scoring.assemble import by_site
from plop_lora.scoring.engines.choose import Engine, measure_in_rounds
from plop_lora.scoring.engines.in_memory import rows_of
from plop_lora.scoring.engines.processes import Processes
from plop_lora.scoring.inputs import ScoringInputs
from plop_lora.scoring.measurement.collect import Measured, divided
from plop_lora.scoring.measurement.counts import grouped
from plop_lora.scoring.measurement.padding import is_text, width_of
from plop_lora.scoring.measurement.sums import Floats
from plop_lora.scoring.sites.find import Site

ALONE = "alone "
"""What the name of the text that is run alone begins with."""
_TOLERANCE = 1e-3
"""How far rounding in float32 may take the mean of a text at one site."""
_COARSE_TOLERANCE = 3e-2
"""The same in half precision, where a token may also go to another expert."""


def measure_with_controls(
    engine: Engine,
    sites: Sequence[Site],
    given: ScoringInputs,
    random: Sequence[Batch],
    processes: Processes,
    *,
    enough: Callable[[Measured], bool] | None,
    advance: Callable[[int], None],
) -> tuple[Measured, Measured | None]:
    """Measure the user's batches, and as controls random ones and one text alone.

    Random batches go in the same round where every round pays for the weights again, and by
    themselves elsewhere, since the rule that ends the rounds must not see them.

    Args:
        engine: what measures.
        sites: what is measured.
        given: the user's batches and where one may look.
        random: other batches, none where there is nothing to compare with.
        processes: those that share the batches.
        enough: asked after each round of everything so far; None measures everything.
        advance: called with the number of sequences after each batch.

    Returns:
        Both measurements; None of the random ones where there are none, or where the model makes
        no numbers of them.
    """

    def measure(given: ScoringInputs, extra: Sequence[Batch]) -> tuple[Measured, Measured]:
        names = frozenset(name for batch in extra for name in batch.names)
        whole = measure_in_rounds(
            engine, sites, given, processes, controls=extra, advance=advance,
            enough=enough and (lambda measured: enough(divided(measured, names)[0])),
        )  # fmt: skip
        return divided(whole, names)

    together = tuple(random) if engine.one_round else ()
    one = text_alone(next(iter(given.rounds()), ()))
    measured, others = measure(given, (*one, *together))
    note = changed(sites, measured, others, exact=_is_exact(engine.model))
    if note:
        measured, others = measure(one_at_a_time(given), _rows(together))
        measured = dataclasses.replace(measured, alone=True, notes=(*measured.notes, note))
    if together:
        names = frozenset(name for batch in together for name in batch.names)
        return measured, divided(others, names)[1]
    if measured.alone:
        random = _rows(random)
    return measured, _by_themselves(engine, sites, random, processes) if random else None


def _by_themselves(
    engine: Engine, sites: Sequence[Site], random: Sequence[Batch], processes: Processes
) -> Measured | None:
    try:
        return processes.measure([random], lambda batches: engine.measure(sites, batches))
    except MeasurementError:
        if processes.count > 1:
            raise  # the others wait for this one
        return None


# --------------------------------------------------------------------------- one text alone


def text_alone(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    """Return one text of some batches as a batch of its own, without its padding.

    It is the shortest of those that have padding, or of all where none has; none at all where
    every text is alone already, or where there is more than text.
    """
    rows = [
        (width_of(row) == width_of(batch), width_of(row), index, row)
        for index, batch in enumerate(batches)
        if batch.can_split() and is_text(batch)
        for row in rows_of(batch)
    ]
    if not rows:
        return ()
    shortest = min(rows, key=lambda entry: entry[:3])[-1]
    return (Batch(shortest.inputs, tuple(ALONE + name for name in shortest.names)),)


def one_at_a_time(given: ScoringInputs) -> ScoringInputs:
    """Return what is given with every text a batch of its own; one may look where one might."""
    ends = itertools.accumulate(len(batch.names) for batch in given.batches)
    looks = frozenset(ends) if given.looks is None else given.looks
    return dataclasses.replace(given, batches=_rows(given.batches), looks=looks)


def _rows(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    return tuple(row for batch in batches for row in rows_of(batch))


def changed(sites: Sequence[Site], measured: Measured, others: Measured, *, exact: bool) -> str:
    """Return a note where a text alone gave other numbers than in its batch, or nothing.

    Args:
        sites: what was measured.
        measured: the texts in their batches.
        others: what holds the text alone, among others.
        exact: whether the model computes in float32 or more.
    """
    tolerance = _TOLERANCE if exact else _COARSE_TOLERANCE
    apart = _columns(sites, others, lambda name: name.startswith(ALONE))
    twins = {name.removeprefix(ALONE) for name in others.names if name.startswith(ALONE)}
    there = _columns(sites, measured, twins.__contains__)
    if not apart.size or not there.size:
        return ""
    (sums_G, counts_G), (other_sums_GN, other_counts_GN) = apart[..., 0], there
    values_G = sums_G / np.maximum(counts_G, 1)
    differences_GN = other_sums_GN / np.maximum(other_counts_GN, 1) - values_G[:, None]
    largest_G = np.abs(differences_GN).max(axis=1) / np.where(values_G > 0, values_G, 1)
    largest_G[(other_counts_GN != counts_G[:, None]).any(axis=1)] = np.inf
    if largest_G.max() <= tolerance:
        return ""
    worst = int(largest_G.argmax())
    (kind, layer), many = list(grouped(sites))[worst], int((largest_G > tolerance).sum())
    by = "in the rows counted" if np.isinf(largest_G[worst]) else f"by {largest_G[worst]:.1%}"
    return (
        f"a text alone gave other numbers than in its batch at {many} of {len(largest_G)} weights: "
        f"{kind} of {layer if isinstance(layer, str) else f'layer {layer}'} differs {by}"
    )


def _columns(sites: Sequence[Site], measured: Measured, wanted: Callable[[str], bool]) -> Floats:
    """Return sums and counts of the sites of each type and layer, of some texts: [2, G, N]."""
    kept = [column for column, name in enumerate(measured.names) if wanted(name)]
    assignable = [index not in measured.unassignable for index in range(len(sites))]
    both_2SN = np.stack(by_site(measured))[:, :, kept] * np.array(assignable)[None, :, None]
    groups = grouped(sites).values()
    return np.stack([both_2SN[:, places].sum(axis=1) for places in groups], axis=1)


def _is_exact(model: nn.Module) -> bool:
    kinds = {parameter.dtype for parameter in model.parameters()}
    return kinds <= {torch.float32, torch.float64}
