"""The steps that a search is made of beside its own, each of which a caller may replace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from plop_lora.recipe import TuneRecipe
from plop_lora.records import (
    CostLedger,
    Placement,
    Scores,
    TrialCost,
    TrialData,
    TrialResult,
)
from plop_lora.records.base import later
from plop_lora.records.trial import higher_is_better
from plop_lora.training.events import RunTrials
from plop_lora.verification.decide import RISK, Outcome, decide
from plop_lora.study.model import check_config, model_of
from plop_lora.verification.run import check_task_fits, check_what_runs
from plop_lora.study.splits import (
    FROM_TRIAL,
    REPORT,
    SELECT,
    TRAIN,
    Splits,
    check_splits,
    prepare_splits,
    write_splits,
)


@dataclass(frozen=True, slots=True)
class RowsFile:
    """A file of rows: its name relative to the folder of a spec, its SHA-256, its rows."""

    name: str
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Rows:
    """The three parts of the data: trained on, selected on, reported on; the classes.

    `splits` has the rows themselves, for whoever writes them.
    """

    train: RowsFile
    select: RowsFile
    report: RowsFile
    labels: tuple[str, ...] = ()
    splits: Splits | None = None

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
    """Splits the rows of a recipe in three, and checks all that needs no run; writes nothing."""

    def __call__(self, recipe: TuneRecipe, scores: Scores, folder: Path) -> Rows:
        """Split the rows; a folder that holds others is refused."""
        ...


class Check(Protocol):
    """Finds what shows only when functions of the user run, or a model is looked at."""

    def __call__(
        self, recipe: TuneRecipe, scores: Scores, rows: Rows, placements: Sequence[Placement]
    ) -> None:
        """Raise before anything is written or trained."""
        ...


class Write(Protocol):
    """Writes the rows into the folder of a run."""

    def __call__(self, rows: Rows, folder: Path) -> None:
        """Write what is not there."""
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
    """What a search calls: to run trials, to split rows, to compare arms, to count the cost.

    `check` and `write` are for rows that are read from files; by default they do nothing.
    """

    run: RunTrials
    prepare: Prepare
    compare: Compare
    count: Count
    check: Check = field(default=lambda recipe, scores, rows, placements: None)
    write: Write = field(default=lambda rows, folder: None)


def usual_steps() -> Steps:
    """Return the steps that `plop verify` takes as well; each is imported when it is called."""
    return Steps(run=later("training.runners", "run_trials"), prepare=_prepare, compare=_compare,
                 count=later("cost", "ledger"), check=_check, write=_write)  # fmt: skip


def _prepare(recipe: TuneRecipe, scores: Scores, folder: Path) -> Rows:
    check_task_fits(scores, recipe)
    check_config(model_of(recipe, scores), scores, download=False)
    splits = prepare_splits(recipe)
    check_splits(splits, folder)
    parts = {TRAIN: splits.train, SELECT: splits.selection, REPORT: splits.report}
    train, select, report = (
        RowsFile(f"{FROM_TRIAL}/{name}", splits.digests[name], len(rows))
        for name, rows in parts.items()
    )
    return Rows(train, select, report, splits.labels, splits)


def _check(recipe: TuneRecipe, scores: Scores, rows: Rows, placements: Sequence[Placement]) -> None:
    assert rows.splits is not None, "_prepare keeps them"
    check_what_runs(recipe, scores, rows.splits, placements)


def _write(rows: Rows, folder: Path) -> None:
    assert rows.splits is not None, "_prepare keeps them"
    write_splits(rows.splits, folder)


_DEFAULT = "default"


def _compare(
    default: Sequence[TrialResult],
    rivals: Mapping[str, Sequence[TrialResult]],
    *,
    margin: float,
) -> dict[str, Versus]:
    """Let the default take the shortlist's place; differences change their sign.

    The intervals hold together (Bonferroni): the best of several rivals is taken by them.
    """
    metric = default[0].metric
    outcomes = {_DEFAULT: _outcome(default, metric)}
    outcomes |= {f"rival {name}": _outcome(results, metric) for name, results in rivals.items()}
    decision = decide(
        outcomes, shortlist=_DEFAULT, margin=margin, higher=higher_is_better(metric),
        level=1 - RISK / max(1, len(rivals)),
    )  # fmt: skip
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
