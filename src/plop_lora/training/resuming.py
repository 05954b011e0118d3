"""Training with checkpoints: transformers' trainers resume, evaluate and choose the best one.

A trainer restores the factors, the optimizer, the scheduler and the random numbers by itself, and
reads its `.pt` files with `weights_only=True`. What is added here: a checkpoint counts once it is
complete, rows keep their order in every pass, a training that had ended takes no further step, and
the model is evaluated in the same way as at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import CallbackHandler

from plop_lora.errors import MachineError, MeasurementError
from plop_lora.records.trial import higher_is_better
from plop_lora.training.checkpoints import (
    STATE,
    is_complete,
    mark_complete,
    named,
    rotate,
    state_of,
)
from plop_lora.training.curve import DivergedError
from plop_lora.training.task import Checkpoints

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftModel
    from torch.utils.data import Sampler

    from plop_lora.training.task import Session

ADAPTER = "default"
_ALMOST_A_PASS = 1e-6
"""How much the epoch in a state may lack of a whole one by rounding."""


def saving_arguments(checkpoints: Checkpoints | None) -> dict[str, object]:
    """Return the arguments of a trainer on checkpoints and evaluations."""
    if checkpoints is None:
        return {"save_strategy": "no"}
    every = checkpoints.every
    fields: dict[str, object] = {
        "output_dir": str(checkpoints.folder),
        "save_strategy": "steps",
        "save_steps": every,
        "restore_callback_states_from_checkpoint": True,
    }
    if checkpoints.judge is not None:
        fields |= {
            "eval_strategy": "steps",
            "eval_steps": every,
            "load_best_model_at_end": True,
            "metric_for_best_model": checkpoints.criterion,
            "greater_is_better": higher_is_better(checkpoints.criterion),
        }
    return fields


def saving_callbacks(checkpoints: Checkpoints | None) -> list[TrainerCallback]:
    """Return the callbacks that keep the checkpoints and stop the training early."""
    if checkpoints is None:
        return []
    found: list[TrainerCallback] = [_Keeper(checkpoints)]
    if checkpoints.judge is not None:
        found.append(EarlyStoppingCallback(early_stopping_patience=checkpoints.settings.patience))
    return found


class Resumable:
    """A trainer that keeps the order of the rows when it resumes, and evaluates as a trial does."""

    checkpoints: Checkpoints | None = None
    passes_before: int = 0
    model: torch.nn.Module
    args: TrainingArguments
    state: TrainerState
    control: TrainerControl
    callback_handler: CallbackHandler

    def _get_train_sampler(self, *given: Any) -> Sampler[int]:
        """Return the sampler at the pass that it had reached; every pass draws from its generator.

        The trainer itself begins every resumed pass with a new sampler, and so with the order of
        the first one.
        """
        usual: Any = super()
        sampler: Any = usual._get_train_sampler(*given)
        for _ in range(self.passes_before):
            for _ in sampler:
                pass
        return sampler  # type: ignore[no-any-return]

    def evaluate(self, *given: Any, **named_: Any) -> dict[str, float]:
        """Evaluate the model on the selection split by the function that judges trials."""
        assert self.checkpoints is not None, "only a training with checkpoints evaluates"
        value = _judged(self.checkpoints, self.state.global_step)
        metrics = {f"eval_{self.checkpoints.criterion}": value}
        usual: Any = super()
        # TRL keeps what it logs of the training apart from what it logs of an evaluation.
        self.model.eval()
        usual.log(metrics)
        self.model.train()
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def _judged(checkpoints: Checkpoints, step: int) -> float:
    """Return the criterion of the model on the selection split.

    Raises:
        DivergedError: It is not finite.
    """
    where = f"at step {step}"
    try:
        assert checkpoints.judge is not None, "without it nothing is evaluated"
        value = checkpoints.judge()
    except MeasurementError as error:
        raise DivergedError(f"the evaluation {where} failed: {error}") from error
    if not math.isfinite(value):
        raise DivergedError(f"{checkpoints.criterion} of the selection rows is not finite {where}")
    return value


class _Keeper(TrainerCallback):  # type: ignore[misc]
    """Evaluates at the last step, saves nothing that is not finite, and marks what is complete."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Look for the best checkpoint where the folder is now, which may have been moved."""
        if state.best_global_step:
            best = named(self.checkpoints.folder, state.best_global_step)
            state.best_model_checkpoint = str(best)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        **_: object,
    ) -> None:
        if state.global_step >= state.max_steps and self.checkpoints.judge is not None:
            control.should_evaluate = True
        if control.should_save and model is not None and not _all_finite(model.parameters()):
            raise DivergedError(f"an adapter became NaN or infinite by step {state.global_step}")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if state.is_world_process_zero:
            mark_complete(named(self.checkpoints.folder, state.global_step))
            rotate(self.checkpoints.folder, self.checkpoints.settings.keep)


def _all_finite(weights: Iterable[torch.nn.Parameter]) -> bool:
    return all(bool(weight.isfinite().all()) for weight in weights if weight.requires_grad)


# --------------------------------------------------------------------------- the run


def start(trainer: Trainer, session: Session) -> int | None:
    """Train from the start or from the last checkpoint, and leave the best factors in the model.

    Returns:
        The step of the checkpoint that the factors are from, None for those of the last step.

    Raises:
        DivergedError: The loss, a factor or an evaluation is not finite.
        MachineError: The best checkpoint was changed while the training ran.
    """
    checkpoints = session.checkpoints
    if checkpoints is None:
        trainer.train()
        return None
    trainer.checkpoints = checkpoints
    last = checkpoints.last
    if last is not None and _had_ended(last):
        return _restore(trainer, checkpoints, last)
    if last is not None:
        trainer.passes_before = int(state_of(last)["epoch"] + _ALMOST_A_PASS)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    best = trainer.state.best_global_step
    if checkpoints.judge is None or not best:
        return None
    if not is_complete(named(checkpoints.folder, best)):
        raise MachineError(
            f"{named(checkpoints.folder, best)}, the best checkpoint, was changed or removed while "
            "the training ran. Run the same command again: it resumes from the last complete one."
        )
    return int(best)


def _had_ended(checkpoint: Path) -> bool:
    """Whether no step was left after a checkpoint: the last one was taken, or it stopped early."""
    state = state_of(checkpoint)
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    ended: bool = state["global_step"] >= state["max_steps"] or control.get("should_training_stop")
    return ended


def _restore(trainer: Trainer, checkpoints: Checkpoints, last: Path) -> int | None:
    """Give a trainer whose training had ended its state and the factors that ship."""
    trainer.state = TrainerState.load_from_json(str(last / STATE))
    best = trainer.state.best_global_step if checkpoints.judge is not None else None
    source = named(checkpoints.folder, best) if best else last
    model: PeftModel = trainer.model
    model.load_adapter(str(source), ADAPTER, is_trainable=True)
    return int(best) if best else None
