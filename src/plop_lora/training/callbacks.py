"""What is watched while a trainer of transformers runs, and its output kept off the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import datasets
from transformers import TrainerCallback


class Report(TrainerCallback):  # type: ignore[misc]
    """Passes every row that the trainer logs on, with its step; on the first process only."""

    def __init__(self, log: Callable[[Mapping[str, Any]], None]) -> None:
        self.log = log

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Pass a row on; what `log` raises ends the training."""
        if logs and state.is_world_process_zero:
            self.log({"step": state.global_step, **logs})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let `datasets` draw no bars, and put its own setting back."""
    drew = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if drew:
            datasets.enable_progress_bars()
