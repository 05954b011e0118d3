"""Trainings with checkpoints in forked processes that are killed at chosen moments."""

from __future__ import annotations

import json
import math
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from trl import GRPOTrainer, SFTTrainer

from plop_lora.records import TrialData, TrialSpec
from plop_lora.records.trial import FINAL, CheckpointSettings
from plop_lora.training import adapters
from plop_lora.training.trial import run_trial

USUAL = CheckpointSettings(per_epoch=4, patience=0, keep=2)
TRAINERS = (SFTTrainer, GRPOTrainer)
"""Imported here once, and not in every fork."""


def write_rows(folder: Path, **files: Sequence[Any]) -> TrialData:
    """Write the files of a training and return what its spec says of them."""
    fields: dict[str, str] = {}
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
        digest = sha256(text.encode()).hexdigest()
        fields |= {name: f"{name}.jsonl", f"{name}_sha256": digest}
    return TrialData(**fields)


def final(spec: TrialSpec, data: TrialData, **settings: Any) -> TrialSpec:
    """Return a spec as that of a final finetune."""
    checkpoints = replace(USUAL, **settings)
    return replace(spec, phase=FINAL, data=data, checkpoints=checkpoints)


def killed_at_step(step: int) -> Callable[[], None]:
    """Return a function that makes this process kill itself after so many optimizer steps."""

    def plant() -> None:
        usual, taken = torch.optim.AdamW.step, [0]

        def stepped(self: Any, *given: Any, **named: Any) -> Any:
            taken[0] += 1
            if taken[0] > step:
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(self, *given, **named)

        torch.optim.AdamW.step = stepped

    return plant


def killed_in_save(number: int) -> Callable[[], None]:
    """Return a function that makes this process kill itself in the middle of a checkpoint."""

    def plant() -> None:
        usual, saved = torch.save, [0]

        def save(content: Any, path: Any, *given: Any, **named: Any) -> None:
            if str(path).endswith("scheduler.pt"):
                saved[0] += 1
                if saved[0] == number:
                    Path(path).write_bytes(b"half")
                    os.kill(os.getpid(), signal.SIGKILL)
            usual(content, path, *given, **named)

        torch.save = save

    return plant


def run_forked(
    spec: TrialSpec, folder: Path, root: Path, plant: Callable[[], None] = lambda: None
) -> int:
    """Run a training in a fork and return its exit code, minus the number of a signal."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork must not wait for threads that it does not have
    process = os.fork()
    if process == 0:
        code = 1
        try:
            plant()
            code = 0 if run_trial(spec, folder, root=root).done else 3
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    torch.set_num_threads(threads)
    return os.waitstatus_to_exitcode(status)


def factors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the adapter that a training has written."""
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def killed_at_the_end() -> Callable[[], None]:
    """Return a function that makes this process kill itself when it writes the adapter."""

    def plant() -> None:
        def save(*given: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        adapters.save_adapter = save

    return plant


def nan_after_step(step: int) -> Callable[[], None]:
    """Return a function that makes every factor NaN after so many optimizer steps."""

    def plant() -> None:
        usual, taken = torch.optim.AdamW.step, [0]

        def stepped(self: Any, *given: Any, **named: Any) -> Any:
            done = usual(self, *given, **named)
            taken[0] += 1
            if taken[0] > step:
                for group in self.param_groups:
                    for weight in group["params"]:
                        weight.data.fill_(math.nan)
            return done

        torch.optim.AdamW.step = stepped

    return plant
