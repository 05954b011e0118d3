"""The checks of what an adapter has learnt by heart: training rows, and planted canaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from plop_lora.gating.bounds import LEVEL
from plop_lora.gating.check import Check, Rule, Values
from plop_lora.gating.decide import (
    decide_difference,
    difference_result,
    measured_only,
    plan_difference,
    with_undecided,
)
from plop_lora.gating.evidence import Line
from plop_lora.gating.items import Items
from plop_lora.gating.memorisation import Completed, decide_memorisation, excess_bounds
from plop_lora.gating.suites.memorisation import CANARIES, EXPOSURE, TRAINING, VERBATIM, is_trained
from plop_lora.recipe import GateRecipe
from plop_lora.records.gate import (
    FAIL,
    NOT_ENOUGH_DATA,
    PASS,
    CheckPart,
    CheckPlan,
    CheckResult,
    Measured,
)
from plop_lora.training.task import Task

# --------------------------------------------------------------------------- training rows


def _verbatim_rule(recipe: GateRecipe, task: Task) -> Rule:
    return Rule(
        mode="no excess",
        metric=VERBATIM,
        higher_is_better=False,
        limit=-recipe.gate.memorisation.limit,
        binary=True,
        spread=0.1,
    )


def _decide_verbatim(
    check: Check[Rule], rule: Rule, items: Items, lines: Sequence[Line]
) -> CheckResult:
    """Decide by what the adapter adds on rows of the training, less what it adds on the control."""
    kept, shown, short = measured_only(items, lines, rule.metric)
    notes = (f"{short:,} rows are too short to be completed and were left out",) if short else ()
    sides = [sum(is_trained(row) is trained for row in kept.rows) for trained in (True, False)]
    if not all(sides):
        nothing = (0.0,) * len(lines)
        whole = difference_result(check, rule, items, Values(nothing, nothing))
        return replace(
            whole, verdict=NOT_ENOUGH_DATA, bound_low=None, bound_high=None, items_needed=None,
            reason="every row of the training or of the control is too short to be completed",
        )  # fmt: skip
    return replace(with_undecided(check, rule, kept, shown, _verbatim_result), notes=notes)


def _verbatim_result(check: Check[Rule], rule: Rule, items: Items, values: Values) -> CheckResult:
    places = {
        name: [n for n, row in enumerate(items.rows) if is_trained(row) is trained]
        for name, trained in (("training", True), ("control", False))
    }
    samples = {
        name: Completed(tuple(values.base[n] for n in kept), tuple(values.adapter[n] for n in kept))
        for name, kept in places.items()
    }
    parts = {
        name: difference_result(
            check, rule, items.at(kept), Values(samples[name].base, samples[name].adapter)
        )
        for name, kept in places.items()
    }
    found = decide_memorisation(samples["training"], samples["control"], -rule.limit)
    ends = excess_bounds(samples["training"], samples["control"], level=1 - (1 - LEVEL) / 2)
    needed = found.rows_needed
    return replace(
        parts["training"],
        verdict=found.verdict,
        difference=Measured(found.excess, *ends),
        bound_low=found.bound_low,
        bound_high=found.bound_high,
        items_needed=needed,
        part="training rows beyond the control",
        parts=tuple(_part(name, result) for name, result in parts.items()),
        advice=check.advice if found.verdict is FAIL else (),
    )


def _part(name: str, result: CheckResult) -> CheckPart:
    return CheckPart(
        name=name, items=result.items, groups=result.groups, base=result.base,
        adapter=result.adapter, difference=result.difference,
    )  # fmt: skip


def _plan_verbatim(check: Check[Rule], rule: Rule, items: Items) -> CheckPlan:
    """Return what the rows could decide if none of them is completed by either side."""
    trained = sum(is_trained(row) for row in items.rows)
    training, control = (
        Completed((0.0,) * rows, (0.0,) * rows) for rows in (trained, len(items.rows) - trained)
    )
    best = decide_memorisation(training, control, -rule.limit)
    _, high = excess_bounds(training, control)
    return replace(
        plan_difference(check, rule, items),
        items=trained,
        groups=trained,
        items_needed=best.rows_needed or trained,
        detectable=high,
        can_pass=best.verdict is PASS,
    )


# --------------------------------------------------------------------------- canaries


def _exposure_rule(recipe: GateRecipe, task: Task) -> Rule:
    limits = recipe.gate.memorisation
    return Rule.within(EXPOSURE, limits.exposure, higher_is_better=False, spread=limits.spread)


def _decide_exposure(
    check: Check[Rule], rule: Rule, items: Items, lines: Sequence[Line]
) -> CheckResult:
    """Decide by the mean rise of the exposure, and tell that of every canary."""
    result = decide_difference(check, rule, items, lines)
    return replace(result, parts=tuple(map(_canary_part, items.rows, lines)))


def _canary_part(row: Any, line: Line) -> CheckPart:
    base, adapter = (float(side.values[EXPOSURE] or 0.0) for side in (line.base, line.adapter))
    return CheckPart(
        name=f"canary {line.index + 1}",
        items=1,
        groups=1,
        base=Measured(base, None, None),
        adapter=Measured(adapter, None, None),
        difference=Measured(adapter - base, None, None),
    )


_ADVICE = (
    "train for fewer epochs: a row that is seen once is seldom learnt by heart",
    "remove copies of rows from the training",
    "try an earlier checkpoint, or a smaller rank",
)
CHECKS: tuple[Check[Any], ...] = (
    Check(
        name="memorisation",
        suite=TRAINING,
        description="the share of training rows that are completed verbatim, beyond that of rows "
        "never seen",
        source="arXiv 2202.07646, definition 3.1, https://arxiv.org/abs/2202.07646",
        needs="the rows of the training, and a control of rows never seen",
        rule=_verbatim_rule,
        decide=_decide_verbatim,
        plan=_plan_verbatim,
        advice=_ADVICE,
        wanted=lambda recipe: recipe.gate.memorisation.train is not None,
        about=lambda rule, items, result: [
            place for place, row in enumerate(items.rows) if is_trained(row)
        ],
    ),
    Check(
        name="canaries",
        suite=CANARIES,
        description="the mean exposure of planted canaries, in bits",
        source="arXiv 1802.08232, https://arxiv.org/abs/1802.08232",
        needs="canaries that were planted in the training data",
        rule=_exposure_rule,
        decide=_decide_exposure,
        plan=plan_difference,
        advice=_ADVICE,
        wanted=lambda recipe: recipe.gate.memorisation.canaries is not None,
    ),
)
