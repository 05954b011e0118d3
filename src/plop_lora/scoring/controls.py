"""Controls of a measurement: a general text, and one of the user's texts in a batch of its own.

A text must give the same numbers alone, without padding, as in its batch. If it does not, the model
mixes the texts of a batch or reads their padding, and every text is measured in a batch of its own.
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
"""Prefix of the name of the text that is run alone."""
_TOLERANCE = 1e-3
"""Relative difference of the mean of a text at one site that float32 rounding can explain."""
_COARSE_TOLERANCE = 3e-2
"""The same in half precision, in which a token may also be routed to another expert."""


def measure_with_controls(
    engine: Engine,
    sites: Sequence[Site],
    given: ScoringInputs,
    reference: Sequence[Batch],
    processes: Processes,
    *,
    enough: Callable[[Measured], bool] | None,
    advance: Callable[[int], None],
) -> tuple[Measured, Measured | None]:
    """Measure the user's batches and, as controls, a reference and one text alone.

    If the engine reads the weights again in every round, the reference is measured in the same
    round as the user's. Otherwise it is measured separately, because the stopping rule must not
    see it.

    Args:
        engine: Engine that measures.
        sites: Sites to measure.
        given: The user's batches, and the numbers of sequences after which scoring may stop.
        reference: Batches of the general text; empty to measure none.
        processes: Processes that share the batches.
        enough: Called after each round with everything measured so far; true ends the
            measurement. None measures all batches.
        advance: Called after each batch with its number of sequences.

    Returns:
        The measurement of the user's batches and that of the reference. The latter is None
        if there is none, or if the model gives no finite numbers on it.
    """

    def measure(given: ScoringInputs, extra: Sequence[Batch]) -> tuple[Measured, Measured]:
        names = frozenset(name for batch in extra for name in batch.names)
        whole = measure_in_rounds(
            engine, sites, given, processes, controls=extra, advance=advance,
            enough=enough and (lambda measured: enough(divided(measured, names)[0])),
        )  # fmt: skip
        return divided(whole, names)

    together = tuple(reference) if engine.one_round else ()
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
        reference = _rows(reference)
    return measured, _by_themselves(engine, sites, reference, processes) if reference else None


def _by_themselves(
    engine: Engine, sites: Sequence[Site], reference: Sequence[Batch], processes: Processes
) -> Measured | None:
    try:
        return processes.measure([reference], lambda batches: engine.measure(sites, batches))
    except MeasurementError:
        if processes.count > 1:
            raise  # the other processes wait for this one
        return None


# --------------------------------------------------------------------------- one text alone


def text_alone(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    """Return one text of some batches as a batch of its own, without its padding.

    It is the shortest of the texts that have padding, or of all texts if none has. The tuple is
    empty if every text is already in a batch of its own, or if the batches hold other inputs than
    text.
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
    return (dataclasses.replace(shortest, names=tuple(ALONE + name for name in shortest.names)),)


def one_at_a_time(given: ScoringInputs) -> ScoringInputs:
    """Return the inputs with every text in a batch of its own, with unchanged stopping points."""
    ends = itertools.accumulate(len(batch.names) for batch in given.batches)
    looks = frozenset(ends) if given.looks is None else given.looks
    return dataclasses.replace(given, batches=_rows(given.batches), looks=looks)


def _rows(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    return tuple(row for batch in batches for row in rows_of(batch))


def changed(sites: Sequence[Site], measured: Measured, others: Measured, *, exact: bool) -> str:
    """Return a note if a text alone gave other numbers than in its batch, else an empty string.

    Args:
        sites: The measured sites.
        measured: Measurement of the texts in their batches.
        others: Measurement of the controls, which include the text alone.
        exact: Whether the model computes in float32 or float64.
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
    """Return the sums and counts of each type and layer for some of the texts, [2, G, N]."""
    kept = [column for column, name in enumerate(measured.names) if wanted(name)]
    assignable = [index not in measured.unassignable for index in range(len(sites))]
    both_2SN = np.stack(by_site(measured))[:, :, kept] * np.array(assignable)[None, :, None]
    groups = grouped(sites).values()
    return np.stack([both_2SN[:, places].sum(axis=1) for places in groups], axis=1)


def _is_exact(model: nn.Module) -> bool:
    kinds = {parameter.dtype for parameter in model.parameters()}
    return kinds <= {torch.float32, torch.float64}
