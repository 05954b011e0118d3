"""A/B tests of adapters in production: their arms, what observations show, and how many are needed.

    experiment = ab.Experiment(name=..., arms=(ab.adapter_arm("now", 0.5, folder), ...), ...)
    arm = experiment.assign(unit)
    analysis = ab.analyze(experiment, observations)
    with ab.open_run("experiment.json") as run:  # in a gateway
        arm = run.assign(unit)

Nothing here serves a model. `Experiment.assign` is a function of the unit and the experiment alone,
and so it works in any gateway. `Store` and `Writer` keep what happens. Names are loaded when they
are first used: a gateway imports neither scipy nor torch, and no database before it opens one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plop_lora.ab.analysis import analyze
    from plop_lora.ab.arms import adapter_arm, check_unchanged, new_salt
    from plop_lora.ab.live import open_run
    from plop_lora.ab.observations import Observation
    from plop_lora.ab.past_data import Baseline, read_baseline
    from plop_lora.ab.sample_size import plan
    from plop_lora.ab.store import Store, Writer
    from plop_lora.records.experiment import (
        Experiment,
        ExperimentArm,
        Guardrail,
        Metric,
        MetricKind,
        PerUnit,
        Ramp,
    )

_HOMES = {
    "Baseline": "ab.past_data",
    "Experiment": "records.experiment",
    "ExperimentArm": "records.experiment",
    "Guardrail": "records.experiment",
    "Metric": "records.experiment",
    "MetricKind": "records.experiment",
    "Observation": "ab.observations",
    "PerUnit": "records.experiment",
    "Ramp": "records.experiment",
    "Store": "ab.store",
    "Writer": "ab.store",
    "adapter_arm": "ab.arms",
    "analyze": "ab.analysis",
    "check_unchanged": "ab.arms",
    "new_salt": "ab.arms",
    "open_run": "ab.live",
    "plan": "ab.sample_size",
    "read_baseline": "ab.past_data",
}

__all__ = [
    "Baseline",
    "Experiment",
    "ExperimentArm",
    "Guardrail",
    "Metric",
    "MetricKind",
    "Observation",
    "PerUnit",
    "Ramp",
    "Store",
    "Writer",
    "adapter_arm",
    "analyze",
    "check_unchanged",
    "new_salt",
    "open_run",
    "plan",
    "read_baseline",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'plop_lora.ab' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"plop_lora.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
