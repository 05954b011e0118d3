"""Callbacks for the trainers of transformers, and suppression of their terminal output."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import datasets
from huggingface_hub import constants
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Report(TrainerCallback):  # type: ignore[misc]
    """Callback that forwards every logged row with its step, on the first process only."""

    def __init__(self, log: Callable[[Mapping[str, object]], None]) -> None:
        self.log = log

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **given: object,
    ) -> None:
        """Forward a row; an exception of `log` ends the training."""
        if logs and state.is_world_process_zero:
            self.log({"step": state.global_step, **logs})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Disable progress bars of `datasets` and telemetry of TRL inside the block.

    Every trainer of TRL reports its hardware and kind of training to the hub when it is created; a
    trial uses no network that its user has not asked for.
    """
    drew = not datasets.are_progress_bars_disabled()
    silent = constants.HF_HUB_DISABLE_TELEMETRY
    datasets.disable_progress_bars()
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = silent
        if drew:
            datasets.enable_progress_bars()
