"""Records made by hand, and trials that cost nothing; every test that needs either takes it here.

Each function returns a whole record with values that offend nothing, and takes any field of it by
its keyword. Imports no torch, and of the package the records and the runners' protocol alone.
"""

from __future__ import annotations

import math
import os
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from plop_lora.recipe import Runner
from plop_lora.records import (
    ArmResult,
    CostLedger,
    GapVerdict,
    ModelReference,
    Placement,
    Predictive,
    Spent,
    TrainingSettings,
    TrialCost,
    TrialData,
    TrialResult,
    TrialSpec,
    Verification,
)
from plop_lora.records.trial import DONE, FAILED, UNTRAINED, Phase, higher_is_better
from plop_lora.records.verification import ArmVerdict, Verdict
from plop_lora.training.folder import RESULT, trial_folder
from plop_lora.training.runners.events import FINISHED, RUNNING, WAITING, Event, Watch, ignore
from plop_lora.training.trial import find_result, write_spec

RATE = 3e-4
"""The learning rate of a trial that is given none."""
CAUSE = "the loss is NaN"

# --------------------------------------------------------------------------- placements


def model_reference(name: str = "toy", **values: object) -> ModelReference:
    """Return a reference to a decoder of a thousand parameters."""
    fields = {
        "revision": None,
        "architecture": "LlamaForCausalLM",
        "task_type": "CAUSAL_LM",
        "parameters": 1000,
    }
    return ModelReference(name, **fields | values)


def placement(**values: object) -> Placement:
    """Return a placement without sites; the parameters are those of the sites that are given."""
    sites = values.get("sites", ())
    fields = {
        "model": model_reference(),
        "strategy": "plop",
        "verdict": GapVerdict.DECIDED,
        "choices": (),
        "sites": sites,
        "scaling": 1.0,
        "trainable_parameters": sum(site.parameters for site in sites),
        "budget": None,
        "hosts": (),
        "untouched": (),
        "seed": 0,
        "scores_digest": None,
        "plop_version": "0",
    }
    return Placement(**fields | values)


# --------------------------------------------------------------------------- trials


def trial_data(**values: object) -> TrialData:
    """Return the files of a trial, which need not be there."""
    fields = {
        "train": "../train.jsonl",
        "train_sha256": "0",
        "evaluation": "../eval.jsonl",
        "evaluation_sha256": "0",
    }
    return TrialData(**fields | values)


def trial_spec(arm: str = "good", seed: int = 0, **values: object) -> TrialSpec:
    """Return the spec of a trial of sft on a CPU that reports its result."""
    fields = {
        "phase": Phase.CONFIRM,
        "task": "sft",
        "model": "toy",
        "placement": placement(trainable_parameters=64),
        "learning_rate": RATE,
        "data": trial_data(),
        "training": TrainingSettings(device="cpu"),
    }
    return TrialSpec(arm=arm, seed=seed, **fields | values)


def trial_cost(seconds: float = 10.0, **values: object) -> TrialCost:
    """Return the cost of a trial on a CPU, most of it training."""
    fields = {
        "wall_seconds": seconds,
        "train_seconds": seconds * 0.8,
        "evaluate_seconds": seconds * 0.1,
        "devices": 1,
        "device": "x86_64",
        "accelerator": False,
        "peak_memory": 2**20,
        "tokens": 100,
    }
    return TrialCost(**fields | values)


def trial_result(
    spec: TrialSpec, value: float | None = 0.5, *, metric: str = "loss", **values: object
) -> TrialResult:
    """Return the result of a spec: done with a value of its metric, or failed without one."""
    done = value is not None
    fields = {
        "spec_digest": spec.digest(),
        "arm": spec.arm,
        "seed": spec.seed,
        "phase": spec.phase,
        "learning_rate": spec.learning_rate,
        "status": DONE if done else FAILED,
        "cause": None if done else CAUSE,
        "metric": metric,
        "metrics": {metric: value} if done else {},
        "items": {},
        "trainable_parameters": spec.placement.trainable_parameters,
        "batch_size": spec.training.batch_size,
        "cost": trial_cost(),
    }
    return TrialResult(**fields | values)


def lost(result: TrialResult, cause: str = "killed by SIGSEGV") -> TrialResult:
    """Return the result of the same trial, had the machine ended it."""
    return replace(result, status=FAILED, cause=cause, metrics={}, items={}, mendable=True)


# --------------------------------------------------------------------------- verifications


def spent(what: str = "all", trials: int = 1, seconds: float = 1.0, **values: object) -> Spent:
    """Return a line of a cost ledger, on one device without a price."""
    fields = {
        "wall_seconds": seconds,
        "device_seconds": seconds,
        "gpu_hours": None,
        "money": None,
        "tokens": 1,
        "peak_memory": 1,
    }
    return Spent(what=what, trials=trials, **fields | values)


def cost_ledger(*lines: Spent, **values: object) -> CostLedger:
    """Return a ledger of some lines, by default of one, and their sum."""
    lines = lines or (spent(),)
    total = spent("total", sum(line.trials for line in lines),
                  sum(line.wall_seconds for line in lines))  # fmt: skip
    fields = {
        "lines": lines,
        "total": total,
        "search": None,
        "price": None,
        "currency": "USD",
        "device": "cpu",
    }
    return CostLedger(**fields | values)


def arm_result(arm: str, outcomes: Sequence[float], **values: object) -> ArmResult:
    """Return an arm with its outcome by seed, compared with nothing."""
    fields = {
        "parameters": 1000,
        "mismatch": 0.0,
        "learning_rate": RATE,
        "nfn": None,
        "mean": statistics.fmean(outcomes),
        "values": tuple(outcomes),
        "difference": None,
        "low": None,
        "high": None,
        "p": None,
        "verdict": ArmVerdict.UNSEPARATED,
    }
    return ArmResult(arm=arm, **fields | values)


def verification(*arms: ArmResult, metric: str = "loss", **values: object) -> Verification:
    """Return a verification that confirms `plop` over the other arms."""
    fields = {
        "model": model_reference(),
        "task": "sft",
        "metric": metric,
        "higher_is_better": higher_is_better(metric),
        "margin": 0.01,
        "budget": 1000,
        "shortlist": "plop",
        "verdict": Verdict.CONFIRMED,
        "better": None,
        "more": None,
        "arms": arms,
        "ladder": (),
        "seeds": tuple(range(max((len(arm.values) for arm in arms), default=1))),
        "report_rows": 30,
        "selection_rows": 10,
        "train_rows": 100,
        "predictive": Predictive(rho=None, arms=len(arms), p=None),
        "cost": cost_ledger(),
        "placement": placement(trainable_parameters=1000),
        "better_placement": None,
        "quick": False,
        "scores_digest": None,
        "plop_version": "0",
    }
    return Verification(**fields | values)


# --------------------------------------------------------------------------- the runner

Outcome = Callable[[TrialSpec, Path], TrialResult]
"""What comes of a trial, of its spec and the folder of all trials."""


class PlantedTrials:
    """Runs trials that cost nothing: the outcome of each is planted.

    It keeps specs and results in files and tells whoever watches, as the real runners do, so that
    what is finished is found again. A result of the machine is handed over and not kept, nor is
    one whose numbers no file holds.

    Attributes:
        ran: Specs that were not found finished, in order.
        die_after: Number of such trials after which Ctrl-C comes, or None.
        change: What is made of a result before it is kept, or None.
    """

    def __init__(
        self,
        outcome: Outcome,
        *,
        die_after: int | None = None,
        change: Callable[[TrialSpec, TrialResult], TrialResult] | None = None,
    ) -> None:
        self.outcome, self.die_after, self.change = outcome, die_after, change
        self.ran: list[TrialSpec] = []

    def __call__(
        self,
        specs: Sequence[TrialSpec],
        root: Path,
        runner: Runner,
        *,
        report_to: tuple[str, ...] = (),
        watch: Watch = ignore,
    ) -> tuple[TrialResult, ...]:
        folders = [trial_folder(root, spec) for spec in specs]
        for spec, folder in zip(specs, folders, strict=True):
            watch(Event(spec, folder, WAITING))
        results = []
        for spec, folder in zip(specs, folders, strict=True):
            result = find_result(folder, spec) or self._run(spec, root, folder, watch)
            watch(Event(spec, folder, FINISHED, result))
            results.append(result)
        return tuple(results)

    def _run(self, spec: TrialSpec, root: Path, folder: Path, watch: Watch) -> TrialResult:
        if len(self.ran) == self.die_after:
            raise KeyboardInterrupt
        write_spec(root, spec)
        watch(Event(spec, folder, RUNNING))
        self.ran.append(spec)
        result = self.outcome(spec, root)
        if self.change is not None:
            result = self.change(spec, result)
        if not result.mendable and all(map(math.isfinite, result.metrics.values())):
            result.save(folder / RESULT)
        return result

    def of_phase(self, phase: str) -> list[TrialSpec]:
        """Return what ran in one phase."""
        return [spec for spec in self.ran if spec.phase == phase]


@dataclass(frozen=True, kw_only=True)
class AccuracyByArm:
    """An outcome: a share of right answers by arm, rate and seed, on rows that are hard for all.

    The loss falls as the share rises, by the same on every row: it tells all rates apart.

    Attributes:
        shares: Accuracy of each arm at its best rate, 0.5 for one that is not named.
        best: Best rate of an arm, `RATE` for one that is not named; ten times more or less costs a
            tenth of all rows.
        causes: Arms that fail, and why.
        untrained: Accuracy of the model as it was.
    """

    shares: Mapping[str, float]
    best: Mapping[str, float] = field(default_factory=dict)
    causes: Mapping[str, str] = field(default_factory=dict)
    untrained: float = 0.2

    def __call__(self, spec: TrialSpec, root: Path) -> TrialResult:
        items = self._items(spec, root)
        if (cause := self.causes.get(spec.arm)) is not None:
            return trial_result(spec, None, metric="accuracy", cause=cause, cost=trial_cost(2.0))
        means = {name: statistics.fmean(values) for name, values in items.items()}
        return trial_result(
            spec, means["accuracy"], metric="accuracy", metrics=means, items=items,
            cost=trial_cost(2.0),
        )  # fmt: skip

    def _items(self, spec: TrialSpec, root: Path) -> dict[str, tuple[float, ...]]:
        share = self.shares.get(spec.arm, 0.5)
        if spec.phase == UNTRAINED:
            share = self.untrained
        else:
            share -= 0.1 * abs(math.log10(spec.learning_rate / self.best.get(spec.arm, RATE)))
        share += random.Random(f"{spec.arm} {spec.seed}").gauss(0, 0.002)
        hardness = [random.Random(f"{row}").random() for row in range(evaluation_rows(spec, root))]
        return {
            "accuracy": tuple(float(hard < share) for hard in hardness),
            "loss": tuple(hard + 1 - share for hard in hardness),
        }


def evaluation_rows(spec: TrialSpec, root: Path) -> int:
    """Return the number of rows of the file that judges a trial."""
    path = os.path.normpath(trial_folder(root, spec) / spec.data.evaluation)
    return Path(path).read_text(encoding="utf-8").count("\n")


def planted_accuracy(
    shares: Mapping[str, float],
    *,
    die_after: int | None = None,
    change: Callable[[TrialSpec, TrialResult], TrialResult] | None = None,
    **planted: object,
) -> PlantedTrials:
    """Return trials with an accuracy by arm; `planted` are further fields of `AccuracyByArm`."""
    outcome = AccuracyByArm(shares=shares, **planted)
    return PlantedTrials(outcome, die_after=die_after, change=change)
