"""The memory of a search: an Optuna study in SQLite, which survives a kill at any moment.

Every suggestion keeps its configuration, worker, cause and cost as attributes of its trial, so
that the storage alone says what was tried, also to other workers. Imports optuna when it is used.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from plop_lora.errors import UsageError, require
from plop_lora.records import TrialCost
from plop_lora.records.tuning import (
    FAILED,
    OVER_BUDGET,
    RUNNING,
    SEARCHED,
    Configuration,
    SearchTrial,
)
from plop_lora.study.usual_rate import rounded
from plop_lora.tuning.search import Search, worker_name
from plop_lora.tuning.space import Space

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

WORKER, POINT, CAUSE, COST, PARAMETERS = "worker", "configuration", "cause", "cost", "parameters"
LEADER, HOME = "leader", "home"
DATABASE = "study.db"
_JOURNAL = "study.journal"
_SECONDS = 60
"""How long SQLite waits for another process that writes."""
STARTUP_SHARE = 1 / 3
"""Of the search that is drawn at random before the estimator takes over."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchStorage:
    """Where suggestions come from and what became of them is kept; several workers may share it.

    Attributes:
        search: whose suggestions these are.
        study: Optuna's own.
    """

    search: Search
    study: Study

    @classmethod
    def open(cls, search: Search) -> SearchStorage:
        """Open the storage of a search, new or as an earlier start left it.

        Raises:
            MissingExtraError: optuna is not installed.
            UsageError: the database cannot be opened, or the folder has a search of an earlier
                release.
        """
        optuna = require("optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=f"plop-tune-{search.identity()[:16]}",
            storage=_backend(optuna, search),
            direction="maximize" if search.study.higher else "minimize",
            load_if_exists=True,
        )
        if LEADER not in study.user_attrs:
            study.set_user_attr(LEADER, worker_name(search.folder))
            study.set_user_attr(HOME, _home(search))
        return cls(search, study)

    @property
    def leads(self) -> bool:
        """Whether this worker opened the storage first, and so confirms what all have found."""
        return self.study.user_attrs[LEADER] in self._names()

    def _names(self) -> set[str]:
        """Return the names of this worker: that of its folder, and one that the folder has lost.

        The folder that opened the storage is known by its machine and path as well. A study in
        the database of a folder has no other worker at all.
        """
        names = {worker_name(self.search.folder)}
        alone = self.search.policy.storage is None
        if alone or self.study.user_attrs.get(HOME) == _home(self.search):
            names.add(self.study.user_attrs[LEADER])
        return names

    def recall(self, name: str) -> Any:
        """Return what was kept under a name for all workers, None where there is nothing."""
        return self.study.user_attrs.get(name)

    def keep(self, name: str, value: object) -> None:
        """Keep a value that JSON can hold for all workers."""
        self.study.set_user_attr(name, value)

    # ----------------------------------------------------------------------- asking

    def enqueue(self, space: Space, points: Sequence[Configuration]) -> None:
        """Let known good points be the next suggestions, once."""
        for point in points:
            self.study.enqueue_trial(_parameters(space, point), skip_if_exists=True)

    def ask(self, space: Space, startup: int) -> Trial:
        """Ask for one suggestion and keep its configuration; it may lie above the budget."""
        self.study.sampler = self._sampler(startup)
        trial = self.study.ask()
        trial.set_user_attr(WORKER, worker_name(self.search.folder))
        point = _suggest(trial, space)
        excess = space.excess(point.placement, point.rank)
        trial.set_constraint("adapter parameters", excess)
        trial.set_user_attr(PARAMETERS, space.budget + excess)
        trial.set_user_attr(POINT, asdict(point))
        return trial

    def _sampler(self, startup: int) -> BaseSampler:
        """Return the sampler of the next suggestion.

        Its seed counts the suggestions so far, so that a search that was killed goes on as it
        would have, instead of drawing again what it drew at its first start.
        """
        search = self.search
        text = f"{search.study.seed} {len(self.study.get_trials(deepcopy=False))}"
        if search.policy.storage:
            text = f"{text} {worker_name(search.folder)}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        return require("optuna").samplers.TPESampler(
            multivariate=True, constant_liar=True, seed=seed, n_startup_trials=startup
        )

    # ----------------------------------------------------------------------- telling

    def tell_value(self, trial: Trial, value: float) -> None:
        """Say what a trained suggestion reached."""
        self.study.tell(trial, value)

    def tell_failed(self, trial: Trial) -> None:
        """Say that a trained suggestion has no value."""
        self.study.tell(trial, state=require("optuna").trial.TrialState.FAIL)

    def tell_over_budget(self, trial: Trial, excess: int) -> None:
        """Say that a suggestion was not trained, since it has too many parameters."""
        trial.set_user_attr(CAUSE, f"{excess:,} adapter parameters above the budget")
        self.study.tell(trial, state=require("optuna").trial.TrialState.PRUNED)

    # ----------------------------------------------------------------------- reading

    def unfinished(self) -> list[Trial]:
        """Return the trials that an earlier start of this worker left running.

        One that was not whole yet is told as failed here; it was never trained.
        """
        optuna = require("optuna")
        names = self._names()
        states = (optuna.trial.TrialState.RUNNING,)
        left = []
        for frozen in self.study.get_trials(deepcopy=False, states=states):
            shared = self.search.policy.storage is not None
            if shared and frozen.user_attrs.get(WORKER) not in names:
                continue
            if configuration_of(frozen) is None:
                self.study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)
            else:
                left.append(optuna.trial.Trial(self.study, frozen._trial_id))
        return left

    def history(self) -> tuple[SearchTrial, ...]:
        """Return every suggestion that was whole, in the order of asking."""
        rows = []
        for trial in self.study.get_trials(deepcopy=False):
            point, cost = configuration_of(trial), cost_of(trial)
            if point is None:
                continue
            state = _STATES[trial.state.name]
            rows.append(
                SearchTrial(
                    number=trial.number,
                    configuration=point,
                    parameters=trial.user_attrs[PARAMETERS],
                    value=trial.value if state == SEARCHED else None,
                    state=state,
                    cause=trial.user_attrs.get(CAUSE),
                    device_seconds=None if cost is None else cost.device_seconds,
                )
            )
        return tuple(rows)

    def costs(self) -> tuple[TrialCost, ...]:
        """Return what the trained suggestions took, those of other workers included."""
        every = (cost_of(trial) for trial in self.study.get_trials(deepcopy=False))
        return tuple(cost for cost in every if cost is not None)


_STATES = {"COMPLETE": SEARCHED, "FAIL": FAILED, "PRUNED": OVER_BUDGET, "RUNNING": RUNNING}


def configuration_of(trial: Trial | FrozenTrial) -> Configuration | None:
    """Return the configuration of a trial, None where a kill came before it was whole."""
    values = trial.user_attrs.get(POINT)
    return None if values is None else Configuration(**values)


def cost_of(trial: Trial | FrozenTrial) -> TrialCost | None:
    """Return what a trial took, None where it did not run."""
    values = trial.user_attrs.get(COST)
    return None if values is None else TrialCost(**values)


def _suggest(trial: Trial, space: Space) -> Configuration:
    ranks = space.ranks
    return Configuration(
        placement=trial.suggest_categorical("placement", space.names),
        rank=ranks[trial.suggest_int("rank order", 0, len(ranks) - 1)],
        init=trial.suggest_categorical("init", space.inits),
        learning_rate=rounded(
            trial.suggest_float("learning rate", space.low, space.high, log=True)
        ),
        loraplus_ratio=trial.suggest_categorical("loraplus ratio", space.ratios),
    )


def _parameters(space: Space, point: Configuration) -> dict[str, str | int | float]:
    return {
        "placement": point.placement,
        "rank order": space.ranks.index(point.rank),
        "init": point.init,
        "learning rate": min(max(point.learning_rate, space.low), space.high),
        "loraplus ratio": point.loraplus_ratio,
    }


# --------------------------------------------------------------------------- where it lies


def _home(search: Search) -> str:
    return f"{platform.node()}:{search.folder.resolve()}"


def _backend(optuna: ModuleType, search: Search) -> BaseStorage:
    url = search.policy.storage
    given = _own_database(search.folder) if url is None else url
    # Another process may write at this moment; a lock of one that was killed is gone with it.
    waiting = {"connect_args": {"timeout": _SECONDS}} if given.startswith("sqlite") else {}
    try:
        return optuna.storages.RDBStorage(given, engine_kwargs=waiting)
    except Exception as error:
        if url is None:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"Cannot open {search.folder / DATABASE}: {reason}. Where it is damaged, delete it "
                "to search anew, which reads the trials that are there, or give another --folder."
            ) from error
        # A URL may carry a password: only its scheme is repeated.
        raise UsageError(
            f"Cannot open the storage of the search ({url.partition(':')[0]}): "
            f"{type(error).__name__}. Give a database URL such as sqlite:///search.db or "
            "postgresql://USER@HOST/NAME, whose driver is installed."
        ) from error


def _own_database(folder: Path) -> str:
    """Return the URL of the database of a folder, which its process holds alone.

    Raises:
        UsageError: the folder has a search in the format of earlier releases.
    """
    if (folder / _JOURNAL).exists():
        raise UsageError(
            f"{folder} holds a search of an earlier release ({_JOURNAL}), which is not read. "
            "Delete that file to search anew, which reads the trials that are there, or give "
            "another --folder."
        )
    from sqlalchemy.engine import URL

    return URL.create("sqlite", database=str((folder / DATABASE).resolve())).render_as_string()
