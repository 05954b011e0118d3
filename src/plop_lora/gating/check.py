"""The definition of a check: one object with everything that is specific to it. No torch.

What all checks share, such as loading the model, evidence and resumption, belongs to `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Self, TypeVar

from plop_lora.evaluation.judged import Row
from plop_lora.gating.evidence import Line
from plop_lora.gating.items import Items
from plop_lora.gating.suite import Suite
from plop_lora.recipe import GateRecipe
from plop_lora.records.gate import CheckPlan, CheckResult
from plop_lora.training.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a check passes.

    A gain is a difference between adapter and base whose sign is such that more is better.

    Attributes:
        mode: What has to be shown, in one or two words.
        metric: Name of the quantity.
        higher_is_better: Whether a higher value of it is better.
        limit: Gain above which the check passes and below which it fails.
        warn: Gain below which a check that passes warns; None never warns.
        binary: Whether the value of an item is 0 or 1.
        spread: Standard deviation of an item's difference that a plan assumes.
        assumed_gain: True gain that a plan assumes.
    """

    mode: str
    metric: str
    higher_is_better: bool
    limit: float
    warn: float | None = None
    binary: bool = False
    spread: float
    assumed_gain: float = 0.0

    @classmethod
    def within(
        cls, metric: str, margin: float, *, higher_is_better: bool, spread: float, **more: Any
    ) -> Self:
        """Return the rule that a quantity must not get worse by more than a margin.

        Args:
            metric: Name of the quantity.
            margin: Largest loss that is allowed, above 0.
            higher_is_better: Whether a higher value of it is better.
            spread: Standard deviation of an item's difference that a plan assumes.
            more: Other fields.
        """
        return cls(
            mode="not lower" if higher_is_better else "not higher",
            metric=metric,
            higher_is_better=higher_is_better,
            limit=-margin,
            spread=spread,
            **more,
        )

    @property
    def sign(self) -> int:
        """The factor between a difference and a gain."""
        return 1 if self.higher_is_better else -1


class Values(NamedTuple):
    """The values of every item: of the base, of the adapter, and of the base once more.

    `again` has one value for each item, or none where the check measures no noise floor.
    """

    base: tuple[float, ...]
    adapter: tuple[float, ...]
    again: tuple[float, ...] = ()


def every_row(row: Row) -> bool:
    """Return True: the check reads all items of its suite."""
    return True


def all_places(rule: Rule, items: Items, result: CheckResult) -> Sequence[int]:
    """Return the index of every item: the outcome is about all of them."""
    return range(len(items.rows))


R = TypeVar("R", bound=Rule)


def _any_items(rule: Rule, items: Items) -> None:
    """Reject nothing."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Check(Generic[R]):
    """One row of the registry.

    Attributes:
        name: Name in recipes and records.
        suite: Suite whose values it reads.
        description: What it compares.
        source: Paper, or another justification of its thresholds.
        needs: What it needs beside adapter and base.
        rule: Function that returns the rule of a recipe; it rejects impossible thresholds.
        decide: Function that decides from what both sides showed on the items.
        plan: Function that says what the items could decide, before anything is measured.
        advice: What to try first if the check fails.
        reads: Function that says whether the check reads a row of the suite.
        fits: Function that rejects items on which the check cannot be decided, before anything is
            measured.
        after: Name of a check that has to pass for this one to mean anything.
        wanted: Function that says whether a recipe that names no checks asks for this one.
        about: Function that returns the indices of the items that an outcome is about, such as
            those of the worst group.
    """

    name: str
    suite: Suite
    description: str
    source: str
    needs: str
    rule: Callable[[GateRecipe, Task], R]
    decide: Callable[[Check[R], R, Items, Sequence[Line]], CheckResult]
    plan: Callable[[Check[R], R, Items], CheckPlan]
    advice: tuple[str, ...]
    reads: Callable[[Row], bool] = field(default=every_row)
    fits: Callable[[R, Items], None] = field(default=_any_items)
    after: str | None = None
    wanted: Callable[[GateRecipe], bool] = field(default=lambda recipe: True)
    about: Callable[[R, Items, CheckResult], Sequence[int]] = field(default=all_places)
