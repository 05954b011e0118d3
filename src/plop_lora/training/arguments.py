"""The arguments of TRL's trainers, the end of their runs, and the models that they cannot train.

All arms get the same arguments except for the learning rate: the same seeds, and therefore the same
rows in the same order, and the same optimizer.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PrinterCallback, Trainer

from plop_lora.errors import MeasurementError, ModelError, UsageError
from plop_lora.evaluation.judged import Prepared
from plop_lora.evaluation.precision import frozen_weight
from plop_lora.records import TrialSpec
from plop_lora.training.resuming import saving_arguments, start
from plop_lora.training.task import Session, Trained

if TYPE_CHECKING:
    from trl import GRPOConfig, SFTConfig

LOG_SHARE = 0.05
"""Share of the steps between two rows of the curve."""


def split_batch(effective: int, largest: int) -> tuple[int, int]:
    """Return the batch size per device and the accumulation, whose product is `effective`.

    After running out of memory the batch becomes smaller, but the number of sequences per
    optimizer step must stay the same, or the arm would be trained differently.

    >>> split_batch(8, 8), split_batch(16, 4), split_batch(6, 4)
    ((8, 1), (4, 4), (3, 2))
    """
    size = next(size for size in range(min(effective, largest), 0, -1) if effective % size == 0)
    return size, effective // size


def trl_arguments(
    kind: type[SFTConfig | GRPOConfig],
    spec: TrialSpec,
    prepared: Prepared,
    session: Session,
    **own: object,
) -> SFTConfig | GRPOConfig:
    """Build the configuration of a trainer of TRL.

    Args:
        kind: SFTConfig or GRPOConfig.
        spec: Specification of the trial.
        prepared: Model, which decides the device and whether to compute in half precision.
        session: Session with the batch size of this attempt.
        own: Further arguments of this trainer.

    Raises:
        UsageError: The trainer would move the model to another device.
    """
    settings = spec.training
    weight = frozen_weight(prepared.model)
    _check_device(weight.device)
    effective = settings.batch_size * settings.accumulation
    size, accumulation = split_batch(effective, session.batch_size)
    on_cpu, on_cuda = weight.device.type == "cpu", weight.device.type == "cuda"
    names = {field.name for field in dataclasses.fields(kind)}
    checkpointing = "activation_checkpointing"
    if checkpointing not in names:  # its name before transformers 5.23
        checkpointing = "gradient_checkpointing"
    arguments = kind(
        run_name=f"{spec.arm} seed {spec.seed} rate {spec.learning_rate:g}",
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=settings.epochs,
        max_steps=-1 if settings.steps is None else settings.steps,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        seed=spec.seed,
        data_seed=spec.seed,
        use_cpu=on_cpu,
        bf16=on_cuda and weight.dtype == torch.bfloat16,
        fp16=on_cuda and weight.dtype == torch.float16,
        dataloader_pin_memory=not on_cpu,
        logging_steps=LOG_SHARE,
        # The filter would put an average in the place of a NaN, and the trial would go on.
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        report_to=list(session.report_to) or "none",
        disable_tqdm=True,
        **{checkpointing: settings.checkpointing},
        **{"output_dir": str(session.folder)} | saving_arguments(session.checkpoints),
        **own,
    )
    # A trial has one device; with more visible ones the trainer would spread the batch over them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _check_device(device: torch.device) -> None:
    if device.type == "cuda" and device.index and "LOCAL_RANK" not in os.environ:
        raise UsageError(
            f"The trainer moves the model from {device} to the first GPU. Train there with "
            f"CUDA_VISIBLE_DEVICES={device.index} and --device cuda."
        )


def check_causal(prepared: Prepared) -> None:
    """Check that the model is a causal language model.

    Raises:
        ModelError: It is an encoder or an encoder-decoder, or its tokenizer has no end-of-sequence
            token.
    """
    model = prepared.model.get_base_model()
    if not model.can_generate() or model.config.is_encoder_decoder:
        raise ModelError(
            f"{type(model).__name__} is not a causal language model, which the tasks sft and grpo "
            "need. Use the task classify, or a model with a language-modelling head."
        )
    if prepared.tokenizer.eos_token is None:
        raise ModelError(
            f"The tokenizer ({type(prepared.tokenizer).__name__}) has no end-of-sequence token, so "
            "the model could not learn where an answer ends. Set eos_token in its "
            "tokenizer_config.json."
        )


def run(trainer: Trainer, session: Session) -> Trained:
    """Train without output on the terminal.

    Raises:
        MeasurementError: The trainer counted no tokens.
    """
    trainer.remove_callback(PrinterCallback)
    best_step = start(trainer, session)
    history = trainer.state.log_history
    # TRL counts the tokens that it generates in its own rows.
    generated = [row["num_tokens"] for row in history if row.get("num_tokens") is not None]
    tokens = generated[-1] if generated else trainer.state.num_input_tokens_seen
    if not tokens:
        raise MeasurementError(
            f"{type(trainer).__name__} counted no tokens, so what the trial cost is unknown. "
            f"Its log: {Path(trainer.args.output_dir)}."
        )
    steps = [row for row in history if "loss" in row]
    return Trained(
        int(tokens), trainer.state.global_step, dict(steps[-1] if steps else {}),
        best_step=best_step,
    )  # fmt: skip
