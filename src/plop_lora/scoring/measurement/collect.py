"""Collect the sums of all batches of a measurement, for every engine.

Shape letters: B batch, R rows of the probe's buffer, N sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from plop_lora.errors import DataError
from plop_lora.scoring.measurement.hooks import Probe
from plop_lora.scoring.measurement.sums import Floats, Found
from plop_lora.scoring.measurement.weights import Weights

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, eq=False)
class BatchPart:
    """The measurement of one batch.

    Attributes:
        names: Names of the sequences.
        found: Sums and counts of the sites.
        tokens_2B: Number of tokens of each sequence. The first row holds those of the encoder or
            of a decoder-only model, the second those of the decoder of an encoder-decoder.
        text_only: Whether the inputs were tokens only, and not for example images.
    """

    names: tuple[str, ...]
    found: Found
    tokens_2B: Floats
    text_only: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Sums and counts of every site and sequence.

    Attributes:
        names: Names of the sequences, sorted; they give the order of the columns.
        sums_RN: Sum of NFN over the counted tokens.
        counts_RN: Number of counted tokens.
        tokens_2N: Number of tokens of each sequence, as in `BatchPart`.
        starts: Site i has the rows `starts[i]` to `starts[i + 1]`: one, or one per expert.
        unassignable: Sites whose input rows cannot be assigned to sequences.
        halvings: Number of batches that were halved because they did not fit in memory.
        alone: Whether each sequence ran in a batch of its own, because a module mixes them.
        engine: Engine that ran, which need not be the requested one.
        notes: Notes for the record, such as why another engine ran.
        zeros: Sites whose weight is all zero.
        ran: Sites that a forward pass reached.
        left_out: Sites with calls that were not counted, and the reason.
        further: Sums of each further indicator of features, over the same counts.
        weights: Values of each further indicator of weights.
        without: Sites without a value of an indicator of features, and the reason, by indicator.
        text_only: Whether the inputs were tokens only, and not for example images.
    """

    names: tuple[str, ...]
    sums_RN: Floats
    counts_RN: Floats
    tokens_2N: Floats
    starts: tuple[int, ...]
    unassignable: frozenset[int]
    halvings: int
    alone: bool
    engine: str = "memory"
    notes: tuple[str, ...] = ()
    zeros: frozenset[int] = frozenset()
    ran: frozenset[int] = frozenset()
    left_out: Mapping[int, str] = field(default_factory=dict)
    further: Mapping[str, Floats] = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)
    without: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    text_only: bool = True

    @property
    def tokens(self) -> int:
        """Number of tokens, those of encoder and decoder together."""
        return int(self.tokens_2N.sum())


@dataclass
class Collector:
    """Collects the measurements of batches in any order; `result` may be called at any time."""

    probe: Probe
    parts: list[BatchPart] = field(default_factory=list)
    halvings: int = 0
    alone: bool = False

    def add(self, part: BatchPart) -> None:
        """Add the measurement of one batch."""
        self.parts.append(part)

    @property
    def sequences(self) -> int:
        """Number of sequences so far."""
        return sum(len(part.names) for part in self.parts)

    def result(self) -> Measured:
        """Return the measurement of all batches so far, with the sequences sorted by name.

        Raises:
            DataError: No batch has been added.
        """
        if not self.parts:
            raise DataError("There is no batch to score. Give at least one text or batch.")
        found = [part.found for part in self.parts]
        return _in_order(
            Measured(
                names=tuple(name for part in self.parts for name in part.names),
                sums_RN=_joined(batch.sums_RB for batch in found),
                counts_RN=_joined(batch.counts_RB for batch in found),
                tokens_2N=_joined(part.tokens_2B for part in self.parts),
                starts=self.probe.starts,
                unassignable=frozenset().union(*(batch.unassignable for batch in found)),
                halvings=self.halvings,
                alone=self.alone,
                zeros=self.probe.zeros(),
                ran=self.probe.ran(),
                left_out=_united(batch.left_out for batch in found),
                further=_all_joined([batch.further for batch in found]),
                weights=self.probe.weighed(),
                without=_all_united(batch.without for batch in found),
                text_only=all(part.text_only for part in self.parts),
            )
        )


def merge(pieces: Sequence[Measured]) -> Measured:
    """Merge measurements of different sequences into one.

    Args:
        pieces: Measurements of the same model and sites; at least one.
    """
    if len(pieces) == 1:
        return pieces[0]
    return _in_order(
        Measured(
            names=tuple(name for piece in pieces for name in piece.names),
            sums_RN=_joined(piece.sums_RN for piece in pieces),
            counts_RN=_joined(piece.counts_RN for piece in pieces),
            tokens_2N=_joined(piece.tokens_2N for piece in pieces),
            starts=pieces[0].starts,
            unassignable=frozenset().union(*(piece.unassignable for piece in pieces)),
            halvings=sum(piece.halvings for piece in pieces),
            alone=any(piece.alone for piece in pieces),
            engine=pieces[0].engine,
            notes=tuple(dict.fromkeys(note for piece in pieces for note in piece.notes)),
            zeros=frozenset().union(*(piece.zeros for piece in pieces)),
            ran=frozenset().union(*(piece.ran for piece in pieces)),
            left_out=_united(piece.left_out for piece in pieces),
            further=_all_joined([piece.further for piece in pieces]),
            weights={
                name: _united(piece.weights[name] for piece in pieces) for name in pieces[0].weights
            },
            without=_all_united(piece.without for piece in pieces),
            text_only=all(piece.text_only for piece in pieces),
        )
    )


def divided(measured: Measured, names: frozenset[str]) -> tuple[Measured, Measured]:
    """Divide a measurement into two: without the sequences of the given names, and of those only.

    Args:
        measured: Measurement of all sequences.
        names: Names of the sequences to separate.
    """
    apart_N = np.array([name in names for name in measured.names])

    def kept(keep_N: NDArray[np.bool_]) -> Measured:
        return _columns(measured, np.flatnonzero(keep_N))

    return kept(~apart_N), kept(apart_N)


def _in_order(measured: Measured) -> Measured:
    """Sort the columns by name, and those of equal names by their sums.

    The result then does not depend on the order of the batches or on how processes share them.
    """
    order_N = np.lexsort((measured.sums_RN.sum(axis=0), np.array(measured.names)))
    return _columns(measured, order_N)


def _columns(measured: Measured, order_N: NDArray[np.intp]) -> Measured:
    """Return a measurement of the sequences at some positions, in the order given."""
    return replace(
        measured,
        names=tuple(measured.names[index] for index in order_N),
        sums_RN=measured.sums_RN[:, order_N],
        counts_RN=measured.counts_RN[:, order_N],
        tokens_2N=measured.tokens_2N[:, order_N],
        further={name: sums_RN[:, order_N] for name, sums_RN in measured.further.items()},
    )


def _united(pieces: Iterable[Mapping[Key, Value]]) -> dict[Key, Value]:
    return {key: value for piece in pieces for key, value in piece.items()}


def _all_united(
    pieces: Iterable[Mapping[str, Mapping[int, str]]],
) -> dict[str, dict[int, str]]:
    united: dict[str, dict[int, str]] = {}
    for piece in pieces:
        for name, reasons in piece.items():
            united.setdefault(name, {}).update(reasons)
    return united


def _all_joined(pieces: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {name: _joined(piece[name] for piece in pieces) for name in pieces[0]}


def _joined(pieces: Iterable[Floats]) -> Floats:
    return np.concatenate(list(pieces), axis=1)
