"""Group-sequential levels: looks at a study that grows by seeds, at one error in all of them.

A bound that is looked at after every seed, at 95 % each time, errs more often than in 5 of 100
studies. So the error is spent over the looks: at the look with a share t of all seeds, t³ of it is
spent. Little is spent early, when two seeds know little of their own spread, and the last look has
nearly the whole level.

The levels are those of a normal mean whose looks are correlated by their shared seeds. Two things
make them hold, or err to the safe side, here: they are applied as levels of Student's t (the
*significance level approach*), and the items, which all looks share, correlate the looks further.

Imports numpy and scipy; no torch.

Source: Lan and DeMets, Biometrika 70 (1983) (spending functions); Kim and DeMets, Biometrika 74
(1987) (the power family); Jennison and Turnbull, "Group Sequential Methods with Applications to
Clinical Trials" (2000), sections 3.8 and 11.4 (levels applied to t), chapter 19 (the recursion).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

FIRST_LOOK = 2
"""One seed has no spread."""
MOST_LOOKS = 10
"""More hardly save anything, and each takes a little from the last one."""
SPENDING = 3
"""Power of the share of seeds by which the error is spent."""
_POINTS = 801
_REACH = 8.0
"""Standard deviations to which the recursion goes below the boundary."""

Floats = NDArray[np.float64]


def looks(most: int) -> tuple[int, ...]:
    """Return the numbers of seeds at which a study of at most `most` seeds is looked at.

    >>> looks(6)
    (2, 3, 4, 5, 6)
    >>> looks(40)
    (2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40)
    """
    if most < FIRST_LOOK:
        return (most,)
    every = range(FIRST_LOOK, most + 1)
    if len(every) <= MOST_LOOKS:
        return tuple(every)
    spread = {round(most * look / MOST_LOOKS) for look in range(1, MOST_LOOKS + 1)}
    return tuple(sorted({FIRST_LOOK, *(count for count in spread if count > FIRST_LOOK)}))


@lru_cache(maxsize=256)
def nominal_levels(seeds: tuple[int, ...], error: float) -> tuple[float, ...]:
    """Return the one-sided level of each look, such that all of them err as often as `error`.

    Args:
        seeds: Numbers of seeds at the looks, rising; the last is that of the whole study.
        error: Probability that any look crosses its bound where it must not.

    >>> nominal_levels((5,), 0.05)
    (0.05,)
    >>> [round(level, 4) for level in nominal_levels((2, 3, 4, 5), 0.05)]
    [0.0032, 0.0094, 0.0218, 0.0425]
    """
    if len(seeds) == 1:
        return (error,)
    spent = [error * (count / seeds[-1]) ** SPENDING for count in seeds]
    increments = np.diff([0.0, *spent])
    levels = []
    sums, density = np.zeros(1), np.ones(1)
    weights = np.ones(1)
    before = 0
    for count, increment in zip(seeds, increments, strict=True):
        step = float(np.sqrt(count - before))
        boundary = _boundary(sums, density * weights, step, float(increment))
        levels.append(float(special.ndtr(-boundary / np.sqrt(count))))
        grid = np.linspace(-_REACH * np.sqrt(count), boundary, _POINTS)
        kernel = np.exp(-(((grid[:, None] - sums) / step) ** 2) / 2) / (step * np.sqrt(2 * np.pi))
        density = kernel @ (density * weights)
        weights = _simpson(grid)
        sums, before = grid, count
    return tuple(levels)


def _boundary(sums: Floats, mass: Floats, step: float, increment: float) -> float:
    """Return the sum that the next look exceeds with the probability that it may spend."""
    from scipy.optimize import brentq

    def excess(boundary: float) -> float:
        return float(mass @ special.ndtr((sums - boundary) / step)) - increment

    return float(brentq(excess, sums[-1] - 10 * step, sums[-1] + 20 * step, xtol=1e-10))


def _simpson(grid: Floats) -> Floats:
    """Return the weights of Simpson's rule on an odd number of equidistant points."""
    weights = np.full(grid.size, 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    return np.asarray(weights * (grid[1] - grid[0]) / 3)
