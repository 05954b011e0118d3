"""The memory of a search: an Optuna study in SQLite, which survives a kill at any moment.

Every suggestion keeps its configuration, worker, cause and cost as attributes of its trial, so
that the study alone says what was tried, also to other workers. Imports optuna when it is used.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
from plop_lora.tune.job import Job, worker_name
from plop_lora.tune.space import Space, rounded

WORKER, POINT, CAUSE, COST, PARAMETERS = "worker", "configuration", "cause", "cost", "parameters"
LEADER, HOME = "leader", "home"
DATABASE = "study.db"
_JOURNAL = "study.journal"
_SECONDS = 60
"""How long SQLite waits for another process that writes."""

STARTUP_SHARE = 1 / 3
"""Of the search that is drawn at random before the estimator takes over."""


def open_study(job: Job) -> Any:
    """Open the study of a job, new or as an earlier start left it.

    Raises:
        MissingExtraError: optuna is not installed.
        UsageError: the database cannot be opened, or the folder has an earlier release's search.
    """
    optuna = require("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=f"plop-tune-{job.identity()[:16]}",
        storage=_storage(optuna, job),
        direction="maximize" if job.higher else "minimize",
        load_if_exists=True,
    )
    if LEADER not in study.user_attrs:
        study.set_user_attr(LEADER, worker_name(job.folder))
        study.set_user_attr(HOME, _home(job))
    return study


def leads(job: Job, study: Any) -> bool:
    """Whether this worker opened the study first, and so confirms what all have found."""
    return bool(study.user_attrs[LEADER] in _names(job, study))


def _names(job: Job, study: Any) -> set[str]:
    """Return the names of this worker: that of its folder, and one that the folder has lost.

    The folder that opened the study is known by its machine and path as well. A study in the
    database of a folder has no other worker at all.
    """
    names = {worker_name(job.folder)}
    if job.recipe.storage is None or study.user_attrs.get(HOME) == _home(job):
        names.add(study.user_attrs[LEADER])
    return names


def _home(job: Job) -> str:
    return f"{platform.node()}:{job.folder.resolve()}"


def _storage(optuna: Any, job: Job) -> Any:
    url = job.recipe.storage
    given = _own_database(job.folder) if url is None else url
    # Another process may write at this moment; a lock of one that was killed is gone with it.
    waiting = {"connect_args": {"timeout": _SECONDS}} if given.startswith("sqlite") else {}
    try:
        return optuna.storages.RDBStorage(given, engine_kwargs=waiting)
    except Exception as error:
        if url is None:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"Cannot open {job.folder / DATABASE}: {reason}. Where it is damaged, delete it to "
                "search anew, which reads the trials that are there, or give another --folder."
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


# --------------------------------------------------------------------------- asking


def enqueue(study: Any, space: Space, points: Sequence[Configuration]) -> None:
    """Let known good points be the next suggestions, once."""
    for point in points:
        study.enqueue_trial(_parameters(space, point), skip_if_exists=True)


def ask(job: Job, study: Any, space: Space, startup: int) -> Any:
    """Ask for one suggestion and keep its configuration; it may lie above the budget."""
    study.sampler = _sampler(job, study, startup)
    trial = study.ask()
    trial.set_user_attr(WORKER, worker_name(job.folder))
    point = _suggest(trial, space)
    excess = space.excess(point.placement, point.rank)
    trial.set_constraint("adapter parameters", excess)
    trial.set_user_attr(PARAMETERS, space.budget + excess)
    trial.set_user_attr(POINT, asdict(point))
    return trial


def _sampler(job: Job, study: Any, startup: int) -> Any:
    """Return the sampler of the next suggestion.

    Its seed counts the suggestions so far, so that a search that was killed goes on as it would
    have, instead of drawing again what it drew at its first start.
    """
    number = len(study.get_trials(deepcopy=False))
    text = f"{job.recipe.seed} {number} {worker_name(job.folder)}" if job.recipe.storage else (
        f"{job.recipe.seed} {number}"
    )  # fmt: skip
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    samplers = require("optuna").samplers
    return samplers.TPESampler(
        multivariate=True, constant_liar=True, seed=seed, n_startup_trials=startup
    )


def _suggest(trial: Any, space: Space) -> Configuration:
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


def _parameters(space: Space, point: Configuration) -> dict[str, Any]:
    return {
        "placement": point.placement,
        "rank order": space.ranks.index(point.rank),
        "init": point.init,
        "learning rate": min(max(point.learning_rate, space.low), space.high),
        "loraplus ratio": point.loraplus_ratio,
    }


# --------------------------------------------------------------------------- reading


def configuration_of(trial: Any) -> Configuration | None:
    """Return the configuration of a trial, None where a kill came before it was whole."""
    values = trial.user_attrs.get(POINT)
    return None if values is None else Configuration(**values)


def unfinished(job: Job, study: Any) -> list[Any]:
    """Return the trials that an earlier start of this worker left running.

    One that was not whole yet is told as failed here; it was never trained.
    """
    optuna = require("optuna")
    names = _names(job, study)
    states = (optuna.trial.TrialState.RUNNING,)
    left = []
    for frozen in study.get_trials(deepcopy=False, states=states):
        if job.recipe.storage is not None and frozen.user_attrs.get(WORKER) not in names:
            continue
        if configuration_of(frozen) is None:
            study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)
        else:
            left.append(optuna.trial.Trial(study, frozen._trial_id))
    return left


def history(study: Any) -> tuple[SearchTrial, ...]:
    """Return every suggestion that was whole, in the order of asking."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
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


def costs(study: Any) -> tuple[TrialCost, ...]:
    """Return what the trained suggestions took, those of other workers included."""
    every = (cost_of(trial) for trial in study.get_trials(deepcopy=False))
    return tuple(cost for cost in every if cost is not None)


def cost_of(trial: Any) -> TrialCost | None:
    """Return what a trial took, None where it did not run."""
    values = trial.user_attrs.get(COST)
    return None if values is None else TrialCost(**values)


_STATES = {"COMPLETE": SEARCHED, "FAIL": FAILED, "PRUNED": OVER_BUDGET, "RUNNING": RUNNING}
