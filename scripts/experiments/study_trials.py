"""The trials of a prepared pair: which there are, and which have a record already."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from arms import all_arms, distinct
from further import further_arms
from outcomes import FURTHER, MOST_SEEDS, UNTRAINED, seeds_wanted, selected
from overlap import METRIC, REWARD
from pairs import COMPLETION_LENGTH, GENERATIONS, GRPO, PAIRS, Pair, StudyError
from preparing import ROWS, SCORES, WORDS, checked_network, describe, digest

from plop_lora.files import atomic_file
from plop_lora.records import (
    EvaluationSettings,
    Placement,
    Scores,
    TrainingSettings,
    TrialData,
    TrialResult,
    TrialSpec,
)
from plop_lora.records.trial import CONFIRM, LADDER

INFORMATION = "nfn"
"""What a description says beside what decides: it differs in its last digit between machines."""
STUDY, PAIR = Path("build/study"), "pair.json"
FACTOR, MOST_ADDED = 3, 3
"""Between two rates, and how many are added on a side at most."""


def record_name(arm: str, rate: float, seed: int) -> str:
    """Return the file name of a trial's record.

    >>> record_name("type-v_proj", 0.0018, 1)
    'type-v_proj.r0.0018.s1.json'
    """
    return f"{arm}.r{rate:g}.s{seed}.json"


@dataclasses.dataclass(frozen=True)
class Study:
    """A prepared pair: its folder, where its network and its records are, and its arms.

    No arm gets more than `most_seeds` seeds; a later opening with more goes on.
    """

    pair: Pair
    folder: Path
    network: Path
    results: Path
    arms: Mapping[str, Placement]
    device: str
    most_seeds: int = MOST_SEEDS

    def records(self) -> dict[str, TrialResult]:
        """Return the records that are there, by file name."""
        paths = sorted(self.results.glob("*.r*.s*.json"))
        return {path.name: TrialResult.load(path) for path in paths}

    def ladder(self) -> list[TrialSpec]:
        """Return the trials of seed 0: the untrained network, then every arm at every rate.

        The rates in the middle come first, so that a study that is cut short has something of
        every arm.
        """
        rates = self.rates()
        middle = self.pair.rates[len(self.pair.rates) // 2]
        order = sorted(rates, key=lambda rate: abs(math.log(rate / middle)))
        first = [self.spec(UNTRAINED, 0.0, 0, LADDER)]
        return first + [self.spec(arm, rate, 0, LADDER) for rate in order for arm in self.arms]

    def rates(self) -> tuple[float, ...]:
        """Return the rates of all arms, rising: the pair's, and more where a best one is an edge.

        A rate is added once every arm has been trained at those that are there.
        """
        losses = self.losses()
        rates = list(self.pair.rates)
        for _ in range(2 * MOST_ADDED):
            if any(not losses.get(arm, {}).keys() >= set(rates) for arm in self.arms):
                break
            best = [min(rates, key=losses[arm].__getitem__) for arm in self.arms]
            if rates[-1] in best and rates[-1] < self.pair.rates[-1] * FACTOR**MOST_ADDED:
                rates.append(rounded(rates[-1] * FACTOR))
            elif rates[0] in best and rates[0] > self.pair.rates[0] / FACTOR**MOST_ADDED:
                rates.insert(0, rounded(rates[0] / FACTOR))
            else:
                break
        return tuple(rates)

    def losses(self) -> dict[str, dict[float, float]]:
        """Return the loss on the selection rows by arm and rate, of the trials of the ladder."""
        found: dict[str, dict[float, float]] = {}
        for record in self.records().values():
            if record.seed == 0 and record.arm != UNTRAINED:
                found.setdefault(record.arm, {})[record.learning_rate] = selected(record)
        return found

    def confirmation(self) -> list[TrialSpec]:
        """Return the trials of the further seeds, at the best rate of every arm that has one.

        Finished ones may ask for one seed more, for all arms alike.
        """
        best = self.best_rates()
        return [
            self.spec(arm, best[arm], seed, CONFIRM)
            for seed in range(1, min(seeds_wanted(self.results), self.most_seeds))
            for arm in self.arms
            if arm in best
        ]

    def best_rates(self) -> dict[str, float]:
        """Return the rate of lowest loss on the selection rows, of the arms whose ladder ended."""
        rates = set(self.rates())
        losses = self.losses()
        return {
            arm: min(by, key=by.__getitem__) for arm, by in losses.items() if by.keys() >= rates
        }

    def spec(self, arm: str, rate: float, seed: int, phase: str) -> TrialSpec:
        """Return the spec of a trial."""
        pair = self.pair
        trained, judged = self.by_task
        placement = next(iter(self.arms.values())) if arm == UNTRAINED else self.arms[arm]
        return TrialSpec(
            arm=arm,
            seed=seed,
            phase=phase,
            task=pair.task,
            model=str(self.network),
            placement=placement,
            learning_rate=rate,
            data=self.data,
            training=TrainingSettings(
                steps=1 if arm == UNTRAINED else pair.steps,
                batch_size=pair.batch_size,
                max_length=pair.max_length,
                device=self.device,
                **trained,
            ),
            evaluation=EvaluationSettings(batch_size=pair.batch_size, **judged),
            labels=self.labels if pair.task == "classify" else (),
        )

    @property
    def by_task(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the settings of training and of judging that only the task has."""
        if self.pair.task != GRPO:
            return {}, {"metric": "accuracy" if self.pair.task == "classify" else "loss"}
        return (
            {
                "rewards": (REWARD,),
                "generations": GENERATIONS,
                "completion_length": COMPLETION_LENGTH,
            },
            {"metric": METRIC, "max_new_tokens": COMPLETION_LENGTH},
        )

    @cached_property
    def data(self) -> TrialData:
        """Return the files of all trials; a classifier has no loss on general text."""
        paths = [self.folder / name for name in ROWS]
        train, evaluation, general = ((str(path), digest(path)) for path in paths)
        data = TrialData(*train, *evaluation)
        if self.pair.task == "classify":
            return data
        return dataclasses.replace(data, general=general[0], general_sha256=general[1])

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Return the classes of the training rows, by name."""
        lines = (self.folder / ROWS[0]).read_text(encoding="utf-8").splitlines()
        return tuple(sorted({json.loads(line)["label"] for line in lines}))

    def missing(self, specs: Sequence[TrialSpec]) -> list[TrialSpec]:
        """Return the trials without a record."""
        return [spec for spec in specs if not (self.results / name_of(spec)).exists()]


def rounded(rate: float) -> float:
    """Return a rate as its record's name has it.

    >>> rounded(1.8e-3 * 3)
    0.0054
    """
    return float(f"{rate:.6g}")


def name_of(spec: TrialSpec) -> str:
    """Return the file name of the record of a trial."""
    return record_name(spec.arm, spec.learning_rate, spec.seed)


def open_study(
    name: str,
    results: Path,
    models: Path,
    device: str,
    most_seeds: int = MOST_SEEDS,
    *,
    further: bool = False,
) -> Study:
    """Return a prepared pair.

    Args:
        name: of the pair.
        results: where its records are kept, in a folder of its name.
        models: folder of the networks.
        device: that trials run on.
        most_seeds: seeds that an arm gets at most.
        further: run the further arms too. Once they were asked for they belong to the pair.

    Raises:
        StudyError: it is not prepared, or its records are of other data, weights or settings.
    """
    pair, folder, kept = PAIRS[name], STUDY / name, results / name
    network = checked_network(pair.network, models)
    _needs(folder / SCORES, f"The pair {name} is not", name)
    _keep(kept / PAIR, describe(pair, folder, network))
    scores = Scores.load(folder / SCORES)
    arms = distinct(all_arms(pair, scores))
    if further or (kept / FURTHER).is_file():
        _needs(folder / WORDS, f"The further arms of {name} are not", f"{name} --further")
        more = further_arms(pair, scores, Scores.load(folder / WORDS))
        _keep(kept / FURTHER, more.told())
        arms |= more.arms
    return Study(pair, folder.resolve(), network, kept, arms, device, most_seeds)


def _needs(path: Path, what: str, options: str) -> None:
    """Refuse to go on without a file that is prepared."""
    if not path.is_file():
        raise StudyError(f"{what} prepared: python scripts/experiments/study.py prepare {options}")


def _keep(path: Path, now: Mapping[str, Any]) -> None:
    """Write a description beside the records, or refuse one that differs from theirs."""
    if not path.is_file():
        with atomic_file(path) as file:
            file.write(json.dumps(now, indent=1) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    other = [key for key in now if key != INFORMATION and now[key] != before.get(key)]
    if other:
        raise StudyError(
            f"The records in {path.parent} are of another {' and '.join(other)}, so new ones "
            "cannot stand beside them. Prepare the pair with the Python and the files that "
            f"{path} was made with, or give other --results."
        )
