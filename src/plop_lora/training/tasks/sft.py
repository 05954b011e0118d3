"""Supervised finetuning with TRL's SFTTrainer, on a model that already has its adapters.

The trainer neither wraps the model again nor draws its adapters anew: it sets the global seed,
which by then only dropout reads. Rows of prompt and completion are trained on the completion
alone, texts and chats on all their tokens; plain text gets an end-of-sequence token. The trainer
is given tokens, the same that `losses` judges: a table of rows would give every message the keys
of all, and the trainer's own rendering would leave some of what a row gives its template out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plop_lora.data.fields import Form, of_training
from plop_lora.data.texts import template_fields
from plop_lora.errors import DataError, MeasurementError, UsageError, require
from plop_lora.evaluation.chats import columns_kept, example_of
from plop_lora.evaluation.judged import Judged, Prepared, Row
from plop_lora.evaluation.metrics import judge_answers
from plop_lora.recipe import DataRecipe
from plop_lora.records import TrialSpec
from plop_lora.records.trial import GENERAL_LOSS
from plop_lora.training.readers import (
    Read,
    Reader,
    asked_with,
    filled,
    known_field,
    messages_in,
    text_in,
)
from plop_lora.training.task import Session, Task, Trained
from plop_lora.training.tasks.causal import causal_class, check_causal_reference

if TYPE_CHECKING:
    from transformers import Trainer

    from plop_lora.evaluation.chats import Example


def train(spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], session: Session) -> Trained:
    """Train the adapters of a ready model; nothing else changes and nothing is saved.

    Returns:
        Tokens (prompts included, padding not), steps, the last row of the curve, and how many rows
        have no completion within `max_length`, or not all of it.

    Raises:
        DataError: Rows of no or of several kinds, or none with a completion within `max_length`.
        ModelError: The model is no causal language model.
        MissingExtraError: TRL is not installed.
        UsageError: The model is on a device that the trainer would move it away from.
    """
    require("trl")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from plop_lora.training.adapters import optimizer_of
    from plop_lora.training.arguments import check_causal, run, trl_arguments
    from plop_lora.training.callbacks import Report, quiet
    from plop_lora.training.resuming import Resumable, saving_callbacks
    from plop_lora.training.trainers import LossAtLabels, SimilarLengths, WarmedUp

    class Trainer(Resumable, WarmedUp, SimilarLengths, LossAtLabels, SFTTrainer):  # type: ignore[misc]
        """TRL's trainer as every arm uses it."""

    check_causal(prepared)
    columns_kept(rows)
    examples = [example_of(row, prepared.tokenizer) for row in rows]
    data = Dataset.from_list([_with_labels(example) for example in examples])
    with quiet():
        trainer = Trainer(
            model=prepared.model,
            args=trl_arguments(
                SFTConfig, spec, prepared, session, max_length=spec.training.max_length
            ),
            train_dataset=data,
            # Asked for where there are evaluations; `Resumable` judges the rows of the session.
            eval_dataset=data.select(range(1)) if session.checkpoints else None,
            processing_class=prepared.tokenizer,
            callbacks=[Report(session.log), *saving_callbacks(session.checkpoints)],
            optimizers=(optimizer_of(spec, prepared.model), None),
        )
        left, most = _left(trainer, spec), spec.training.max_length
        trained = run(trainer, session)
    dropped = len(rows) - left
    long = sum(len(example.tokens) > most for example in examples)
    return replace(trained, rows_dropped=dropped, rows_cut=max(0, long - dropped))


def _with_labels(example: Example) -> dict[str, list[int]]:
    """Return a row as the trainer takes it ready-made; it cuts it, and drops what has no label."""
    from plop_lora.evaluation.heads import IGNORED

    tokens = list(example.tokens)
    return {"input_ids": tokens, "labels": [IGNORED] * example.start + tokens[example.start :]}


def _left(trainer: Trainer, spec: TrialSpec) -> int:
    """Return the number of rows that the trainer kept."""
    left = len(trainer.train_dataset)
    if not left:
        raise DataError(
            f"Every prompt alone fills the {spec.training.max_length} tokens of "
            "training.max_length, so there is no completion to train on. Raise it or shorten the "
            "prompts."
        )
    return left


# --------------------------------------------------------------------------- judging


def judge(
    spec: TrialSpec, prepared: Prepared, rows: Sequence[Row], *, general: Sequence[Row] = ()
) -> Judged:
    """Judge a model by the held-out loss and, where another is asked for, by the metric of a trial.

    `metrics["loss"]` is the mean over rows of each row's mean over its tokens, in nats. On general
    text the loss is `general-loss`.

    Raises:
        DataError: A row without what the metric compares with.
        MeasurementError: A loss that is not finite.
    """
    metric = SFT.metric_of(spec.evaluation)
    items = {"loss": _losses(spec, prepared, rows)}
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if metric != "loss":
        judged = judge_answers(
            metric, prepared, rows, spec.evaluation, rewards=spec.training.rewards,
            named=SFT.metrics,
        )  # fmt: skip
        items, doubts, notes = items | dict(judged.items), judged.doubts, judged.notes
    return with_general(Judged.of(items, doubts, notes), spec, prepared, general)


def with_general(
    judged: Judged, spec: TrialSpec, prepared: Prepared, general: Sequence[Row]
) -> Judged:
    """Add the loss on general text, where there is some.

    A text is cut to the positions of the model, where these are learned: unlike the rows of the
    task, nobody chose it for this model. Where the loss on a text is not finite, a note says so.

    Raises:
        DataError: A text has no token that counts.
    """
    from plop_lora.evaluation.losses import general_losses

    if not general:
        return judged
    try:
        losses = general_losses(
            prepared,
            general,
            max_length=spec.training.max_length,
            batch_size=spec.evaluation.batch_size,
        )
    except MeasurementError:
        return replace(judged, notes=(*judged.notes, "the loss on general text is not finite"))
    except DataError as error:
        raise DataError(
            "A general text has no token for this model. Give others with general.data, or leave "
            "the loss on general text out with --set general.most=0."
        ) from error
    means = tuple(loss.mean for loss in losses)
    return replace(
        judged,
        items={**judged.items, GENERAL_LOSS: means},
        metrics={**judged.metrics, GENERAL_LOSS: sum(means) / len(means)},
        general_tokens=tuple(loss.tokens for loss in losses),
    )


def _losses(spec: TrialSpec, prepared: Prepared, rows: Sequence[Row]) -> tuple[float, ...]:
    from plop_lora.evaluation.losses import row_losses

    columns_kept(rows)
    return tuple(
        row_losses(
            prepared,
            rows,
            max_length=spec.training.max_length,
            batch_size=spec.evaluation.batch_size,
        )
    )


# --------------------------------------------------------------------------- rows


def _reader(data: DataRecipe, fields: Sequence[str], source: str) -> Reader:
    if (data.prompt is None) != (data.completion is None):
        raise UsageError("Give --prompt and --completion together: one is what the other answers.")
    if data.prompt is not None and data.completion is not None:
        prompt = filled(data.prompt, fields, source)
        completion = filled(data.completion, fields, source)
        names = (*template_fields(data.prompt), *template_fields(data.completion))
        return Reader(lambda row: {"prompt": prompt(row), "completion": completion(row)}, names)
    if data.text is not None:
        return Reader(
            _text_or_chat(known_field(data.text, fields, source)), (data.text,), whole=True
        )
    found = of_training(fields)
    if found is not None and found.form is Form.pair:
        return Reader(_prompt_and_completion, found.names)
    if found is not None and found.form is Form.alone:
        return Reader(_text_or_chat(*found.names), found.names, whole=True)
    if found is not None:
        asked, _ = asked_with(found.names[0], fields)
        return Reader(_question_and_answer(asked, found.names[-1]), found.names, guessed=True)
    raise DataError(
        f"Cannot tell what to train on in {source}; it has: {', '.join(fields)}. Give --prompt "
        'and --completion, such as --prompt "{question}\\n" --completion "{answer}", or --text.'
    )


def _text_or_chat(name: str) -> Read:
    def read(row: Row) -> dict[str, Any]:
        value = row.get(name)
        if not isinstance(value, list):
            return {"text": text_in(row, name)}
        messages = messages_in(value, name)
        if messages[-1]["role"] != "assistant":
            raise DataError(f"the last message of {name!r} is not an assistant's: nothing to learn")
        return {"messages": messages}

    return read


def _prompt_and_completion(row: Row) -> dict[str, object]:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        answer = messages_in(completion, "completion")
        if answer[-1]["role"] != "assistant":
            raise DataError("the last message of 'completion' is not an assistant's")
        return {"prompt": messages_in(prompt, "prompt"), "completion": answer}
    if isinstance(prompt, list) or isinstance(completion, list):
        raise DataError("'prompt' and 'completion' must both be texts or both be lists of messages")
    return {"prompt": text_in(row, "prompt"), "completion": text_in(row, "completion")}


def _question_and_answer(asked: Callable[[Row], str], answer: str) -> Read:
    return lambda row: {"prompt": f"{asked(row)}\n", "completion": text_in(row, answer)}


SFT = Task(
    name="sft",
    columns=(("prompt", "completion"), ("messages",), ("text",)),
    reserved=("prompt", "completion", "messages", "text"),
    reader=_reader,
    tokens=lambda row, tokenizer: example_of(row, tokenizer).tokens,
    model_class=causal_class,
    check_model=check_causal_reference,
    train=train,
    judge=judge,
    metrics=("loss", "exact", "numeric"),
    full_rate=5e-5,
    packages=("torch", "transformers", "peft", "trl"),
    by_answers=True,
    completes=True,
    reads_text=True,
    resumes=True,
)
