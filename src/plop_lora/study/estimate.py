"""How long trials take: from those that are finished, else from their arithmetic.

Training counts as in `cost.trial_flops`, judging and sampling 2 operations a token and weight. The
rate is measured with one matrix product here, of which training reaches a share. No torch, except
to measure an accelerator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from plop_lora.cost import trial_flops
from plop_lora.evaluation.metrics import GENERATED
from plop_lora.records import TrialResult, TrialSpec
from plop_lora.training.task import Task

CHARACTERS_A_TOKEN = 4.0
UTILISATION = 0.3
STARTUP = 15.0
"""Seconds a trial spends on imports and on loading, before any arithmetic."""
CALIBRATION = 0.2
SIDE = 768
ACCELERATORS = ("/dev/nvidia0", "/dev/kfd")


@dataclass(frozen=True, slots=True)
class TimeEstimate:
    """Seconds of device time, and in words where they come from."""

    seconds: float
    source: str


@dataclass(frozen=True, slots=True)
class Work:
    """The size of a trial: rows trained on and judged, the tokens of a row, the model, the task.

    `general_tokens` are those of the general text that it is judged on beside its task.
    """

    train_rows: int
    evaluation_rows: int
    tokens: float
    parameters: int
    task: Task
    general_tokens: float = 0.0


def estimate(
    trials: Sequence[tuple[TrialSpec, Work]], finished: Sequence[TrialResult] = ()
) -> TimeEstimate:
    """Return the device time of trials.

    Args:
        trials: what would run, at least one, each with its size.
        finished: results of some of them. What they took for training and judging is scaled by
            arithmetic, what they took beside it is the same for each. Without any, a matrix
            product says it.
    """
    works = {spec.digest(): arithmetic(spec, work) for spec, work in trials}
    known = [result for result in finished if result.done and result.spec_digest in works]
    if known:
        busy = sum(r.cost.devices * (r.cost.train_seconds + r.cost.evaluate_seconds) for r in known)
        wall = sum(result.cost.devices * result.cost.wall_seconds for result in known)
        done = sum(works[result.spec_digest] for result in known)
        beside = max(0.0, wall - busy) / len(known)
        seconds = sum(works.values()) * busy / done + beside * len(works)
        return TimeEstimate(seconds, f"from {len(known)} finished trials of this folder")
    rate, where = matmul_rate(trials[0][0].training.device)
    seconds = sum(works.values()) / (rate * UTILISATION) + STARTUP * len(works)
    return TimeEstimate(
        seconds,
        f"from {rate / 1e9:,.0f} GFLOP/s, measured with a matrix product on {where}, of which "
        f"{UTILISATION:.0%} is assumed to be reached, and {STARTUP:g} s to start a trial",
    )


def arithmetic(spec: TrialSpec, work: Work) -> float:
    """Return the floating-point operations of a trial."""
    settings = spec.training
    steps = settings.epochs * work.train_rows
    if settings.steps is not None:
        batch = settings.batch_size * settings.accumulation
        steps = settings.steps * batch / (settings.generations if work.task.samples else 1)
    cut = min(work.tokens, settings.max_length)
    share = spec.placement.trainable_parameters / work.parameters
    trained = trial_flops(1, 1, share, checkpointing=settings.checkpointing)
    if work.task.samples:
        answer = settings.completion_length
        passes = trained + 2.0 + (2.0 if settings.beta else 0.0)
        training = steps * settings.generations * (work.tokens + answer) * passes
    else:
        training = steps * cut * trained
    generated = 0
    if work.task.by_answers and spec.evaluation.metric in GENERATED:
        generated = spec.evaluation.max_new_tokens
    judging = (work.evaluation_rows * (cut + generated) + work.general_tokens) * 2.0
    return work.parameters * (training + judging)


def matmul_rate(device: str) -> tuple[float, str]:
    """Return floating-point operations a second of a square matrix product, and where.

    Args:
        device: as in the recipe; torch is imported only where there may be an accelerator.
    """
    if device == "cpu" or (device == "auto" and not any(map(_exists, ACCELERATORS))):
        import numpy as np

        square = np.ones((SIDE, SIDE), dtype=np.float32)
        return _timed(lambda: square @ square), "this processor"
    import torch

    from plop_lora.models.loading import device_named

    found = device_named(device)
    wide = torch.ones(4 * SIDE, 4 * SIDE, device=found, dtype=torch.bfloat16)
    wait = getattr(torch, found.type).synchronize

    def product() -> None:
        wide @ wide
        wait()

    return _timed(product, side=4 * SIDE), str(found)


def _exists(path: str) -> bool:
    return Path(path).exists()


def _timed(product: Callable[[], object], side: int = SIDE) -> float:
    product()
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < CALIBRATION:
        product()
        count += 1
    return 2.0 * side**3 * count / (time.perf_counter() - start)
