"""A/B tests of adapters in production: their arms, what observations show, and how many are needed.

    experiment = ab.Experiment(name=..., arms=(ab.adapter_arm("now", 0.5, folder), ...), ...)
    arm = experiment.assign(unit)
    analysis = ab.analyze(experiment, observations)

Nothing here serves a model or stores an observation. `Experiment.assign` is a function of the unit
and the experiment alone, and so it works in any gateway. Imports no torch.
"""

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
    "adapter_arm",
    "analyze",
    "check_unchanged",
    "new_salt",
    "plan",
    "read_baseline",
]
