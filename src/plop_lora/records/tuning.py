"""Tuning: which configuration a search found, and whether fresh seeds confirm it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from plop_lora.records.base import Record
from plop_lora.records.cost import CostLedger
from plop_lora.records.placement import Placement
from plop_lora.records.scores import ModelReference
from plop_lora.records.verification import LadderStep


class TuningVerdict(StrEnum):
    """What a search says of its choice."""

    IMPROVED = "improved"
    STANDS = "default stands"
    INCONCLUSIVE = "cannot separate"
    UNCONFIRMED = "unconfirmed"


class CandidateVerdict(StrEnum):
    """What the confirmation says of one configuration."""

    REFERENCE = "reference"
    BETTER = "better"
    NOT_WORSE = "not worse"
    WORSE = "worse"
    INCONCLUSIVE = "cannot separate"


class SearchState(StrEnum):
    """Where a suggestion of the search stands."""

    SEARCHED = "done"
    FAILED = "failed"
    OVER_BUDGET = "over budget"
    RUNNING = "running"


IMPROVED, STANDS, INCONCLUSIVE, UNCONFIRMED = TuningVerdict
EXIT_CODES = {IMPROVED: 0, STANDS: 0, INCONCLUSIVE: 4, UNCONFIRMED: 4}
REFERENCE, BETTER, NOT_WORSE, WORSE, UNDECIDED = CandidateVerdict
SEARCHED, FAILED, OVER_BUDGET, RUNNING = SearchState


@dataclass(frozen=True, slots=True)
class Configuration:
    """One point of the search.

    `placement` is a strategy or a file of a placement, `init` PEFT's name, `loraplus_ratio` the
    learning rate of B over that of A, 1 for a plain optimizer.
    """

    placement: str
    rank: int
    init: str
    learning_rate: float
    loraplus_ratio: float = 1.0

    @property
    def label(self) -> str:
        """The name of the arm; no two configurations share one."""
        ratio = "" if self.loraplus_ratio == 1 else f" LoRA+ {self.loraplus_ratio:g}"
        return f"{self.placement} r{self.rank} {self.init} lr {self.learning_rate:.3g}{ratio}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTrial:
    """One suggestion of the search and what came of it.

    `state` is `done`, `failed` (with its `cause`), `over budget` (never trained) or `running`
    (with another worker when the record was made). `value` is the metric on the selection split,
    `device_seconds` what the trial took, None where it did not run.
    """

    number: int
    configuration: Configuration
    parameters: int
    value: float | None
    state: SearchState
    cause: str | None
    device_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A configuration after the confirmation.

    `selection` is its value in the search, `values` those by seed on the report split, None where
    the trial failed. `difference` is the candidate minus the default, turned so that above 0 the
    candidate is better, with its simultaneous 95 % interval; None for the default itself or where
    nothing can be said. `verdict` is `reference` (the default), `better` (the interval is above
    0), `not worse` (above minus the margin), `worse` (below 0) or `cannot separate`.
    """

    configuration: Configuration
    parameters: int
    selection: float | None
    mean: float | None
    values: tuple[float | None, ...]
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: CandidateVerdict
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage before it runs: how many trials of how many training rows, judged on how many."""

    what: str
    trials: int
    train_rows: int
    evaluation_rows: int


@dataclass(frozen=True, repr=False, kw_only=True)
class TuningPlan(Record):
    """What a search would run and how long.

    `configurations` counts the pairs of placement and rank, `feasible` those within the budget.
    `row_passes` are training rows times epochs over all trials; None where steps are given.
    `device_seconds` and `money` are known once a trial of the same folder has run.
    """

    kind: ClassVar[str] = "tuning-plan"

    model: ModelReference
    task: str
    metric: str
    budget: int
    default: Configuration
    configurations: int
    feasible: int
    learning_rates: tuple[float, ...]
    inits: tuple[str, ...]
    loraplus_ratios: tuple[float, ...]
    stages: tuple[Stage, ...]
    row_passes: float | None
    device_seconds: float | None
    hours: float | None
    money: float | None
    currency: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False, kw_only=True)
class Tuning(Record):
    """The outcome of a search over placement, rank, initialisation and learning rate.

    `verdict` is `improved` (`chosen` is not worse than the default and has the better mean),
    `default stands` (no candidate is), `cannot separate` (nor can they be told apart), or
    `unconfirmed` (no confirmation ran; `chosen` is the best of the search). `placement` is that
    of `chosen`, `recipe` what `plop verify` reads.
    """

    kind: ClassVar[str] = "tuning"

    model: ModelReference
    task: str
    metric: str
    higher_is_better: bool
    margin: float
    budget: int
    verdict: TuningVerdict
    chosen: Configuration
    default: Configuration
    candidates: tuple[Candidate, ...]
    ladder: tuple[LadderStep, ...]
    history: tuple[SearchTrial, ...]
    search_seed: int
    seeds: tuple[int, ...]
    train_rows: int
    selection_rows: int
    report_rows: int
    cost: CostLedger
    placement: Placement
    recipe: dict[str, object]
    scores_digest: str
    plop_version: str
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 where the choice is settled, 4 where it is not."""
        return EXIT_CODES[self.verdict]
