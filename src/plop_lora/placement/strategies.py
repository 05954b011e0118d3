"""The named rules that choose module types. Pure; no torch.

A strategy is a row of `STRATEGIES`: a function from the eligible groups (those first that the
indicator puts first, as the lowest NFN) to the chosen ones, in order of preference.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from plop_lora.errors import UsageError, nearest
from plop_lora.indicators import CONTRAST
from plop_lora.models.architectures import HOLDS_QUERY_AND_VALUE, PROJECTIONS, QUERY_OR_VALUE
from plop_lora.options import check_word
from plop_lora.placement.groups import Group
from plop_lora.placement.learned import (
    advise,
    further_indicators,
    history_types,
    study_model,
)
from plop_lora.placement.learned.fit import ALONE, NAMED
from plop_lora.records import LearnedModel, Scores

PLOP = "plop"
"""The strategy of the method itself, and the name of the arm that has its placement."""
LEARNED = "learned"
"""The strategy that leaves the choice to another one, by what finished trials have shown."""


@dataclass(frozen=True, slots=True)
class Request:
    """Further inputs of a strategy.

    `every` holds all groups, also those that are not eligible. `learned` is the model that the
    strategy `learned` asks; None asks the one that comes with the package.
    """

    top: int
    seed: int
    types: tuple[str, ...]
    every: tuple[Group, ...]
    learned: LearnedModel | None = None


Chooser = Callable[[list[Group], Request], list[Group]]


class End(enum.Enum):
    """The end of an indicator's order from which a strategy takes module types."""

    first = "first"
    last = "last"


@dataclass(frozen=True, slots=True)
class Strategy:
    """One row of the registry.

    Attributes:
        name: Name on the command line and in records.
        choose: Function that returns the chosen groups.
        description: What the strategy chooses.
        source: Paper that proposes it, or who makes the choice.
        uses_top: Whether the number of types can be given.
        end: End of the indicator's order from which it takes types; None if it ignores the order.
        by_name: Whether the user names the types, which may then be any that were scored.
        indicator: Indicator that it ranks by; None if the user chooses the indicator.
    """

    name: str
    choose: Chooser
    description: str
    source: str
    uses_top: bool = False
    end: End | None = None
    by_name: bool = False
    indicator: str | None = None

    @property
    def by_score(self) -> bool:
        """Whether an indicator decides which types are chosen."""
        return self.end is not None

    def ranking(self, groups: list[Group]) -> list[Group]:
        """Return the groups in the order in which the strategy would choose them."""
        return groups[::-1] if self.end is End.last else groups


def _first(groups: list[Group], request: Request) -> list[Group]:
    return groups[: request.top]


def _last(groups: list[Group], request: Request) -> list[Group]:
    return groups[::-1][: request.top]


def _random(groups: list[Group], request: Request) -> list[Group]:
    by_name = sorted(groups, key=lambda group: group.type)
    chosen = random.Random(request.seed).sample(by_name, request.top)
    return [group for group in groups if group in chosen]


def _all(groups: list[Group], request: Request) -> list[Group]:
    return groups


def _role(role: str) -> Chooser:
    def choose(groups: list[Group], request: Request) -> list[Group]:
        return [group for group in groups if group.role == role]

    return choose


def _query_value(groups: list[Group], request: Request) -> list[Group]:
    def matches(group: Group) -> bool:
        leaf = group.type.rsplit(".", 1)[-1]
        return bool(QUERY_OR_VALUE.fullmatch(leaf) or HOLDS_QUERY_AND_VALUE.fullmatch(leaf))

    return [group for group in groups if group.role == "attention" and matches(group)]


def _constant(*parts: str) -> Chooser:
    """Take the projections of a block that are named, or nothing where one of them is not there."""

    def choose(groups: list[Group], request: Request) -> list[Group]:
        found = {part: [group for group in groups if _is_part(group, part)] for part in parts}
        chosen = [group for members in found.values() for group in members]
        return list(dict.fromkeys(chosen)) if all(found.values()) else []

    return choose


def _is_part(group: Group, part: str) -> bool:
    """Whether a type is a projection that `PROJECTIONS` names, by its last names."""
    if group.role != ("attention" if part in ("value", "output") else "mlp"):
        return False
    names = group.type.split(".")
    return any(PROJECTIONS[part].fullmatch(".".join(names[start:])) for start in range(len(names)))


def _custom(groups: list[Group], request: Request) -> list[Group]:
    """Return the types that the user names, also types that are never proposed by default.

    A name may be that of a slice, which means its whole weight.
    """
    by_name = {member.type: group for group in request.every for member in group.members}
    by_name |= {group.type: group for group in request.every}
    allowed = ", ".join(group.type for group in request.every)
    if not request.types:
        raise UsageError(
            "The strategy 'custom' needs the types to adapt: --types NAME,NAME. "
            f"This model has: {allowed}."
        )
    for name in request.types:
        if name not in by_name:
            raise UsageError(
                f"There is no module type {name!r} to adapt.{nearest(name, by_name)} "
                f"This model has: {allowed}."
            )
    return list(dict.fromkeys(by_name[name] for name in request.types))


@dataclass(frozen=True, slots=True)
class Answer:
    """The strategy that chooses in the end, its request, and notes on why it does."""

    row: Strategy
    request: Request
    notes: tuple[str, ...] = ()


def answer_of(
    row: Strategy, groups: list[Group], request: Request, scores: Scores | None = None
) -> Answer:
    """Return the strategy that chooses: the row itself, or what `learned` leaves the choice to.

    Args:
        row: Strategy that was asked for.
        groups: Eligible groups, those first that NFN puts first.
        request: Further inputs.
        scores: Record of the groups, for a learned model that needs further indicators.
    """
    if row.name != LEARNED:
        return Answer(row, request)
    placements = _placements(groups, request)
    model = request.learned or study_model()
    further = {} if scores is None else further_indicators(scores, model.further)
    advice = advise(history_types(groups, further), placements, model)
    if advice.arm == PLOP:
        return Answer(STRATEGIES[PLOP], request, (advice.note,))
    chosen = replace(request, types=tuple(placements[advice.arm]))
    return Answer(STRATEGIES["custom"], chosen, (advice.note,))


def _placements(groups: list[Group], request: Request) -> dict[str, list[str]]:
    """Return the module types of the placements that a learned model chooses from, by name."""
    by_size = sorted(
        groups, key=lambda group: (-sum(row.parameters for row in group.members), group.type)
    )
    found = {
        name: by_size[: request.top]
        if name == "parameter-share"
        else STRATEGIES[name].choose(groups, request)
        for name in NAMED
    }
    found |= {f"{ALONE}{group.type}": [group] for group in groups}
    return {name: [group.type for group in chosen] for name, chosen in found.items() if chosen}


def _learned(groups: list[Group], request: Request) -> list[Group]:
    by_nfn = sorted(groups, key=lambda group: (group.value, group.type))
    answer = answer_of(STRATEGIES[LEARNED], by_nfn, request)
    return answer.row.choose(by_nfn, answer.request)


_PAPER = "PLoP, arXiv 2506.20629, https://arxiv.org/abs/2506.20629"
_LORA = "LoRA, arXiv 2106.09685, https://arxiv.org/abs/2106.09685"

STRATEGIES: dict[str, Strategy] = {
    row.name: row
    for row in (
        Strategy(PLOP, _first, "the types with the lowest NFN", _PAPER, True, End.first),
        Strategy("plop-inverse", _last, "the highest NFN, a sanity check", _PAPER, True, End.last),
        Strategy(
            CONTRAST,
            _first,
            "the types whose NFN is lowest relative to that on general text; untested",
            "an experiment of this project",
            True,
            End.first,
            indicator=CONTRAST,
        ),
        Strategy("attention", _role("attention"), "every type inside attention", _PAPER),
        Strategy("mlp", _role("mlp"), "every type of the feed-forward part", _PAPER),
        Strategy("all-linear", _all, "every type", "QLoRA, arXiv 2305.14314"),
        Strategy("random", _random, "types drawn with the seed", "a baseline", True),
        Strategy("query-value", _query_value, "query and value projections", _LORA),
        Strategy(
            "v-up-down",
            _constant("value", "up", "down"),
            "the value projection, and the first and the last weight of the MLP",
            "a constant: what NFN puts first in many decoders, without measuring anything",
        ),
        Strategy(
            "v-o-down",
            _constant("value", "output", "down"),
            "the value and output projections, and the last weight of the MLP",
            "a constant: where the useful trainable entries were found, arXiv 2605.12207",
        ),
        Strategy(
            LEARNED,
            _learned,
            "what finished trials of other networks have shown to be better, or else plop",
            "this project: a ridge regression on the trials of its study, docs/evidence.md",
            uses_top=True,
        ),
        Strategy("custom", _custom, "the types that --types names", "the user", by_name=True),
    )
}
"""Name → strategy. `plop` takes the first types in the indicator's order, `plop-inverse` the last,
and `contrast` the first in the order of its own indicator."""


def find_strategy(name: str) -> Strategy:
    """Return a row of `STRATEGIES`.

    Raises:
        UsageError: There is no such strategy. The text suggests the nearest name.
    """
    check_word("strategy", name, STRATEGIES)
    return STRATEGIES[name]
