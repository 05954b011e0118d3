"""The outcomes of the study's pairs, read from the records of their trials.

Only a pair whose trials are complete has an outcome. Imports no torch.

Shape letters: S seeds, I items (report rows).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from overlap import METRIC
from scipy import stats

from plop_lora.records import TrialResult
from plop_lora.statistics import paired_interval

Floats = NDArray[np.float64]

RESULTS = Path(__file__).resolve().parent / "results"
FURTHER = "further.json"
"""Beside the records of a pair: the further arms that it was given."""
NOTHING: Mapping[str, Any] = {"arms": {}, "weights": {}, "aliases": {}}
UNTRAINED, TYPE, PLOP = "untrained", "type-", "plop"
SEEDS, MOST_SEEDS = 3, 8
"""Seeds that every arm has at least, and at most."""
APART = 1 / 3
"""Of the difference between the best and the median type: its interval shall be shorter."""
LEAST_GAIN = 0.05
"""In the unit of the gain; a pair in which no arm gains more is left out."""
REWARD, NATS = "reward", "nats"
"""Units of a gain: of a reward from 0 to 1, and of a loss."""
RANDOM = ("random-1", "random-2", "random-3")
LOWEST = "lowest type alone"


@dataclass(frozen=True, eq=False)
class Arm:
    """What an arm reached at its own rate.

    `gains_SI` is the fall of the loss of every report row, for every seed; `general` the mean rise
    of the loss on general text, None for a classifier.
    """

    rate: float
    at_edge: bool
    gains_SI: Floats
    general: float | None

    @property
    def gain(self) -> float:
        """Mean over seeds and rows."""
        return float(self.gains_SI.mean())


@dataclass(frozen=True)
class Spent:
    """What the trials of a pair cost: their number, their hours, and those of one arm.

    `one` is the hours of the arm `plop` at all of its rates and seeds. Hours are of the devices
    that are named, other work on them included.
    """

    trials: int
    hours: float
    one: float
    devices: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A pair whose trials are complete.

    `members` has the module types of every arm by the names of the arms of one type, and `roles`
    the arm of one type for each letter by which the constant rules are named. `further` names the
    arms that were added when the pair was complete; they count once all of them are trained. Those
    among them whose weights were chosen one by one are no members. Gains are in the
    unit `unit`.
    """

    name: str
    network: str
    nfn: Mapping[str, float]
    arms: Mapping[str, Arm]
    excluded: str | None
    members: Mapping[str, frozenset[str]]
    roles: Mapping[str, str]
    spent: Spent
    further: tuple[str, ...] = ()
    unit: str = NATS

    @property
    def seeds(self) -> int:
        """Seeds of every arm."""
        return len(next(iter(self.arms.values())).gains_SI)

    def types(self) -> list[str]:
        """Return the arms of one type, the lowest NFN first."""
        return sorted((arm for arm in self.arms if arm in self.nfn), key=self.nfn.__getitem__)

    def best_type(self) -> float:
        """Return the gain of the best type alone."""
        return max(self.arms[arm].gain for arm in self.types())

    def gain(self, rule: str) -> float:
        """Return the gain of a rule's arm, for `random` the mean of its draws."""
        if rule == "random":
            return fmean(self.arms[arm].gain for arm in RANDOM)
        return self.arms[self.types()[0] if rule == LOWEST else rule].gain

    def regret(self, rule: str) -> float:
        """Return what a rule leaves of the best type's gain, as a share of it."""
        return 1 - self.gain(rule) / self.best_type()


# --------------------------------------------------------------------------- reading


def read(folder: Path) -> Outcome | str:
    """Return a pair, or why it is not complete."""
    described = json.loads((folder / "pair.json").read_text(encoding="utf-8"))
    records = [TrialResult.load(path) for path in sorted(folder.glob("*.r*.s*.json"))]
    before = [record for record in records if record.arm == UNTRAINED]
    if not before:
        return "the untrained network was not judged"
    made = {arm: arm_of(arm, records, before[0]) for arm in described["arms"]}
    missing = [arm for arm, found in made.items() if found is None]
    if missing:
        return f"trials are missing of {len(missing)} of {len(made)} arms"
    more = further_described(folder)
    added = {arm: arm_of(arm, records, before[0]) for arm in (*more["arms"], *more["weights"])}
    if None in added.values():
        more, added = NOTHING, {}
    seeds = min(len(found.gains_SI) for found in made.values() if found is not None)
    arms = {
        arm: replace(found, gains_SI=found.gains_SI[:seeds])
        for arm, found in (made | added).items()
        if found is not None
    }
    members = {
        arm: frozenset(map(arm_alone, types))
        for arm, types in (described["arms"] | more["arms"]).items()
    }
    for alias, other in (described["aliases"] | more["aliases"]).items():
        arms[alias], members[alias] = arms[other], members[other]
    outcome = Outcome(
        name=described["name"],
        network=described["network"],
        nfn={arm_alone(name): value for name, value in described["nfn"].items()},
        arms=arms,
        excluded=None,
        members=members,
        roles={role: arm_alone(name) for role, name in described.get("roles", {}).items()},
        spent=spent_on([one for one in records if one.arm in {UNTRAINED, *made, *added}]),
        further=(*added, *more["aliases"]),
        unit=REWARD if METRIC in before[0].items else NATS,
    )
    return replace(outcome, excluded=exclusion(outcome))


def spent_on(records: Sequence[TrialResult]) -> Spent:
    """Return what trials cost."""
    return Spent(
        trials=len(records),
        hours=hours_of(records),
        one=hours_of([record for record in records if record.arm == PLOP]),
        devices=tuple(sorted({record.cost.device for record in records})),
    )


def hours_of(records: Iterable[TrialResult]) -> float:
    """Return the sum of the times of trials."""
    return sum(record.cost.wall_seconds for record in records) / 3600


def further_described(folder: Path) -> Mapping[str, Any]:
    """Return what is said of the further arms of a pair, none where it has none."""
    path = folder / FURTHER
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else NOTHING


def arm_alone(type_name: str) -> str:
    """Return the arm that adapts one module type.

    >>> arm_alone("attention.output.dense")
    'type-attention-output-dense'
    """
    return TYPE + type_name.replace(".", "-")


def arm_of(arm: str, records: Sequence[TrialResult], before: TrialResult) -> Arm | None:
    """Return an arm at its own rate, None where it has not all of its seeds there."""
    own = [record for record in records if record.arm == arm]
    ladder = {record.learning_rate: selected(record) for record in own if record.seed == 0}
    if not ladder:
        return None
    rate = min(ladder, key=ladder.__getitem__)
    trials = [record for record in own if record.learning_rate == rate]
    if len(trials) < SEEDS:
        return None
    rows = [
        report(before) - (report(record) if record.done else math.inf)
        for record in sorted(trials, key=lambda record: record.seed)
    ]
    return Arm(rate, rate in (min(ladder), max(ladder)), np.stack(rows), rise(trials, before))


def selected(record: TrialResult) -> float:
    """Return the mean loss on the selection rows, infinite for a trial that diverged."""
    items = losses_of(record)
    return fmean(items[: len(items) // 2]) if record.done and len(items) else math.inf


def report(record: TrialResult) -> Floats:
    """Return the loss of each report row."""
    items = losses_of(record)
    return items[len(items) // 2 :]


def losses_of(record: TrialResult) -> Floats:
    """Return the loss of each row, for a trial that is judged by its reward 1 minus that."""
    if METRIC in record.items:
        return 1 - np.array(record.items[METRIC])
    return np.array(record.items.get("loss", ()))


def rise(trials: Sequence[TrialResult], before: TrialResult) -> float | None:
    """Return the mean rise of the loss on general text."""
    start = before.metrics.get("general-loss")
    if start is None:
        return None
    return fmean(record.metrics["general-loss"] for record in trials if record.done) - start


def exclusion(outcome: Outcome) -> str | None:
    """Say why a pair can tell nothing, None where it can."""
    if max(arm.gain for arm in outcome.arms.values()) <= LEAST_GAIN:
        return f"no arm gains more than {LEAST_GAIN} {outcome.unit}"
    ordered = sorted(outcome.types(), key=lambda arm: outcome.arms[arm].gain)
    difference_SI = outcome.arms[ordered[-1]].gains_SI - outcome.arms[ordered[0]].gains_SI
    error_of_seeds = float(difference_SI.mean(axis=1).std(ddof=1)) / math.sqrt(outcome.seeds)
    error_of_rows = float(stats.sem(difference_SI.mean(axis=0)))
    if difference_SI.mean() < math.hypot(error_of_seeds, error_of_rows):
        return "the best and the worst type cannot be told apart"
    return None


def seeds_wanted(folder: Path) -> int:
    """Return how many seeds every arm of a pair should have by the records that are there.

    One more at a time, until the 95 % interval of the difference between the best and the median
    type is shorter than a third of that difference, or there are `MOST_SEEDS`.
    """
    outcome = read(folder)
    if isinstance(outcome, str):
        return SEEDS
    types = sorted(outcome.types(), key=lambda arm: -outcome.arms[arm].gain)
    best, median = types[0], types[len(types) // 2]
    found = paired_interval(outcome.arms[best].gains_SI - outcome.arms[median].gains_SI)
    apart = found.high - found.low < APART * found.value
    return outcome.seeds if apart else min(outcome.seeds + 1, MOST_SEEDS)


def collect(results: Path) -> tuple[list[Outcome], dict[str, str]]:
    """Return the complete pairs of a folder, and why the others are not."""
    outcomes, incomplete = [], {}
    for path in sorted(results.glob("*/pair.json")):
        found = read(path.parent)
        if isinstance(found, str):
            incomplete[path.parent.name] = found
        else:
            outcomes.append(found)
    return outcomes, incomplete


def interval(means: Sequence[float]) -> tuple[float | None, float | None]:
    """Return Student's 95 % interval of the mean of the networks' means, None below two."""
    if len(means) < 2:
        return None, None
    half = float(stats.t.ppf(0.975, len(means) - 1) * stats.sem(means))
    return fmean(means) - half, fmean(means) + half
