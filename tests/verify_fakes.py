"""Stand-ins for the parts of a verification that are built beside it; each yields to the real one.

Importing this installs them; delete it and the imports once all the parts are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import statistics as means
import sys
from types import ModuleType
from typing import Any

import plop_lora as plop
import plop_lora.statistics
from plop_lora.errors import UsageError
from plop_lora.records import CostLedger, Placement, Predictive, Spent
from plop_lora.records.cost import Counterfactual
from plop_lora.records.verification import BEATEN, CONFIRMED, INCONCLUSIVE
from plop_lora.report.rows import Column, Table


@dataclasses.dataclass(frozen=True)
class Arm:
    name: str
    placements: tuple[Placement, ...]
    nfn: float | None
    mismatch: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    values: tuple[float | None, ...]
    items: tuple[tuple[float, ...] | None, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Against:
    difference: float
    low: float
    high: float
    p: float
    verdict: str


@dataclasses.dataclass(frozen=True)
class Decision:
    verdict: str
    better: str | None
    more: str | None
    comparisons: dict[str, Against]


ARMS = ("plop", "plop-inverse", "attention", "mlp", "all-linear", "random")


def budget_of(scores, rank, top):
    return plop.place(scores, rank=rank, top=top).trainable_parameters


def make_arms(names, scores, *, budget, top, seeds, signals, uniform):
    arms = []
    for name in names:
        if name not in ARMS:
            raise UsageError(f"There is no arm {name!r}.")
        placements = tuple(
            plop.place(scores, strategy=name, budget=budget, top=top, seed=seed) for seed in seeds
        )
        chosen = [choice.nfn for choice in placements[0].choices]
        off = placements[0].trainable_parameters / budget - 1
        arms.append(Arm(name, placements, means.fmean(chosen), off))
    return tuple(arms)


def decide(outcomes, *, shortlist, margin, higher):
    sign = 1.0 if higher else -1.0
    average = {
        name: means.fmean(v for v in outcome.values if v is not None)
        for name, outcome in outcomes.items()
    }
    comparisons = {}
    for name in outcomes:
        if name == shortlist:
            continue
        gap = sign * (average[shortlist] - average[name])
        low, high = gap - margin / 2, gap + margin / 2
        word = "better" if low > -margin else "worse" if high < -margin else "open"
        comparisons[name] = Against(gap, low, high, 0.5, word)
    worse = [name for name, c in comparisons.items() if c.verdict == "worse"]
    if worse:
        return Decision(BEATEN, min(worse, key=lambda n: comparisons[n].difference), None,
                        comparisons)  # fmt: skip
    if any(c.verdict == "open" for c in comparisons.values()):
        return Decision(INCONCLUSIVE, None, "8 seeds would separate them", comparisons)
    return Decision(CONFIRMED, None, None, comparisons)


def predictive(nfn, outcome, *, higher):
    return Predictive(rho=None, arms=len(nfn), p=None)


def ledger(parts, *, price, currency, search, plan):
    lines = tuple(
        Spent(what=what, trials=len(costs), wall_seconds=sum(c.wall_seconds for c in costs),
              device_seconds=sum(c.wall_seconds for c in costs), gpu_hours=None, money=None,
              tokens=0, peak_memory=0)
        for what, costs in parts.items()
    )  # fmt: skip
    return CostLedger(
        lines=lines, total=dataclasses.replace(lines[0], what="total"),
        search=Counterfactual(plan=plan, trials=search, device_seconds=0.0, gpu_hours=None,
                              money=None),
        price=price, currency=currency, device="cpu",
    )  # fmt: skip


def check_metric(task, metric):
    if metric not in ("loss", "exact", "accuracy", "pass@1"):
        raise UsageError(f"There is no metric {metric!r} for {task}.")


def ledger_table(ledger):
    return Table("Cost", (Column("what"),), tuple((line.what,) for line in ledger.lines), ())


@contextlib.contextmanager
def live(*, quiet):
    yield lambda event: None


PARTS: dict[str, dict[str, Any]] = {
    "cost": {"ledger": ledger},
    "verify.arms": {
        "Arm": Arm, "DEFAULT_ARMS": ARMS, "budget_of": budget_of, "make_arms": make_arms,
    },
    "verify.decide": {
        "Decision": Decision, "Outcome": Outcome, "decide": decide, "predictive": predictive,
    },
    "verify.selectors": {"SIGNALS": (), "measure_signals": None},
    "training.evaluate": {"check_metric": check_metric},
    "training.rewards": {"try_rewards": lambda names, rows: None},
    "training.trial": {"find_result": lambda root, spec: None},
    "training.runners": {"run_trials": None},
    "report.costs": {"ledger_table": ledger_table},
    "report.live": {"live": live},
}  # fmt: skip


def install() -> None:
    """Put a stand-in where a module is not there yet."""
    if not hasattr(plop_lora.statistics, "detectable"):
        plop_lora.statistics.detectable = lambda seeds, items, seed_sd, item_sd: seed_sd
    for name, content in PARTS.items():
        full = f"plop_lora.{name}"
        if full not in sys.modules and importlib.util.find_spec(full) is None:
            module = ModuleType(full)
            module.__dict__.update(content)
            sys.modules[full] = module
            parent, _, leaf = full.rpartition(".")
            setattr(importlib.import_module(parent), leaf, module)


install()
