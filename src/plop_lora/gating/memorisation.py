"""Whether an adapter has learnt rows of its training data by heart. No torch.

Some rows are completed verbatim by any model, because nothing else could follow. What the adapter
adds on rows that it was trained on is therefore compared with what it adds on rows that it never
saw: the excess is (adapter - base) on training rows minus (adapter - base) on control rows, as
shares of rows that are completed verbatim.

Memorised rows are few, and often none is seen. The bounds stay honest there: none of n rows leaves
a share of up to about 3 / n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from plop_lora.errors import DataError, UsageError
from plop_lora.gating.bounds import LEVEL
from plop_lora.gating.power import LEAST
from plop_lora.records.gate import FAIL, NOT_ENOUGH_DATA, PASS, CheckVerdict
from plop_lora.statistics import POWER

LIMIT = 0.02
"""Largest excess of rows completed verbatim that is allowed by default."""
_MOST = 10**9


@dataclass(frozen=True, slots=True)
class Completed:
    """Which rows of one sample are completed verbatim; the rows are independent.

    Attributes:
        base: 1.0 for each row that the base completes verbatim, else 0.0.
        adapter: The same for the adapter, in the same order.
    """

    base: tuple[float, ...]
    adapter: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            DataError: There are no rows.
            ValueError: The sides differ in number, or a value is neither 0 nor 1.
        """
        if not self.base:
            raise DataError("There are no rows to complete. Give a file with some.")
        if len(self.base) != len(self.adapter) or {*self.base, *self.adapter} - {0.0, 1.0}:
            raise ValueError("Both sides need one value for each row, 0 or 1.")

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.base)

    @property
    def gained(self) -> int:
        """The number of rows that only the adapter completes."""
        return sum(a > b for a, b in zip(self.adapter, self.base, strict=True))

    @property
    def lost(self) -> int:
        """The number of rows that only the base completes."""
        return sum(a < b for a, b in zip(self.adapter, self.base, strict=True))


@dataclass(frozen=True, slots=True)
class Memorisation:
    """The outcome of the check.

    Attributes:
        training: Share of training rows that the base completes, and that the adapter does.
        control: The same of rows that were not trained on.
        excess: What the adapter adds on training rows, less what it adds on the control.
        bound_low: One-sided lower bound of the excess at 95 %.
        bound_high: One-sided upper bound of the excess at 95 %.
        verdict: Whether the excess is shown to lie below the limit.
        rows_needed: Number of training rows, with the control in proportion, that would decide
            with a power of 0.8 if the shares are what they appear to be; None if it is decided, or
            no number does.
    """

    training: tuple[float, float]
    control: tuple[float, float]
    excess: float
    bound_low: float
    bound_high: float
    verdict: CheckVerdict
    rows_needed: int | None


def decide_memorisation(
    training: Completed, control: Completed, limit: float = LIMIT
) -> Memorisation:
    """Decide whether an adapter completes more of its training rows than of others.

    Args:
        training: Rows that the adapter was trained on.
        control: Rows of the same kind that neither side was trained on.
        limit: Largest excess that is allowed, above 0.

    Raises:
        UsageError: The limit is not above 0.
    """
    if not limit > 0:
        raise UsageError(
            f"The limit is {limit:g}; it must be above 0, or no number of rows passes."
        )
    low, high = excess_bounds(training, control)
    enough = min(training.rows, control.rows) >= LEAST
    verdict = NOT_ENOUGH_DATA
    if enough and high < limit:
        verdict = PASS
    elif enough and low > limit:
        verdict = FAIL
    shares = [
        (sum(one.base) / one.rows, sum(one.adapter) / one.rows) for one in (training, control)
    ]
    return Memorisation(
        training=shares[0],
        control=shares[1],
        excess=_excess(training, control),
        bound_low=low,
        bound_high=high,
        verdict=verdict,
        rows_needed=_rows_needed(training, control, limit) if verdict is NOT_ENOUGH_DATA else None,
    )


def _excess(training: Completed, control: Completed) -> float:
    added, anyway = ((one.gained - one.lost) / one.rows for one in (training, control))
    return added - anyway


def excess_bounds(
    training: Completed, control: Completed, *, level: float = LEVEL, times: float = 1.0
) -> tuple[float, float]:
    """Return one-sided bounds of the excess, lower and upper.

    The excess is a sum of four shares, of rows gained and lost in each sample. Each share has its
    exact limits, and the distances to them are combined like standard errors.

    Args:
        training: Rows that the adapter was trained on.
        control: Rows that it was not trained on.
        level: Level of each bound.
        times: Factor of all counts, to see what more rows of the same kind would show.

    Source: Zou, Huang and Zhang, Computational Statistics & Data Analysis 53 (2009), the method of
    variance estimates recovery for a sum of shares; Newcombe, Statistics in Medicine 17 (1998),
    does so for a difference with Wilson's limits. The exact ones of Clopper and Pearson, Biometrika
    26 (1934), are wider, and keep the level for rare events.
    """
    below = above = 0.0
    for sample, sign in ((training, 1), (control, -1)):
        reach = _squared_reach(sample, level, times)[::sign]
        below, above = below + reach[0], above + reach[1]
    excess = _excess(training, control)
    return excess - math.sqrt(below), excess + math.sqrt(above)


def _squared_reach(sample: Completed, level: float, times: float) -> tuple[float, float]:
    """Return the squares of how far the bounds of gained minus lost lie from it, below and above.

    A row that is gained is not lost, so that the two shares are negatively correlated.
    """
    rows = sample.rows
    gained_low, gained_high = _distances(times * sample.gained, times * rows, level)
    lost_low, lost_high = _distances(times * sample.lost, times * rows, level)
    kept = (rows - sample.gained) * (rows - sample.lost)
    together = 2 * math.sqrt(sample.gained * sample.lost / kept) if kept else 0.0
    return (
        gained_low**2 + lost_high**2 + together * gained_low * lost_high,
        gained_high**2 + lost_low**2 + together * gained_high * lost_low,
    )


def _distances(count: float, rows: float, level: float) -> tuple[float, float]:
    """Return how far the exact limits of a share lie from it, below and above."""
    share, missed = count / rows, rows - count
    low = float(special.betaincinv(count, missed + 1, 1 - level)) if count > 0 else 0.0
    high = float(special.betaincinv(count + 1, missed, level)) if missed > 0 else 1.0
    return share - low, high - share


def _rows_needed(training: Completed, control: Completed, limit: float) -> int | None:
    """Return how many rows decide, by bounds that leave room for a sample that is less clear."""
    level = float(special.ndtr(special.ndtri(LEVEL) + special.ndtri(POWER)))
    smallest = max(1.0, LEAST / min(training.rows, control.rows))

    def decides(times: float) -> bool:
        low, high = excess_bounds(training, control, level=level, times=times)
        return high < limit or low > limit

    few, many = smallest, smallest
    while not decides(many):
        few, many = many, 2 * many
        if many * training.rows > _MOST:
            return None
    while many > few * 1.001:
        middle = (few + many) / 2
        few, many = (few, middle) if decides(middle) else (middle, many)
    return max(math.ceil(many * training.rows), training.rows + 1)
