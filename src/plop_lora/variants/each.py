"""Run one variant after another, and keep the reason of each that cannot be had.

A variant that fails does not end the others: its reason stands in the record.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from plop_lora.data.general_text import passages
from plop_lora.data.texts import Document
from plop_lora.data.tokens import sequence_name
from plop_lora.errors import ModelError, PlopError
from plop_lora.escapes import escaped
from plop_lora.models.memory import is_out_of_memory
from plop_lora.records import Scores, VariantLeftOut, VariantResult
from plop_lora.records.robustness import Source
from plop_lora.scoring.inputs import chat_of
from plop_lora.status import status
from plop_lora.variants import resampling, texts, weights
from plop_lora.variants.against import Rival
from plop_lora.variants.catalogue import Variant
from plop_lora.variants.judging import Base
from plop_lora.variants.measuring import Subject, in_pairs, open_subject, twin_of, with_sites
from plop_lora.variants.sample import Sample, sample_of
from plop_lora.variants.unavailable import UnavailableError

SHORT_TOKENS = 16
LANGUAGE_TEXTS = 32
"""Texts in another language, at most."""
LANGUAGE_TOKENS = (16, 128)
"""Limits of the length of a text in another language, which is otherwise that of the texts."""


@dataclass(slots=True, eq=False)
class Task:
    """What every variant reads, and how often the model has run for one.

    Attributes:
        subject: The model, its tokenizer and its sites.
        scores: Scores of all texts.
        base: Their sums, and how choices are compared.
        items: The texts.
        rivals: Other checkpoints, and adapters to merge.
        prompt: Prompt to put around the texts.
        progress: Whether a terminal shows which variant runs.
        forwards: Number of forward passes so far.
    """

    subject: Subject
    scores: Scores
    base: Base
    items: tuple[Document, ...]
    rivals: Sequence[Rival]
    prompt: str | None
    progress: bool
    forwards: int = field(default=0, init=False)

    @property
    def length(self) -> float:
        """Mean number of tokens of a text."""
        return self.scores.tokens / self.scores.sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a variant found, before it has a name and a time."""

    fields: dict[str, Any]
    sequences: int
    source: Source
    setting: str = ""
    paired: bool = False
    notes: tuple[str, ...] = ()


Run = Callable[[Task], Iterator[Found]]


def results_of(
    rows: Sequence[Variant], task: Task
) -> tuple[list[VariantResult], list[VariantLeftOut]]:
    """Run variants in their order."""
    results: list[VariantResult] = []
    left_out: list[VariantLeftOut] = []
    for row in rows:
        for run in _runs(row, task):
            try:
                with status(f"robustness: {row.name}", wanted=task.progress):
                    results += _timed(row, run(task))
            except UnavailableError as reason:
                left_out.append(VariantLeftOut(row.name, escaped(str(reason))))
            except PlopError as error:
                left_out.append(VariantLeftOut(row.name, escaped(str(error)).rstrip(".")))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                left_out.append(VariantLeftOut(row.name, "it does not fit into memory"))
    return results, left_out


def _runs(row: Variant, task: Task) -> list[Run]:
    """Return what is run for a variant: several checkpoints are run one by one."""
    others = [
        functools.partial(_merged if rival.is_adapter else _against, rival)
        for rival in task.rivals
        if row.name == ("merged" if rival.is_adapter else "against")
    ]
    return [*others] or [_RUNS[row.name]]


def _timed(row: Variant, found: Iterator[Found]) -> Iterator[VariantResult]:
    started = time.monotonic()
    for one in found:
        now = time.monotonic()
        yield VariantResult(
            variant=row.name, setting=escaped(one.setting), family=row.family, source=one.source,
            paired=one.paired, sequences=one.sequences, seconds=round(now - started, 3),
            notes=one.notes, **one.fields,
        )  # fmt: skip
        started = time.monotonic()


# --------------------------------------------------------------------------- from the scores


def _resampled(found: resampling.Found, *, paired: bool = False) -> Iterator[Found]:
    for setting, sequences, fields in found:
        yield Found(
            fields=fields, sequences=sequences, source=Source.RESAMPLED, setting=setting,
            paired=paired,
        )  # fmt: skip


def _bootstrap(task: Task) -> Iterator[Found]:
    yield from _resampled(resampling.bootstrap(task.base))


def _half_splits(task: Task) -> Iterator[Found]:
    yield from _resampled(resampling.half_splits(task.base))


def _fewer_texts(task: Task) -> Iterator[Found]:
    yield from _resampled(resampling.fewer_texts(task.base))


def _imbalance(task: Task) -> Iterator[Found]:
    known = {sequence_name(item): item.group for item in task.items}
    groups = [known.get(name) or "" for name in task.base.sample.names]
    if len(set(groups)) < 2:
        raise UnavailableError(
            "the texts have no groups; --group names the column of a label or a source"
            if not any(groups)
            else "all texts are of one group"
        )
    yield from _resampled(resampling.imbalance(task.base, groups), paired=True)


def _general(task: Task) -> Sample:
    """Return the sums of the general text that the scores hold.

    Raises:
        UnavailableError: They hold none.
    """
    held = next((one.measurements for one in task.scores.references if one.measurements), None)
    if held is None:
        raise UnavailableError("the general text was not scored beside the texts")
    return sample_of(task.scores, held)


def _general_mixture(task: Task) -> Iterator[Found]:
    found = resampling.general_mixture(task.base, _general(task))
    yield from _resampled(found, paired=True)


def _general_text(task: Task) -> Iterator[Found]:
    yield from _resampled(resampling.general_text(task.base, _general(task)))


# --------------------------------------------------------------------------- other texts


def _forward(
    task: Task,
    changed: Sequence[Document],
    *,
    subject: Subject | None = None,
    max_length: int | None = None,
    setting: str = "",
    notes: tuple[str, ...] = (),
) -> Found:
    """Measure the texts, changed or with another model, and compare them text by text."""
    task.forwards += 1
    own = (subject or task.subject).sample(changed, task.base.sample.types, max_length=max_length)
    before, after = in_pairs(task.base.sample, task.items, own, changed)
    return Found(
        fields=resampling.measured(task.base, after, of=before), sequences=after.size,
        source=Source.FORWARD, setting=setting, paired=True, notes=notes,
    )  # fmt: skip


def _unrelated(
    task: Task, items: Sequence[Document], *, max_length: int | None = None, setting: str = ""
) -> Found:
    """Measure texts that have nothing to do with the user's."""
    task.forwards += 1
    own = task.subject.sample(items, task.base.sample.types, max_length=max_length)
    return Found(
        fields=resampling.measured(task.base, own), sequences=own.size, source=Source.FORWARD,
        setting=setting,
    )  # fmt: skip


def _rewritten(change: texts.Change, task: Task) -> Iterator[Found]:
    base = task.base
    changed = texts.changed(task.items, change, base.seed, task.subject.special)
    if all(one == other for one, other in zip(changed, task.items, strict=True)):
        raise UnavailableError("it changes none of the texts")
    yield _forward(task, changed)


def _short(task: Task) -> Iterator[Found]:
    if task.length <= SHORT_TOKENS:
        raise UnavailableError(f"the texts have {task.length:.0f} tokens on average already")
    yield _forward(task, task.items, max_length=SHORT_TOKENS, setting=f"{SHORT_TOKENS} tokens")


def _chat_template(task: Task) -> Iterator[Found]:
    if any(item.rendered for item in task.items):
        changed = texts.without_special(task.items, task.subject.special)
        yield _forward(task, changed, setting="off")
        return
    chat = chat_of(task.subject.tokenizer)
    if chat is None:
        raise UnavailableError("the tokenizer has no chat template; --prompt gives a prompt")
    try:
        changed = texts.rendered(task.items, chat)
    except TemplateError as error:
        raise UnavailableError(f"the chat template refuses a message: {error}") from error
    yield _forward(task, changed, setting="on")


def _prompt(task: Task) -> Iterator[Found]:
    if task.prompt is None:
        raise UnavailableError("no --prompt was given")
    yield _forward(task, texts.prompted(task.items, task.prompt))


def _random_words(task: Task) -> Iterator[Found]:
    yield _unrelated(task, texts.of_random_words(task.items, task.base.seed))


def _other_language(task: Task) -> Iterator[Found]:
    language = "english" if texts.mostly_japanese(task.items) else "japanese"
    least, most = LANGUAGE_TOKENS
    length = min(max(least, round(task.length)), most)
    written = passages(language, min(LANGUAGE_TEXTS, task.base.sample.size), 3 * length)
    yield _unrelated(
        task, [Document(text) for text in written], setting=language.capitalize(),
        max_length=min(length, task.subject.asked.max_length),
    )  # fmt: skip


# --------------------------------------------------------------------------- other weights


def _changed_weights(change: weights.Change, task: Task) -> Iterator[Found]:
    weights.check_copy(task.subject.engine.model)
    weights.check_writable_weights(task.subject.sites)
    model, sites = weights.copied(task.subject.engine.model, task.subject.sites)
    weights.change_weights(sites, change)
    yield _forward(task, task.items, subject=twin_of(task.subject, model, sites))


def _merged(rival: Rival, task: Task) -> Iterator[Found]:
    weights.check_copy(task.subject.engine.model)
    model, sites = weights.copied(task.subject.engine.model, task.subject.sites)
    weights.merge(model, sites, Path(rival.name), task.subject.name)
    twin = twin_of(task.subject, model, sites)
    yield _forward(task, task.items, subject=twin, setting=rival.name)


def _not_given(option: str, task: Task) -> Iterator[Found]:
    raise UnavailableError(f"no {option} was given")


def _against(rival: Rival, task: Task) -> Iterator[Found]:
    try:
        yield _saved(rival.name, rival.scores, task) if rival.scores else _scored(rival.name, task)
    except (PlopError, UnavailableError) as error:
        raise UnavailableError(f"{rival.name}: {str(error).rstrip('.')}") from error


def _saved(name: str, scores: Scores, task: Task) -> Found:
    """Compare with saved scores, text by text if they are of the same texts."""
    own = sample_of(scores)
    if own.types != task.base.sample.types:
        raise UnavailableError(f"its module types are {', '.join(own.types)}")
    here = {text: column for column, text in enumerate(task.base.sample.names)}
    paired = here.keys() == set(own.names)
    before = None
    if paired:
        before = task.base.sample.columns([here[text] for text in own.names])
    return Found(
        fields=resampling.measured(task.base, own, of=before), sequences=own.size,
        source=Source.SAVED, setting=name, paired=paired, notes=tuple(_unlike(scores, task.scores)),
    )  # fmt: skip


def _unlike(scores: Scores, others: Scores) -> Iterator[str]:
    """Yield what keeps two scores from being comparable."""
    if scores.provenance.special_tokens != others.provenance.special_tokens:
        yield "special tokens count in one of the two only"
    lengths = [one.provenance.settings.get("max_length") for one in (scores, others)]
    if None not in lengths and lengths[0] != lengths[1]:
        yield f"its texts were cut to {lengths[0]} tokens and not to {lengths[1]}"


def _scored(name: str, task: Task) -> Found:
    """Load another checkpoint and measure the same texts with it."""
    asked = task.subject.asked.model_copy(update={"revision": None, "gguf": None})
    try:
        other = open_subject(name, None, asked, progress=False)
    except ModelError as error:
        if "tokenizer" not in str(error):
            raise
        other = open_subject(name, task.subject.tokenizer, asked, progress=False)
    other = with_sites(other, task.items)
    types = {site.host.type for site in other.sites}
    lacking = sorted(set(task.base.sample.types) - types)
    if lacking:
        raise UnavailableError(
            f"it has no {', '.join(lacking)}, and has {', '.join(sorted(types))}"
        )
    return _forward(task, task.items, subject=other, setting=name)


_RUNS: dict[str, Run] = {
    "bootstrap": _bootstrap,
    "half-splits": _half_splits,
    "fewer-texts": _fewer_texts,
    "imbalance": _imbalance,
    "general-mixture": _general_mixture,
    "typos": functools.partial(_rewritten, texts.with_typos),
    "noise": functools.partial(_rewritten, texts.with_noise),
    "half-length": functools.partial(_rewritten, texts.first_half),
    "short": _short,
    "chat-template": _chat_template,
    "prompt": _prompt,
    "8-bit": functools.partial(_changed_weights, weights.rounded_to(8)),
    "4-bit": functools.partial(_changed_weights, weights.rounded_to(4)),
    "pruned": functools.partial(_changed_weights, weights.pruned),
    "merged": functools.partial(_not_given, "--adapter"),
    "against": functools.partial(_not_given, "--against"),
    "random-words": _random_words,
    "other-language": _other_language,
    "general-text": _general_text,
}
"""Name of a variant → what runs it."""
