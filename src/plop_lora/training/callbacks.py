"""What is watched while a trainer of transformers runs, and its output kept off the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import datasets
from huggingface_hub import constants
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Report(TrainerCallback):  # type: ignore[misc]
    """Passes every row that the trainer logs on, with its step; on the first process only."""

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
        """Pass a row on; what `log` raises ends the training."""
        if logs and state.is_world_process_zero:
            self.log({"step": state.global_step, **logs})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let `datasets` draw no bars and TRL report no use, and put their own settings back.

    Each trainer of TRL sends the hub what it trains on which hardware when it is made; a trial
    uses no network that its user has not named.
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
