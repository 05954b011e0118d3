"""The steps that a search is made of beside its own, each of which a caller may replace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from plop_lora.recipe import TuneRecipe
from plop_lora.records import CostLedger, Scores, TrialCost, TrialData, TrialResult
from plop_lora.records.base import later
from plop_lora.records.trial import higher_is_better
from plop_lora.training.events import RunTrials
from plop_lora.verify.decide import Outcome, decide
from plop_lora.verify.run import check_rewards, check_task_fits
from plop_lora.verify.splits import FROM_TRIAL, REPORT, SELECT, TRAIN, prepare_splits, write_splits


@dataclass(frozen=True, slots=True)
class RowsFile:
    """A file of rows: its name relative to the folder of a spec, its SHA-256, its rows."""

    name: str
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Rows:
    """The three parts of the data: trained on, selected on, reported on; the classes."""

    train: RowsFile
    select: RowsFile
    report: RowsFile
    labels: tuple[str, ...] = ()

    def data(self, judged: RowsFile, rows: int | None = None) -> TrialData:
        """Return the files of a trial that trains on the first `rows` and is judged on a part."""
        train = self.train
        return TrialData(train.name, train.sha256, judged.name, judged.sha256, rows)


@dataclass(frozen=True, slots=True)
class Versus:
    """A rival minus the default, turned so that above 0 the rival is better.

    `low` and `high` are the simultaneous 95 % interval, `p` is two-sided after Holm; all None
    where too few trials ended to say anything.
    """

    difference: float | None
    low: float | None
    high: float | None
    p: float | None


class Prepare(Protocol):
    """Writes the rows of a recipe into a folder, split in three."""

    def __call__(self, recipe: TuneRecipe, scores: Scores, folder: Path) -> Rows:
        """Split the rows, or find them split already."""
        ...


class Compare(Protocol):
    """Compares rivals with the default over the same seeds and rows."""

    def __call__(
        self,
        default: Sequence[TrialResult],
        rivals: Mapping[str, Sequence[TrialResult]],
        *,
        margin: float,
    ) -> Mapping[str, Versus]:
        """Return one comparison a rival; the results of all stand in the order of the seeds."""
        ...


class Count(Protocol):
    """Sums what trials took."""

    def __call__(
        self, parts: Mapping[str, Sequence[TrialCost]], *, price: float | None, currency: str
    ) -> CostLedger:
        """Return one line a part and their sum."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What a search calls: to run trials, to split rows, to compare arms, to count the cost."""

    run: RunTrials
    prepare: Prepare
    compare: Compare
    count: Count


def usual_steps() -> Steps:
    """Return the steps that `plop verify` takes as well; each is imported when it is called."""
    return Steps(run=later("training.runners", "run_trials"), prepare=_prepare, compare=_compare,
                 count=later("cost", "ledger"))  # fmt: skip


def _prepare(recipe: TuneRecipe, scores: Scores, folder: Path) -> Rows:
    check_task_fits(scores, recipe)
    splits = prepare_splits(recipe)
    check_rewards(recipe, splits)
    write_splits(splits, folder)
    parts = {TRAIN: splits.train, SELECT: splits.selection, REPORT: splits.report}
    train, select, report = (
        RowsFile(f"{FROM_TRIAL}/{name}", splits.digests[name], len(rows))
        for name, rows in parts.items()
    )
    return Rows(train, select, report, splits.labels)


_DEFAULT = "default"


def _compare(
    default: Sequence[TrialResult],
    rivals: Mapping[str, Sequence[TrialResult]],
    *,
    margin: float,
) -> dict[str, Versus]:
    """Let the default take the shortlist's place; differences change their sign."""
    metric = default[0].metric
    outcomes = {_DEFAULT: _outcome(default, metric)}
    outcomes |= {f"rival {name}": _outcome(results, metric) for name, results in rivals.items()}
    decision = decide(outcomes, shortlist=_DEFAULT, margin=margin, higher=higher_is_better(metric))
    return {
        row.arm.removeprefix("rival "): Versus(
            _minus(row.difference), _minus(row.high), _minus(row.low), row.p
        )
        for row in decision.comparisons[1:]
    }


def _outcome(results: Sequence[TrialResult], metric: str) -> Outcome:
    return Outcome(
        tuple(result.metrics.get(metric) if result.done else None for result in results),
        tuple(result.items.get(metric) or None for result in results),
    )


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
