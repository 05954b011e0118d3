"""What the trials of every task change in the trainers of transformers and TRL.

Each class is a mixin that stands before a trainer. They serve two ends: that arms differ in nothing
but their adapters, and that a step costs little more than its products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments, get_scheduler

from plop_lora.evaluation.heads import next_token_nats
from plop_lora.training.learning import CUT_COMPLETIONS

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from torch.optim import Optimizer

POOL = 16
"""Batches among which rows of similar length are looked for: more pad less and mix less."""


class WarmedUp:
    """A trainer whose first step has a learning rate above 0.

    The schedules of transformers begin at 0 where there is a warm-up, so that the first step of
    every trial, and the only one of a very short trial, would change nothing.
    """

    lr_scheduler: LRScheduler | None
    optimizer: Optimizer
    args: TrainingArguments

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optimizer | None = None
    ) -> LRScheduler:
        """Take the schedule with one more step of warm-up, and begin at its second step.

        Without a warm-up this is the schedule itself. One that is no function of the step alone
        is left as it is.
        """
        if self.lr_scheduler is not None:
            return self.lr_scheduler
        optimizer = self.optimizer if optimizer is None else optimizer
        schedule: LRScheduler = get_scheduler(
            self.args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=self.args.get_warmup_steps(num_training_steps) + 1,
            num_training_steps=num_training_steps + 1,
            scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
        )
        if isinstance(schedule, LambdaLR):
            schedule = LambdaLR(optimizer, [_later(factor) for factor in schedule.lr_lambdas])
        self.lr_scheduler = schedule
        return schedule


def _later(factor: Callable[[int], float]) -> Callable[[int], float]:
    return lambda step: factor(step + 1)


class EndsAtTexts:
    """TRL's GRPOTrainer, whose completions also end at texts that its template writes after them.

    TRL itself ends a completion at tokens alone, trains on what fills the row behind a text, and
    counts the completion as cut.
    """

    end_texts: tuple[str, ...] = ()
    eos_token_ids: Sequence[int]
    processing_class: PreTrainedTokenizerBase
    accelerator: Accelerator
    model: PreTrainedModel
    _metrics: dict[str, dict[str, list[float]]]
    _cut: list[bool]

    def _generate_single_turn(self, *given: object, **named: object) -> object:
        usual: Any = super()
        made = usual._generate_single_turn(*given, **named)
        if not self.end_texts:
            return made
        completions, *others = made
        lengths = [self._length(tokens) for tokens in completions]
        self._cut = [
            length is None and tokens[-1] not in self.eos_token_ids
            for tokens, length in zip(completions, lengths, strict=True)
        ]
        pairs = zip(completions, lengths, strict=True)
        return ([tokens[:length] for tokens, length in pairs], *others)

    def _length(self, tokens: Sequence[int]) -> int | None:
        """Return the number of tokens with which one of the texts is complete; None without one."""
        for count in range(1, len(tokens) + 1):
            decoded = self.processing_class.decode(tokens[:count], skip_special_tokens=True)
            if any(text in decoded for text in self.end_texts):
                return count
        return None

    def _generate(self, prompts: Sequence[object]) -> object:
        usual: Any = super()
        made = usual._generate(prompts)
        if self.end_texts:
            cut = torch.tensor(self._cut, device=self.accelerator.device)
            shares = self._metrics["train" if self.model.training else "eval"][CUT_COMPLETIONS]
            shares[-1] = self.accelerator.gather(cut).float().mean().item()
        return made


class SimilarLengths:
    """A trainer whose batches have rows of similar length, so that little of them is padding.

    The order depends on the rows and the seed alone, so that it is the same for every arm.
    """

    args: TrainingArguments
    train_dataset: Dataset

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthSampler:
        rows = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(row["input_ids"]) for row in rows]
        a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthSampler(lengths, a_step * self.args.world_size, self.args.data_seed)


class LengthSampler(Sampler[int]):
    """Draws rows so that each run of `batch_size` of them has similar lengths.

    Rows are shuffled, sorted by length within pools of `POOL` batches, and the batches of all pools
    are shuffled again; a batch that is not full comes last.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """Begin; every pass over the sampler draws a new order from the same generator."""
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the places of the rows."""
        drawn = torch.randperm(len(self), generator=self.generator).tolist()
        pools = _cut(drawn, POOL * self.batch_size)
        ordered = [place for pool in pools for place in sorted(pool, key=self.lengths.__getitem__)]
        batches = _cut(ordered, self.batch_size)
        whole = len(self) // self.batch_size
        for index in torch.randperm(whole, generator=self.generator).tolist():
            yield from batches[index]
        for batch in batches[whole:]:
            yield from batch


def _cut(places: list[int], size: int) -> list[list[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]


class LossAtLabels:
    """TRL's SFTTrainer with the usual loss, whose logits are those of the judged tokens alone.

    TRL computes the logits of every position where there is no Triton, and entropy and accuracy
    of every token beside the loss, which no trial reads. Mixtures of experts whose router has a
    loss of its own keep TRL's way.
    """

    args: TrainingArguments
    accelerator: Accelerator

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: int | torch.Tensor | None = None,
    ) -> object:
        """Return the nats a judged token of an optimizer step that this batch contributes."""
        if getattr(self, "aux_loss_enabled", False) or return_outputs:
            usual: Any = super()
            return usual.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels_BT = inputs.pop("labels")
        bare = self.accelerator.unwrap_model(model)
        nats_N = next_token_nats(bare, inputs, labels_BT, forward=model)
        if num_items_in_batch is None:
            return nats_N.sum() / max(1, len(nats_N))
        loss = nats_N.sum() / num_items_in_batch
        if self.args.average_tokens_across_devices:
            # The items are those of all processes, over which the gradients are averaged.
            loss = loss * self.accelerator.num_processes
        return loss
