"""The checks that a recipe makes: tasks of the harness, logs of other suites, own functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from plop_lora.errors import UsageError
from plop_lora.evaluation import lm_eval
from plop_lora.gating.check import Check, Rule
from plop_lora.gating.decide import decide_difference, plan_difference
from plop_lora.gating.suite import Suite
from plop_lora.gating.suites.outside import harness_suite, log_suite, read_pair
from plop_lora.gating.suites.task import own_suite
from plop_lora.recipe import GateRecipe
from plop_lora.recipe.limits import LogPair, OwnCheck

_CLUSTERED = (
    "arXiv 2411.00640, paired differences with clustered errors, https://arxiv.org/abs/2411.00640"
)
_EARLIER = ("try an earlier checkpoint", "train with a smaller learning rate")


def _check(name: str, suite: Suite, rule: Rule, about: str, needs: str) -> Check[Any]:
    return Check(
        name=name,
        suite=suite,
        description=about,
        source=_CLUSTERED,
        needs=needs,
        rule=lambda recipe, task: rule,
        decide=decide_difference,
        plan=plan_difference,
        advice=_EARLIER,
    )


def harness_checks(recipe: GateRecipe) -> Iterator[Check[Any]]:
    """Yield a check for each task of lm-evaluation-harness that a recipe names."""
    limits = recipe.gate.harness
    for name in limits.names:
        rule = Rule.within(name, limits.margin, higher_is_better=True, spread=limits.spread)
        yield _check(
            f"{lm_eval.PREFIX}{name}", harness_suite(name), rule,
            "the first metric of a task of lm-evaluation-harness", "the extra eval",
        )  # fmt: skip


def log_checks(recipe: GateRecipe) -> Iterator[Check[Any]]:
    """Yield a check for each pair of logs that a recipe names.

    Raises:
        DataError: A log cannot be read, or the two cannot be compared.
        UsageError: The metric has to be named, is unknown, or has no known direction.
    """
    for pair in recipe.gate.logs:
        yield _log_check(pair)


def _log_check(pair: LogPair) -> Check[Any]:
    found = read_pair(pair)
    suite = log_suite(pair, found)
    rule = Rule.within(
        found.metric,
        pair.margin,
        higher_is_better=found.higher_is_better,
        spread=pair.spread,
        binary={*found.base, *found.adapter} <= {0.0, 1.0},
    )
    return _check(suite.name, suite, rule, "a metric that another suite has logged", "two logs")


def own_checks(recipe: GateRecipe) -> Iterator[Check[Any]]:
    """Yield the checks of the user's."""
    for own in recipe.gate.own:
        yield _own_check(own)


def _own_check(own: OwnCheck) -> Check[Any]:
    name = f"own:{own.name or own.function.rpartition(':')[2]}"
    rule = Rule.within(
        own.function, own.margin, higher_is_better=own.higher_is_better, spread=own.spread
    )
    return _check(name, own_suite(own, name), rule, "a function of the user's on answers", "rows")


FAMILIES = {"harness": harness_checks, "logs": log_checks, "own": own_checks}
"""Name in `gate.checks` → function that yields the checks of a recipe."""


def made_checks(recipe: GateRecipe, names: Sequence[str]) -> list[Check[Any]]:
    """Return the checks that a recipe makes, of the families that are named, in their order.

    Raises:
        UsageError: Two have one name, or a family is named for which the recipe has nothing.
    """
    found: list[Check[Any]] = []
    for name in names:
        made = list(FAMILIES[name](recipe))
        if not made:
            raise UsageError(
                f"gate.checks names {name}, and the recipe has nothing under gate.{name}. Fill "
                "that section, or leave the name out."
            )
        found += made
    seen = [check.name for check in found]
    for one in seen:
        if seen.count(one) > 1:
            raise UsageError(f"Two checks have the name {one!r}. Leave one of them out.")
    return found
