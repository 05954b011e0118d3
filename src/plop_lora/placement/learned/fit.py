"""Fit the gains of placements to their features, and judge the fit on networks it has not seen.

The model is a ridge regression. Gains are shares of the best gain of a pair, and both gains and
features are centred within a pair, since a rule has to choose between the placements of one model.
Every network counts the same, and every pair of a network. The penalty is chosen by leaving out
networks, inside of what is fitted. No torch; scikit-learn is imported when something is fitted.

Shape letters: A arms, F features.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from plop_lora._version import __version__
from plop_lora.errors import UsageError, require
from plop_lora.placement.learned.features import features_of, placement_features
from plop_lora.records import HistoryArm, HistoryPair, LearnedModel, LeftOutPair, RuleRegret
from plop_lora.statistics import mean_estimate

Floats = NDArray[np.float64]

DEFAULT = "plop"
"""The arm of the default placement, which a learned rule has to beat."""
ALONE = "type:"
"""Begins the name of an arm of one module type."""
NAMED = (
    DEFAULT, "attention", "mlp", "all-linear", "query-value", "v-up-down", "v-o-down",
    "parameter-share",
)  # fmt: skip
"""Arms that can be placed in another model by their name, besides those of one type."""
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
USUAL_PENALTY = 1.0
"""The penalty where only one network is there, which cannot choose one."""
LOWEST, RANDOM, LEARNED = "lowest type alone", "random", "learned"
_DIGITS = 6


def fit(history: Sequence[HistoryPair], further: Sequence[str] = ()) -> LearnedModel:
    """Fit a learned model, and judge it by leaving out one network after another.

    Args:
        history: Pairs of network and task whose trials are finished.
        further: Names of further indicators to use, which every pair must hold.

    Raises:
        UsageError: There is no pair, two have one name, or one has no default arm, no gain or not
            the indicators.
        MissingExtraError: scikit-learn is not installed.
    """
    _check(history, further)
    names = features_of(further)
    coefficients_F, penalty = _ridge(history, names)
    left_out = tuple(_left_out(history, names))
    by_pair = {row.pair: row.gain for row in left_out}
    gain = None if not left_out else _over_networks(LEARNED, by_pair, history)
    notes = () if left_out else ("with one network none can be left out, so nothing is known of "
                                 "another; give trials of more networks",)  # fmt: skip
    return LearnedModel(
        features=names,
        coefficients=tuple(float(f"{value:.{_DIGITS}g}") for value in coefficients_F),
        penalty=penalty,
        further=tuple(further),
        parts=tuple(sorted({row.part for pair in history for row in pair.types})),
        gain=None if gain is None else gain.mean,
        low=None if gain is None else gain.low,
        high=None if gain is None else gain.high,
        left_out=left_out,
        rules=tuple(_rules(history, left_out)),
        history=tuple(history),
        plop_version=__version__,
        notes=notes,
    )


def _check(history: Sequence[HistoryPair], further: Sequence[str]) -> None:
    if not history:
        raise UsageError("There is no history to learn from. Give finished verifications.")
    twice = [name for name, number in Counter(pair.name for pair in history).items() if number > 1]
    if twice:
        raise UsageError(f"Two pairs of the history are called {twice[0]!r}. Rename one of them.")
    for pair in history:
        if DEFAULT not in {arm.arm for arm in pair.arms}:
            raise UsageError(
                f"The history {pair.name!r} has no arm {DEFAULT!r}, which a learned rule is "
                "compared with. Give a verification in which it was trained."
            )
        if not best_gain(pair) > 0:
            raise UsageError(
                f"No arm of the history {pair.name!r} is better than the untrained model, so that "
                "nothing can be learned from it. Leave it out."
            )
        lacking = [name for name in further if any(name not in row.further for row in pair.types)]
        if lacking:
            raise UsageError(
                f"The history {pair.name!r} does not hold the indicator {lacking[0]!r}. Score the "
                f"model with --indicator {lacking[0]}, or leave the indicator out."
            )


def best_gain(pair: HistoryPair) -> float:
    """Return the gain of the best type alone, or of the best arm where no type was trained alone.

    This is what regret is a share of, as in the study.
    """
    alone = [arm.gain for arm in pair.arms if len(arm.types) == 1]
    return max(alone or [arm.gain for arm in pair.arms])


def candidates(pair: HistoryPair) -> list[HistoryArm]:
    """Return the arms that a rule may choose: those that another model can have by their name."""
    return [arm for arm in pair.arms if arm.arm in NAMED or arm.arm.startswith(ALONE)]


# --------------------------------------------------------------------------- the regression


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Rows of arms, centred within their pairs, with weights and networks."""

    features_AF: Floats
    gains_A: Floats
    weights_A: Floats
    networks_A: NDArray[np.str_]


def _ridge(history: Sequence[HistoryPair], names: Sequence[str]) -> tuple[Floats, float]:
    """Return the coefficients and the penalty."""
    require("sklearn")
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut

    table = _table(history, names)
    penalty = USUAL_PENALTY
    if len(set(table.networks_A)) > 1:
        search = GridSearchCV(
            Ridge(fit_intercept=False),
            {"alpha": PENALTIES},
            cv=LeaveOneGroupOut(),
            scoring="neg_mean_squared_error",
            refit=False,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scikit-learn, on versions of other libraries
            search.fit(
                table.features_AF,
                table.gains_A,
                groups=table.networks_A,
                sample_weight=table.weights_A,
            )
        penalty = float(search.best_params_["alpha"])
    model = Ridge(alpha=penalty, fit_intercept=False)
    model.fit(table.features_AF, table.gains_A, sample_weight=table.weights_A)
    return np.asarray(model.coef_, dtype=np.float64), penalty


def _table(history: Sequence[HistoryPair], names: Sequence[str]) -> _Table:
    """Return all arms of all pairs; the weights of a network sum to its mean number of arms."""
    pairs_of = Counter(pair.network for pair in history)
    features, gains, weights, networks = [], [], [], []
    for pair in history:
        rows_AF = np.array(placement_features(pair.types, [a.types for a in pair.arms], names))
        shares_A = np.array([arm.gain for arm in pair.arms]) / best_gain(pair)
        features.append(rows_AF - rows_AF.mean(axis=0))
        gains.append(shares_A - shares_A.mean())
        weights.append(np.full(len(shares_A), 1.0 / pairs_of[pair.network]))
        networks += [pair.network] * len(shares_A)
    return _Table(
        np.concatenate(features), np.concatenate(gains), np.concatenate(weights),
        np.array(networks),
    )  # fmt: skip


# --------------------------------------------------------------------------- what it is worth


def _left_out(history: Sequence[HistoryPair], names: Sequence[str]) -> Iterable[LeftOutPair]:
    """Yield what the fit on the other networks chooses in each pair."""
    networks = sorted({pair.network for pair in history})
    if len(networks) < 2:
        return
    for network in networks:
        coefficients_F, _ = _ridge([pair for pair in history if pair.network != network], names)
        for pair in (pair for pair in history if pair.network == network):
            chosen = best_predicted(pair, names, coefficients_F)
            best = best_gain(pair)
            yield LeftOutPair(
                pair=pair.name,
                network=network,
                chosen=chosen.arm,
                gain=(chosen.gain - _gain_of(pair, DEFAULT)) / best,
                regret=1 - chosen.gain / best,
            )


def best_predicted(
    pair: HistoryPair, names: Sequence[str], coefficients_F: Sequence[float] | Floats
) -> HistoryArm:
    """Return the arm of highest predicted gain, the default one where it is not beaten."""
    arms = candidates(pair)
    rows = placement_features(pair.types, [arm.types for arm in arms], names)
    predicted = [float(np.dot(row, coefficients_F)) for row in rows]
    order = sorted(
        range(len(arms)),
        key=lambda index: (-predicted[index], arms[index].arm != DEFAULT, arms[index].arm),
    )
    return arms[order[0]]


def _rules(history: Sequence[HistoryPair], left_out: Sequence[LeftOutPair]) -> list[RuleRegret]:
    """Return the regret of each rule that any pair has, the lowest first."""
    found: dict[str, dict[str, float]] = {}
    if left_out:
        found[LEARNED] = {row.pair: row.regret for row in left_out}
    for pair in history:
        for rule, gain in _gains(pair).items():
            found.setdefault(rule, {})[pair.name] = 1 - gain / best_gain(pair)
    rows = [_over_networks(rule, regrets, history) for rule, regrets in found.items()]
    return sorted(rows, key=lambda row: (row.mean, row.rule))


def _gains(pair: HistoryPair) -> dict[str, float]:
    """Return the gain of every rule; of random draws the mean."""
    gains = {arm.arm: arm.gain for arm in pair.arms if arm.arm in (*NAMED, "plop-inverse")}
    drawn = [arm.gain for arm in pair.arms if arm.arm.startswith(RANDOM)]
    if drawn:
        gains[RANDOM] = fmean(drawn)
    lowest = min(pair.types, key=lambda row: (row.nfn, row.type)).type
    alone = [arm.gain for arm in pair.arms if arm.types == (lowest,)]
    return gains | ({LOWEST: alone[0]} if alone else {})


def _gain_of(pair: HistoryPair, name: str) -> float:
    return next(arm.gain for arm in pair.arms if arm.arm == name)


def _over_networks(
    rule: str, values: Mapping[str, float], history: Sequence[HistoryPair]
) -> RuleRegret:
    """Return the mean over pairs, and Student's interval over the means of networks."""
    networks: dict[str, list[float]] = {}
    for pair in history:
        if pair.name in values:
            networks.setdefault(pair.network, []).append(values[pair.name])
    estimate = mean_estimate(np.array([fmean(found) for found in networks.values()]))
    low, high = estimate.interval()
    return RuleRegret(rule=rule, mean=fmean(values.values()), low=low, high=high, pairs=len(values))
