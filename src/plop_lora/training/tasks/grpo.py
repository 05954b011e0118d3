"""Reinforcement learning from reward functions with TRL's GRPOTrainer.

The model that comes in already has its adapters; each prompt gets a group of sampled completions,
which end where a judged answer ends, and rewards are normalised within the group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from plop_lora.data.fields import PROMPTS
from plop_lora.data.texts import template_fields
from plop_lora.errors import DataError, UsageError, require
from plop_lora.evaluation.chats import Ends, ends_of_turns, prompt_tokens, template_arguments
from plop_lora.evaluation.judged import Judged, Prepared, Row
from plop_lora.evaluation.metrics import COMPARISONS, judge_answers
from plop_lora.evaluation.rewards import (
    answer_of,
    check_named,
    columns_of,
    find_reward,
    try_rewards,
    until,
)
from plop_lora.recipe import DataRecipe
from plop_lora.records import TrainingSettings, TrialSpec
from plop_lora.training.readers import Reader, asked_with, filled, messages_in, one_of
from plop_lora.training.task import Session, Task, Trained
from plop_lora.training.tasks.causal import causal_class, check_causal_reference
from plop_lora.training.tasks.sft import with_general

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel

LARGEST_RANK = 32
"""Reinforcement learning needs few ranks, and GRPO collapses at high ones, more so with large
batches (OpenReview XGZHI14m8P)."""


def check_settings(settings: TrainingSettings) -> None:
    """Refuse settings without rewards, or with a name that no reward can have.

    Raises:
        UsageError: The text says what to give.
    """
    if not settings.rewards:
        raise UsageError(
            "The task grpo needs rewards. Give --rewards number, format or module:function."
        )
    check_named(settings.rewards)


def check_groups(settings: TrainingSettings, rows: int) -> None:
    """Refuse batches that do not hold whole groups, and fewer prompts than a batch takes.

    Raises:
        UsageError: `generations` below 2, or no divisor of the completions of a step.
        DataError: Fewer rows than prompts of a step.
    """
    batch = settings.batch_size * settings.accumulation
    if settings.generations < 2:
        raise UsageError(
            f"training.generations {settings.generations} is not possible: an advantage is a "
            "difference within a group. Give 2 or more."
        )
    if batch % settings.generations:
        fitting = [number for number in range(2, batch + 1) if batch % number == 0]
        above = settings.generations * (batch // settings.generations + 1)
        raise UsageError(
            f"training.batch_size {settings.batch_size} × accumulation {settings.accumulation} = "
            f"{batch} completions a step do not hold whole groups of {settings.generations}. "
            f"Allowed generations: {', '.join(map(str, fitting)) or 'none'}; or make the product "
            f"a multiple of {settings.generations}, such as {above}."
        )
    prompts = batch // settings.generations
    if rows < prompts:
        raise DataError(
            f"A step takes {prompts} prompts ({batch} completions in groups of "
            f"{settings.generations}), but there are {rows} rows. Give more rows or a smaller "
            "training.batch_size."
        )


def train(spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], session: Session) -> Trained:
    """Train the adapters of a ready model by its rewards; nothing is saved.

    The curve has `reward`, `reward_std` and `rewards/NAME/mean`. Where `beta` is above 0 the
    divergence is from the model as it came in.

    Returns:
        Tokens of prompts and completions, steps, and the last row of the curve.

    Raises:
        DataError: A row without a prompt, too few rows, or a reward function that fails.
        ModelError: The model is no causal language model.
        MissingExtraError: TRL is not installed.
        UsageError: Groups that do not fit into a step, no such reward function.
    """
    require("trl")
    from trl import GRPOConfig, GRPOTrainer

    from plop_lora.evaluation.generation import ending
    from plop_lora.training.adapters import optimizer_of
    from plop_lora.training.arguments import check_causal, run, trl_arguments
    from plop_lora.training.callbacks import Report, quiet
    from plop_lora.training.resuming import Resumable, saving_callbacks
    from plop_lora.training.trainers import EndsAtTexts, WarmedUp

    class Trainer(Resumable, EndsAtTexts, WarmedUp, GRPOTrainer):  # type: ignore[misc]
        """TRL's trainer as every arm uses it."""

    settings = spec.training
    check_groups(settings, len(rows))
    check_prompts(rows)
    try_rewards(settings.rewards, rows)
    check_causal(prepared)
    data = _dataset(rows)
    ends = _ends(spec, prepared, rows)
    arguments = trl_arguments(
        GRPOConfig,
        spec,
        prepared,
        session,
        num_generations=settings.generations,
        per_device_eval_batch_size=settings.generations,
        max_completion_length=settings.completion_length,
        temperature=settings.temperature,
        beta=settings.beta,
        generation_kwargs={"stop_strings": list(ends.texts)} if ends.texts else None,
    )
    Trainer.end_texts = ends.texts
    rewards = [until(ends.texts, find_reward(name)) for name in settings.rewards]
    with quiet(), ending(prepared, ends), _reference(prepared.model, settings.beta):
        trainer = Trainer(
            model=prepared.model,
            reward_funcs=rewards,
            args=arguments,
            train_dataset=data,
            # Asked for where there are evaluations; `Resumable` judges the rows of the session.
            eval_dataset=data.select(range(1)) if session.checkpoints else None,
            processing_class=prepared.tokenizer,
            callbacks=[Report(session.log), *saving_callbacks(session.checkpoints)],
            optimizers=(optimizer_of(spec, prepared.model), None),
        )
        return run(trainer, session)


def _dataset(rows: Sequence[Row]) -> Dataset:
    """Return rows by their place: a table of them would give every object the keys of all."""
    from datasets import Dataset

    columns = {"prompt": [row["prompt"] for row in rows], **columns_of(rows)}
    return Dataset.from_dict({"place": range(len(rows))}).with_transform(
        lambda places: {
            name: [values[place] for place in places["place"]] for name, values in columns.items()
        }
    )


def _ends(spec: TrialSpec, prepared: Prepared, rows: Sequence[Row]) -> Ends:
    """Return what ends a sampled answer: what ends the answers that the trial is judged by."""
    if all(isinstance(row["prompt"], str) for row in rows):
        return Ends()
    references = None
    if GRPO.metric_of(spec.evaluation) in COMPARISONS:
        references = [answer for row in rows if (answer := answer_of(row)) is not None]
    return ends_of_turns(prepared.tokenizer, references)


def check_prompts(rows: Sequence[Row]) -> None:
    """Refuse rows without a prompt, and those whose prompt the trainer would render in part.

    Raises:
        DataError: A row has no prompt, or gives its chat template more than messages.
    """
    for number, row in enumerate(rows, start=1):
        if not row.get("prompt"):
            raise DataError(
                f"Row {number} has no prompt, which the task grpo needs; it has: "
                f"{', '.join(row)}. Give a template with --prompt."
            )
        given = {} if isinstance(row["prompt"], str) else template_arguments(row)
        if given:
            raise DataError(
                f"Row {number} gives its chat template {', '.join(given)}, which GRPO's trainer "
                "does not pass on: it would train on another prompt than the row's. Write the "
                "prompt as the template renders it and give it as a text with --text."
            )


@contextlib.contextmanager
def _reference(model: PeftModel, beta: float) -> Iterator[None]:
    """Keep the copy of the adapters that TRL compares with from touching the base weights.

    TRL adds a second adapter of the same configuration and then copies the first into it. An
    initialisation such as PiSSA rewrites the base weights whenever an adapter is added, so the
    copy is made with the plain one; it is gone again afterwards.
    """
    if not beta:
        yield
        return
    config = model.peft_config["default"]
    initialisation = config.init_lora_weights
    config.init_lora_weights = True
    try:
        yield
    finally:
        config.init_lora_weights = initialisation
        if "ref" in model.peft_config:
            model.delete_adapter("ref")


def judge(
    spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], *, general: Sequence[Row] = ()
) -> Judged:
    """Judge a model by the metric of its trial on greedily generated answers.

    Raises:
        DataError: A row without what the metric compares with.
    """
    judged = judge_answers(
        GRPO.metric_of(spec.evaluation), prepared, rows, spec.evaluation,
        rewards=spec.training.rewards, named=GRPO.metrics,
    )  # fmt: skip
    return with_general(judged, spec, prepared, general)


def _reader(data: DataRecipe, fields: Sequence[str], source: str) -> Reader:
    if data.completion is not None:
        raise UsageError("--completion is not for grpo: the model writes it and rewards judge it.")
    if data.prompt is not None:
        prompt = filled(data.prompt, fields, source)
        names = tuple(template_fields(data.prompt))
        return Reader(lambda row: {"prompt": prompt(row)}, names)
    name = one_of(data.text, PROMPTS, fields, source, "--text")
    asked, names = asked_with(name, fields if data.text is None else ())

    def read(row: Row) -> dict[str, Any]:
        value = row.get(name)
        return {"prompt": messages_in(value, name) if isinstance(value, list) else asked(row)}

    return Reader(read, names)


GRPO = Task(
    name="grpo",
    columns=(("prompt",),),
    reserved=("prompt",),
    reader=_reader,
    tokens=lambda row, tokenizer: prompt_tokens(row["prompt"], tokenizer, template_arguments(row)),
    model_class=causal_class,
    check_model=check_causal_reference,
    train=train,
    judge=judge,
    metrics=("pass@1", "exact", "numeric"),
    full_rate=1e-6,
    packages=("torch", "transformers", "peft", "trl"),
    reference=answer_of,
    by_answers=True,
    reads_text=True,
    samples=True,
    largest_rank=LARGEST_RANK,
    check_settings=check_settings,
    try_rows=lambda settings, rows: try_rewards(settings.rewards, rows),
    check_length=check_groups,
    resumes=True,
)
