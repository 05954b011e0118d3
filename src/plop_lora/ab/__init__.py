"""A/B tests of adapters in production: their arms, what observations show, and how many are needed.

    experiment = ab.Experiment(name=..., arms=(ab.adapter_arm("now", 0.5, folder), ...), ...)
    arm = experiment.assign(unit)
    analysis = ab.analyze(experiment, observations)
    with ab.open_run("experiment.json") as run:  # in a gateway
        arm = run.assign(unit)

Nothing here serves a model. `Experiment.assign` is a function of the unit and the experiment alone,
and so it works in any gateway. `Store` and `Writer` keep what happens; the libraries of databases
are imported when these are first used. Imports no torch.
"""

from typing import TYPE_CHECKING

from plop_lora.ab.analysis import analyze
from plop_lora.ab.arms import adapter_arm, check_unchanged, new_salt
from plop_lora.ab.observations import Observation
from plop_lora.ab.past_data import Baseline, read_baseline
from plop_lora.ab.sample_size import plan
from plop_lora.records.experiment import (
    Experiment,
    ExperimentArm,
    Guardrail,
    Metric,
    MetricKind,
    PerUnit,
    Ramp,
)

if TYPE_CHECKING:
    from plop_lora.ab.store import Store, Writer

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
    if name in ("Store", "Writer"):
        from plop_lora.ab import store

        return getattr(store, name)
    if name == "open_run":
        from plop_lora.ab.live import open_run

        return open_run
    raise AttributeError(f"module 'plop_lora.ab' has no attribute {name!r}")
