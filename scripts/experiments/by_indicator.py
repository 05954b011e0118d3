"""How well each indicator orders the module types of a pair, and what its first types cost.

An indicator orders the types, those to adapt first in front. Its correlation is Spearman's between
that order and the gain of each type alone, so that above 0 it predicts the gain whatever its own
direction is. Its regret is what the gain of the best type exceeds that of its first types by. The
values come from `indicators.json` of each pair, which `indicators.py` writes, and the NFN of the
trials' own arms from `pair.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from outcomes import Outcome, arm_alone, interval
from pages import table
from scipy import stats

FILE = "indicators.json"
TRIALS_NFN = "nfn of the trials"
"""The NFN by which the arms of the trials were made, in which special tokens counted."""
NFN = "nfn"
AT_RANDOM = "a type at random"
ALONE = {"v": "always the value projection", "o": "always the output projection",
         "up": "always the first weight of the MLP",
         "down": "always the last weight of the MLP"}  # fmt: skip
"""Constant types by the letters of `Outcome.roles`."""
MOST = 4
"""Types that the table of how many goes up to, besides all of them."""

DEFAULT = 3
"""Types that `plop place` chooses unless it is told otherwise."""
NUMBERS = {1: "the lowest alone", 2: "the two lowest", 4: "the four lowest", None: "all types"}

ORDER_TEXT = (
    "By indicator: Spearman's rho between its order and the gain of each type alone, above 0 where "
    "the types that it puts first gain more, and the regret of the type that it puts first. The "
    "intervals are of 95 %, over networks. "
    f"`{NFN}` and the other indicators are those that `plop score` and `plop verify` measure "
    "today; in the NFN of the trials special tokens counted. An empty cell is an indicator that "
    "has no value for one of the pair's types."
)

Order = Sequence[str]
"""The arms of one type of a pair, the one to adapt first in front."""
Preferences = Mapping[str, Mapping[str, float]]
"""Indicator → arm of one type → a number that is higher the sooner the type is adapted."""


@dataclass(frozen=True)
class Spread:
    """A mean over pairs, and its 95 % interval over networks; `pairs` is how many there are."""

    mean: float
    low: float | None
    high: float | None
    pairs: int

    def text(self, form: str) -> str:
        """Return the mean and the interval in a format."""
        bounds = ""
        if self.low is not None and self.high is not None:
            bounds = f" ({self.low:{form}} to {self.high:{form}})"
        return f"{self.mean:{form}}{bounds}"


def preferences(outcome: Outcome, results: Path) -> Preferences:
    """Return every indicator that has a value for each of a pair's types."""
    found = {TRIALS_NFN: {arm: -value for arm, value in outcome.nfn.items()}}
    path = results / outcome.name / FILE
    if not path.is_file():
        return found
    held = json.loads(path.read_text(encoding="utf-8"))["indicators"]
    for name, row in held.items():
        sign = -1 if row["lower_first"] else 1
        values = {arm_alone(of): sign * value for of, value in row["values"].items()}
        if values.keys() >= outcome.nfn.keys():
            found[name] = values
    return found


def order_of(preference: Mapping[str, float]) -> list[str]:
    """Return the types in the order of an indicator; ties are broken by name, as in a placement."""
    return sorted(preference, key=lambda arm: (-preference[arm], arm))


def rank_correlation(outcome: Outcome, preference: Mapping[str, float]) -> float:
    """Return Spearman's rho of an indicator and the gain over the types, 0 where they are two."""
    types = outcome.types()
    if len(types) < 3:
        return 0.0
    return gain_correlation(outcome, {arm: preference[arm] for arm in types})


def gain_correlation(outcome: Outcome, values: Mapping[str, float]) -> float:
    """Return Spearman's rho of the values of arms and their gains, 0 where one is constant."""
    gains = [outcome.arms[arm].gain for arm in values]
    if len(set(values.values())) < 2 or len(set(gains)) < 2:
        return 0.0
    return float(stats.spearmanr(list(values.values()), gains).statistic)


def arm_of_types(outcome: Outcome, types: Sequence[str]) -> str | None:
    """Return an arm that adapts exactly these types, None where none was trained."""
    wanted = frozenset(types)
    return next((arm for arm, of in outcome.members.items() if of == wanted), None)


def over_networks(
    values: Mapping[str, float], outcomes: Sequence[Outcome], most: float = math.inf
) -> Spread:
    """Return the mean of a number by pair, with an interval that has networks as clusters.

    The interval is cut where its bounds exceed the largest absolute value that there is.
    """
    networks: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.name in values:
            networks.setdefault(outcome.network, []).append(values[outcome.name])
    low, high = interval([fmean(found) for found in networks.values()])
    if low is not None and high is not None:
        low, high = max(-most, low), min(most, high)
    return Spread(fmean(values.values()), low, high, len(values))


# --------------------------------------------------------------------------- tables


def by_indicator(used: Sequence[Outcome], results: Path) -> list[str]:
    """Return the paragraphs and tables of indicators, none where no pair has more than NFN."""
    known = {outcome.name: preferences(outcome, results) for outcome in used}
    tried = {outcome.name: tried_on(outcome, results) for outcome in used}
    every = list(dict.fromkeys(name for found in known.values() for name in found))
    names = [name for name in every if all(name in found for found in tried.values())]
    if names == [TRIALS_NFN]:
        return []
    parts = [ORDER_TEXT, order_table(used, known, names), number_table(used, known, names)]
    parts.append(number_text(used, known))
    full = fully_measured(used, results)
    if names == every or not full:
        return parts
    text = (
        f"The other indicators were measured on {len(full)} of the {len(used)} pairs, of "
        f"{len({pair.network for pair in full})} networks. All of them on these pairs alone:"
    )
    return [*parts, text, order_table(full, known, every)]


def fully_measured(used: Sequence[Outcome], results: Path) -> list[Outcome]:
    """Return the pairs on which every indicator was tried that was tried on any of them."""
    tried = {outcome.name: tried_on(outcome, results) for outcome in used}
    every = set().union(*tried.values())
    return [outcome for outcome in used if tried[outcome.name] == every]


def tried_on(outcome: Outcome, results: Path) -> set[str]:
    """Return the indicators that were asked for on a pair, those included that have no value."""
    path = results / outcome.name / FILE
    if not path.is_file():
        return {TRIALS_NFN}
    held = json.loads(path.read_text(encoding="utf-8"))
    return {TRIALS_NFN, *held["indicators"], *held.get("not_measured", {})}


def order_table(
    used: Sequence[Outcome], known: Mapping[str, Preferences], names: Sequence[str]
) -> str:
    """Return rho with the gain and the regret of the first type, by indicator; constants last.

    A pair that has no value of an indicator is left out of its means.
    """
    rows = []
    for name in names:
        rhos = correlations(used, known, name)
        rows.append(
            (
                f"`{name}`" if name != TRIALS_NFN else name,
                *(f"{rhos[pair.name]:+.2f}" if pair.name in rhos else "" for pair in used),
                over_networks(rhos, used, most=1.0).text("+.2f"),
                first_regret(used, known, name).text(".1%"),
            )
        )
    rows.sort(key=lambda row: float(row[-1].split("%")[0]))
    blank = ("",) * (len(used) + 1)
    for letter, label in ALONE.items():
        if all(letter in pair.roles for pair in used):
            spread = alone_regret(used, lambda pair, letter=letter: pair.roles[letter])
            rows.append((label, *blank, spread.text(".1%")))
    rows.append((AT_RANDOM, *blank, over_networks(random_regrets(used), used).text(".1%")))
    head = ("order by", *(f"`{pair.name}`" for pair in used), "mean rho", "regret of the first")
    return table(head, rows)


def correlations(
    used: Sequence[Outcome], known: Mapping[str, Preferences], name: str
) -> dict[str, float]:
    """Return rho of an indicator's order and the gain, by pair, of those that have its values."""
    return {
        pair.name: rank_correlation(pair, known[pair.name][name])
        for pair in used
        if name in known[pair.name]
    }


def first_regret(used: Sequence[Outcome], known: Mapping[str, Preferences], name: str) -> Spread:
    """Return the regret of the type that an indicator puts first, on the pairs that have it."""
    having = [pair for pair in used if name in known[pair.name]]
    return alone_regret(having, lambda pair: order_of(known[pair.name][name])[0])


def alone_regret(used: Sequence[Outcome], first: Callable[[Outcome], str]) -> Spread:
    """Return the regret of adapting one type alone, which a function chooses for each pair."""
    return over_networks({pair.name: pair.regret(first(pair)) for pair in used}, used)


def random_regrets(used: Sequence[Outcome]) -> dict[str, float]:
    """Return the mean regret over all types, by pair."""
    return {pair.name: fmean(map(pair.regret, pair.types())) for pair in used}


def number_table(
    used: Sequence[Outcome], known: Mapping[str, Preferences], names: Sequence[str]
) -> str:
    """Return the regret of the first types by their number, where an arm has exactly these."""
    rows = []
    for name in names:
        having = [pair for pair in used if name in known[pair.name]]
        orders = {pair.name: order_of(known[pair.name][name]) for pair in having}
        cells = []
        for number in (*range(1, MOST + 1), None):
            found = number_regrets(having, orders, number)
            cells.append("no arm" if not found else f"{fmean(found.values()):.1%} ({len(found)})")
        rows.append((f"`{name}`" if name != TRIALS_NFN else name, *cells))
    head = ("regret of the first", *(str(number) for number in range(1, MOST + 1)), "all types")
    return table(head, rows)


def number_regrets(
    used: Sequence[Outcome], orders: Mapping[str, Order], number: int | None
) -> dict[str, float]:
    """Return the regret of an order's first types by pair, of the pairs with an arm of these."""
    found = {}
    for pair in used:
        arm = arm_of_types(pair, orders[pair.name][:number])
        if arm is not None:
            found[pair.name] = pair.regret(arm)
    return found


def number_text(used: Sequence[Outcome], known: Mapping[str, Preferences]) -> str:
    """Say by how much three types of lowest NFN gain more than other numbers of them."""
    orders = {pair.name: order_of(known[pair.name][TRIALS_NFN]) for pair in used}
    three = number_regrets(used, orders, DEFAULT)
    told = []
    for number, words in NUMBERS.items():
        other = number_regrets(used, orders, number)
        more = {name: other[name] - three[name] for name in other.keys() & three.keys()}
        told.append(
            f"than {words} by {over_networks(more, used).text('+.1%')} on {len(more)} pairs"
            if more
            else f"no arm has {words}, so that nothing can be said about that number"
        )
    return (
        "In brackets stands in how many of the pairs an arm has exactly these types. Of NFN, the "
        "three lowest types gain more, in shares of the best type's gain, "
        f"{'; '.join(told)}."
    )
