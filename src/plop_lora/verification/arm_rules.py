"""The rules of arms: which weights a rival adapts, by name, beside the files of placements.

`plop` and `plop-budget` are two forms of one method. `plop` adapts the k types of lowest NFN.
`plop-budget` spreads the same parameters, at lower ranks, over those types and all further ones
that the scores do not tell apart from the k-th: whose paired interval holds zero, or whose gap is
within the tolerance of the scoring. Where the scores tell all types apart it is `plop`.

Pure; no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from plop_lora.errors import UsageError
from plop_lora.indicators import INDICATORS, NFN, Indicator, OfModels
from plop_lora.indicators.signal import Signal
from plop_lora.placement import PLOP, STRATEGIES, Group, groups_of, place, with_ranks
from plop_lora.placement.place import usual_top
from plop_lora.records import DECIDED, Placement, Scores
from plop_lora.statistics import paired_difference

COMPULSORY = "all-linear"
RANDOM = "random"
DRAWS = tuple(f"{RANDOM}-{number}" for number in (1, 2, 3))
"""Draws of types that are the same for every seed."""
TYPE = "type:"
"""Begins the name of an arm that adapts one module type."""
DEFAULT_ARMS = (PLOP, "plop-budget", "plop-inverse", "attention", "mlp", COMPULSORY,
                "query-value", "v-up-down", "v-o-down", "parameter-share", *DRAWS)  # fmt: skip
"""The shortlist, and rivals that need no more than scores: without constants and random draws a
score cannot be told from a rule that measures nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class ArmRequest:
    """What a rule may look at."""

    scores: Scores
    top: int | None
    seed: int
    signals: Mapping[str, Signal]

    def place(self, strategy: str, types: Sequence[str] = (), indicator: str = NFN) -> Placement:
        """Return the placement of a strategy; its ranks are not used."""
        top = self.top if STRATEGIES[strategy].uses_top else None
        return place(self.scores, strategy=strategy, indicator=indicator, top=top, types=types,
                     rank=1, seed=self.seed)  # fmt: skip

    def eligible(self) -> list[Group]:
        """Return the types that a rule may choose, lowest NFN first."""
        return [group for group in groups_of(self.scores) if group.eligible]


@dataclass(frozen=True, slots=True)
class ArmRule:
    """One row of the registry; `needs` names what it looks at besides the model's weights."""

    name: str
    choose: Callable[[ArmRequest], Placement]
    description: str
    source: str
    needs: str
    signal: str | None = None
    varies: bool = False
    keeps_ranks: bool = False


def _undecided(request: ArmRequest) -> Placement:
    """Take the lowest types, and those that follow while the scores do not separate them."""
    groups = request.eligible()
    shortlist = request.place(PLOP)
    chosen = [choice.type for choice in shortlist.choices]
    last = groups[len(chosen) - 1]
    stopping = request.scores.stopping
    tolerance = 0.0 if stopping is None else stopping.tolerance
    for group in groups[len(chosen) :]:
        gap = paired_difference(group.estimate, last.estimate)
        if gap.verdict == DECIDED and gap.value > tolerance:
            break
        chosen.append(group.type)
    return request.place("custom", chosen)


def _by_signal(row: Indicator) -> Callable[[ArmRequest], Placement]:
    """Take the types of the best mean signal, as many as `plop` takes, whose rule it follows."""

    def choose(request: ArmRequest) -> Placement:
        values = request.signals[row.name].values
        means = {
            group.type: fmean(seen)
            for group in request.eligible()
            if (seen := [values[host.name] for host in group.hosts if host.name in values])
        }
        if not means:
            raise UsageError(f"The signal {row.name!r} is of none of these weights. Leave it out.")
        top = usual_top(request.scores) if request.top is None else request.top
        order = sorted(means, key=lambda type_name: (row.first(means[type_name]), type_name))
        return request.place("custom", order[:top])

    return choose


def _by_ranks(name: str) -> Callable[[ArmRequest], Placement]:
    """Take every weight that a signal gives a rank, in the proportions of those ranks."""

    def choose(request: ArmRequest) -> Placement:
        ranks = {host: round(rank) for host, rank in request.signals[name].values.items()}
        types = [
            group.type
            for group in request.eligible()
            if any(host.name in ranks for host in group.hosts)
        ]
        if not types:
            raise UsageError(f"The signal {name!r} is of none of these weights. Leave it out.")
        return with_ranks(request.place("custom", types), ranks)

    return choose


def _indicator_rule(row: Indicator) -> ArmRule:
    """Return the rule that takes as many types as `plop` by another indicator than NFN."""
    name, text = row.name, f"as many types as plop by {row.description}"
    if not isinstance(row.measure, OfModels):
        needs = f"scores with --indicator {name}"
        return ArmRule(name, lambda r: r.place(PLOP, indicator=name), text, row.source, needs)
    ranks = row.measure.are_ranks
    choose, text = (_by_ranks(name), row.description) if ranks else (_by_signal(row), text)
    return ArmRule(name, choose, text, row.source, f"the signal {name!r}", name, keeps_ranks=ranks)


def _strategy_rule(name: str, *, varies: bool = False) -> ArmRule:
    row = STRATEGIES[name]
    needs = "scores" if row.by_score else "nothing"
    needs += "" if row.indicator is None else " of general text as well"
    return ArmRule(name, lambda r: r.place(name), row.description, row.source, needs, varies=varies)


def _draw_rule(name: str) -> ArmRule:
    seed = int(name.removeprefix(f"{RANDOM}-"))

    def choose(request: ArmRequest) -> Placement:
        return dataclasses.replace(request, seed=seed).place(RANDOM)

    row = STRATEGIES[RANDOM]
    text = "as many types as plop, drawn by lot, the same for every seed"
    return ArmRule(name, choose, text, row.source, "nothing")


def _type_rule(name: str) -> ArmRule:
    types = (name.removeprefix(TYPE),)
    text = "one module type alone"
    return ArmRule(name, lambda r: r.place("custom", types), text, "the user", "nothing")


_STRATEGY_RULES: dict[str, ArmRule] = {
    row.name: row
    for row in (
        _strategy_rule(PLOP),
        ArmRule(
            name="plop-budget",
            choose=_undecided,
            description="plop, and the further types that the scores do not tell apart from it",
            source=STRATEGIES[PLOP].source,
            needs="scores",
        ),
        _strategy_rule("plop-inverse"),
        _strategy_rule("contrast"),
        _strategy_rule("learned"),
        _strategy_rule("attention"),
        _strategy_rule("mlp"),
        _strategy_rule(COMPULSORY),
        _strategy_rule("query-value"),
        _strategy_rule("v-up-down"),
        _strategy_rule("v-o-down"),
        _strategy_rule(RANDOM, varies=True),
        *(_draw_rule(name) for name in DRAWS),
    )
}


class _Rules(Mapping[str, ArmRule]):
    """The rules of strategies, and one for every indicator there is at the moment.

    NFN has none of its own, since `plop` is its rule. `type:NAME` is a rule for every module type;
    those names are not listed.
    """

    def __getitem__(self, name: str) -> ArmRule:
        if name in _STRATEGY_RULES:
            return _STRATEGY_RULES[name]
        if name.startswith(TYPE):
            return _type_rule(name)
        if name == NFN:
            raise KeyError(name)
        return _indicator_rule(INDICATORS[name])

    def __iter__(self) -> Iterator[str]:
        yield from _STRATEGY_RULES
        yield from (name for name in INDICATORS if name not in (NFN, *_STRATEGY_RULES))

    def __len__(self) -> int:
        return sum(1 for _ in self)


ARMS: Mapping[str, ArmRule] = _Rules()
"""Name → rule, besides the files of placements."""
