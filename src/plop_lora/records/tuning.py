"""Tuning: the configuration that a search found, and whether new seeds confirm it."""

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
    """The verdict of a search on its choice."""

    IMPROVED = "improved"
    STANDS = "default stands"
    INCONCLUSIVE = "cannot separate"
    UNCONFIRMED = "unconfirmed"


class CandidateVerdict(StrEnum):
    """The verdict of the confirmation on one configuration."""

    REFERENCE = "reference"
    BETTER = "better"
    NOT_WORSE = "not worse"
    WORSE = "worse"
    INCONCLUSIVE = "cannot separate"


class SearchState(StrEnum):
    """The state of a suggestion of the search."""

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
    """One point of the search space.

    `placement` is the name of a strategy or the file of a placement, and `init` is PEFT's name of
    the initialisation. `loraplus_ratio` is the learning rate of B divided by that of A.
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
    """One suggestion of the search and its result.

    `state` is `done`, `failed` (with its `cause`), `over budget` (never trained) or `running`
    (on another worker when the record was made). `value` is the metric on the selection split and
    `device_seconds` the device time of the trial; both are None where it did not run.
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

    `selection` is its value in the search. `values` are its values by seed on the report split,
    None where a trial failed. `difference` is the advantage over the default, positive where the
    candidate is better, with its simultaneous 95 % interval; it is None for the default itself and
    where there are too few trials. `verdict` is `reference` (the default), `better` (the interval
    is above 0), `not worse` (above minus the margin), `worse` (below 0) or `cannot separate`.
    `general_difference` is the loss of the default on general text minus that of the candidate, in
    nats per token, positive where the candidate forgets less; None where it was not measured.
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
    general_difference: float | None = None
    general_low: float | None = None
    general_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A planned stage: its numbers of trials, of training rows and of evaluation rows."""

    what: str
    trials: int
    train_rows: int
    evaluation_rows: int


@dataclass(frozen=True, repr=False, kw_only=True)
class TuningPlan(Record):
    """The trials that a search would run, and their estimated cost.

    `configurations` is the number of pairs of placement and rank, and `feasible` the number of
    those within the budget. `row_passes` is the number of training rows times epochs over all
    trials, None where steps are given. `device_seconds` and `money` are None until a trial has run
    in the same folder.
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

    `verdict` is `improved` (`chosen` is better than the default: its interval is above 0),
    `default stands` (no candidate is shown to be), `cannot separate` (the trials do not decide),
    or `unconfirmed` (no confirmation ran; `chosen` is the best of the search). `placement` is the
    placement of `chosen`, and `recipe` is a recipe for `plop verify`.
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
        """0 if the choice is confirmed, 4 otherwise."""
        return EXIT_CODES[self.verdict]
