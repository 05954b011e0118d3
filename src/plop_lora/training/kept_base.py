"""The model without adapters that a process keeps for the trials that are forked from it.

A fork has a copy of everything, so whatever a trial does to its model (an initialisation that
changes the base weights, an error in training, hooks of a task of the user's) ends with the trial,
and the next one finds the model as it was loaded. Pages that no trial writes to exist once.

A model is kept only if it is the one that every fresh process would load:

- its content is known, by the key of its folder or the commit of its hub id;
- the task is one of ours, and the model is not quantised, since code of the user's and the kernels
  of a quantised model may start an accelerator, which no fork can use;
- loading it draws no random number. A head that the checkpoint lacks is drawn from the seed of its
  trial, so a model with one is loaded by each trial itself.

The model is kept in the memory of the processor; a trial moves its own copy to its device.
"""

from __future__ import annotations

import gc
import pickle
import random
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy
import torch
import transformers

from plop_lora.models.loading import quietly
from plop_lora.records import TrialSpec
from plop_lora.training.base import Base, load_base, read_base, trial_device
from plop_lora.training.tasks import TASKS, task_named
from plop_lora.training.weights import TrainedModel, check_weights, is_commit, read_config


class BaseKey(NamedTuple):
    """Everything on which the weights of a model without adapters depend."""

    task: str
    model: str
    revision: str | None
    weights: str | None
    labels: tuple[str, ...]
    dtype: str
    device: str


_tried: dict[BaseKey, Base | None] = {}
"""The model that was tried last, or None in its place if it cannot be kept. One at most."""


def base_of(spec: TrialSpec) -> Base:
    """Return the model of a trial: the kept one, if it is the same, or one that is loaded now.

    The kept model is given once, since the trial changes it.

    Raises:
        UsageError: As for `load_base`.
        ModelError: As for `load_base`.
    """
    device = trial_device(spec.training.device) if _tried else ""
    kept = _tried.pop(_key(spec, device.partition(":")[0]), None)
    if kept is not None:
        transformers.set_seed(spec.seed)
        return kept._replace(model=kept.model.to(device))
    return load_base(
        task_named(spec.task), spec.model, revision=spec.revision, labels=spec.labels,
        settings=spec.training, seed=spec.seed,
    )  # fmt: skip


def keep_base(spec: TrialSpec) -> bool:
    """Load the model of a trial and keep it for `base_of` in forks of this process.

    Nothing is loaded if the model is there already or cannot be kept. An error of loading is left
    to the trial, which reports it.

    Returns:
        Whether the model is kept.
    """
    key = _key(spec, _kind_of_device(spec.training.device))
    if key not in _tried:
        _tried.clear()
        gc.collect()
        _tried[key] = _in_a_thread(lambda: _drawn_nothing(key)) if _is_safe(spec) else None
    return _tried[key] is not None


def _key(spec: TrialSpec, device: str) -> BaseKey:
    return BaseKey(
        spec.task, spec.model, spec.revision, spec.weights, spec.labels, spec.training.dtype, device
    )


def _kind_of_device(name: str) -> str:
    """Return the kind of a device that a trial will use; the accelerator is not started."""
    if name != "auto":
        return name.partition(":")[0]
    return "cuda" if torch.cuda.is_available() else "cpu"


def _is_safe(spec: TrialSpec) -> bool:
    """Whether the content of a model is fixed, and loading it runs no code of others."""
    if spec.task not in TASKS or not (spec.weights or is_commit(spec.revision)):
        return False
    check_weights(spec)
    model = TrainedModel(spec.model, spec.revision, spec.weights)
    config = read_config(model, download=False)
    return config is not None and not config.get("quantization_config")


def _drawn_nothing(key: BaseKey) -> Base | None:
    """Return a model, or None if a random number was drawn while it was loaded."""
    before = _random_states()
    with quietly():
        base = read_base(
            task_named(key.task), key.model, key.revision, key.labels, key.dtype, key.device
        )
    return base if _random_states() == before else None


def _random_states() -> bytes:
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state().tolist()
    return pickle.dumps(states)


def _in_a_thread(load: Callable[[], Base | None]) -> Base | None:
    """Return what a function returns in a thread of its own, or None if it raises.

    OpenMP keeps its threads for the thread that used them, and waits for ever for those that a fork
    does not have. They end with this one, so that the main thread of a fork starts its own.
    """
    found: list[Base | None] = []

    def run() -> None:
        try:
            with torch.random.fork_rng(devices=[]):
                found.append(load())
        except Exception:
            found.append(None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]
