"""How far resamples change a ranking and a choice of the lowest. Shape letters: R draws, K types.

Imports numpy alone: scipy's Kendall's tau takes one pair of lists at a time, and there are a
thousand draws for each variant.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plop_lora.statistics.estimates import CONFIDENCE, Floats


def kendall_taus(first_RK: Floats, second_RK: Floats) -> Floats:
    """Return Kendall's tau-b of each pair of rows, [R]; NaN where all values of a row are equal.

    Args:
        first_RK: Values of the types in each draw; a row of one draw is broadcast.
        second_RK: Values that are compared with them.

    Source: Kendall, Biometrika 33 (1945), for tau-b.

    >>> kendall_taus(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 3.0, 2.0]])).round(3)
    array([0.333])
    """
    rows, columns = np.triu_indices(first_RK.shape[-1], 1)
    first_RP = np.sign(first_RK[:, rows] - first_RK[:, columns])
    second_RP = np.sign(second_RK[:, rows] - second_RK[:, columns])
    apart_R = np.abs(first_RP).sum(axis=-1) * np.abs(second_RP).sum(axis=-1)
    agreement_R = (first_RP * second_RP).sum(axis=-1)
    taus_R: Floats = np.divide(
        agreement_R, np.sqrt(apart_R), out=np.full(agreement_R.shape, np.nan), where=apart_R > 0
    )
    return taus_R


def lowest(values_RK: Floats, count: int) -> NDArray[np.bool_]:
    """Return which types are among the lowest of each row, [R, K]; the first of equal ones is.

    >>> lowest(np.array([[3.0, 1.0, 1.0]]), 1)
    array([[False,  True, False]])
    """
    order_RK = np.argsort(values_RK, axis=-1, kind="stable")
    chosen_RK = np.zeros(values_RK.shape, dtype=bool)
    np.put_along_axis(chosen_RK, order_RK[:, :count], True, axis=-1)
    return chosen_RK


def percentile_interval(draws_R: Floats) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of some draws, None where none of them is a number.

    Source: Efron, Annals of Statistics 7 (1979).
    """
    known_R = draws_R[~np.isnan(draws_R)]
    if not known_R.size:
        return None
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known_R, [outside, 1 - outside])
    return float(low), float(high)
