"""The step `robustness`: score once, then again under every variant, and compare the choices."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from plop_lora._version import __version__
from plop_lora.data.documents import Documents
from plop_lora.data.texts import Document
from plop_lora.errors import DataError, UsageError
from plop_lora.escapes import escaped
from plop_lora.options import FIXED
from plop_lora.placement.place import usual_top
from plop_lora.placement.stopping import LEAST
from plop_lora.recipe import ScoringSettings
from plop_lora.records import Robustness, Scores, VariantLeftOut, VariantResult
from plop_lora.scoring import score
from plop_lora.scoring.inputs import as_documents
from plop_lora.variants.advice import advised
from plop_lora.variants.against import Rival, rivals_of
from plop_lora.variants.catalogue import Variant, chosen_variants
from plop_lora.variants.each import Task, results_of
from plop_lora.variants.judging import Base
from plop_lora.variants.measuring import Subject, open_subject, with_sites
from plop_lora.variants.sample import sample_of
from plop_lora.variants.texts import PLACE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["robustness"]


def robustness(
    model: str | Path | nn.Module,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    texts: Iterable[str | Mapping[str, object]] | Documents | None = None,
    *,
    variants: Iterable[str] | None = None,
    against: Sequence[str | Path | Scores] = (),
    prompt: str | None = None,
    settings: ScoringSettings | None = None,
    progress: bool = True,
    **keys: object,
) -> Robustness:
    """Ask whether the choice of module types survives other texts, weights and checkpoints.

    All texts are scored once. Other samples and mixtures are then computed from the sums of that
    measurement, and every other variant takes one forward pass. The model is never written to:
    weights are changed on a copy.

    Args:
        model: Hub id, local folder, GGUF file, or a loaded module.
        tokenizer: A transformers tokenizer, or its name or folder; by default the model's own.
        texts: As for `score`, at least 16. Those of `load_documents(group=...)` have groups, which
            the variant `imbalance` needs.
        variants: Names of the variants; None runs all. `catalogue.VARIANTS` describes each.
        against: Other checkpoints of the family, whose module types are the same: by name or
            folder, as saved scores, or as the folder of a trained adapter, which is merged into a
            copy of the model.
        prompt: A prompt that has `{text}` where the text goes.
        settings: Settings of the measurement, as for `score`.
        progress: Whether stderr shows in a terminal what is going on.
        keys: Single keys of the settings, such as `max_length=256`, which take precedence.

    Returns:
        The results, the variants that could not be had with their reasons, and one line of advice.

    Raises:
        UsageError: A variant or key is unknown, a prompt has no place for the text, or scores to
            compare with have other module types.
        DataError: There are fewer than 16 texts.
        AdapterError: The adapter is absent or damaged.
        PlopError: What `score` raises.
    """
    started = time.monotonic()
    if texts is None:
        raise UsageError("Give texts to score: plop.robustness(model, tokenizer, texts).")
    asked = ScoringSettings.of(settings, keys | {"stop": FIXED, "indicators": ()})
    rivals = rivals_of(against)
    rows = _rows(variants, rivals, prompt)
    subject = open_subject(
        model if isinstance(model, nn.Module) else str(model), tokenizer, asked, progress=progress
    )
    documents = as_documents(texts, subject.tokenizer, asked.seed)
    _check_size(documents)
    items = _whole(documents.items, apart=subject.reads_apart)
    subject = with_sites(subject, items)
    _check_types(rivals, subject)
    scores = _scored(subject, documents, progress)
    sample = sample_of(scores)
    top = min(usual_top(scores), len(sample.types))
    base = Base(sample, top, asked.tolerance, asked.seed)
    task = Task(subject, scores, base, items, rivals, prompt, progress)
    results, left_out = results_of(rows, task)
    if not results:
        raise UsageError(
            "No variant that was asked for can be had: "
            + "; ".join(f"{one.variant}: {one.reason}" for one in left_out)
            + ". Ask for others, or leave the variants out to run all that can be had."
        )
    return dataclasses.replace(
        _recorded(task, documents.source, results, left_out),
        elapsed_seconds=round(time.monotonic() - started, 3),
    )


def _recorded(
    task: Task,
    source: str,
    results: Sequence[VariantResult],
    left_out: Sequence[VariantLeftOut],
) -> Robustness:
    """Return the record of the results, with the verdict and the advice that follow from them."""
    base, scores = task.base, task.scores
    verdict, advice = advised(base, results)
    made = scores.provenance
    return Robustness(
        model=task.subject.name,
        architecture=scores.model.architecture,
        parameters=scores.model.parameters,
        data=source,
        data_fingerprint=made.data_fingerprint,
        sequences=scores.sequences,
        tokens=scores.tokens,
        nfn=base.by_type(base.point_1K[0]),
        chosen=base.chosen,
        top=base.top,
        tolerance=base.tolerance,
        verdict=verdict,
        advice=advice,
        results=tuple(results),
        left_out=tuple(left_out),
        forwards=1 + task.forwards,
        elapsed_seconds=0.0,
        seed=base.seed,
        scores_digest=scores.digest(),
        plop_version=__version__,
        dtype=made.dtype,
        device=made.device,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        prompt=None if task.prompt is None else escaped(task.prompt),
        notes=scores.notes,
        sequence_ids=scores.measurements.sequence_ids,
    )


def _rows(
    variants: Iterable[str] | None, rivals: Sequence[Rival], prompt: str | None
) -> list[Variant]:
    """Return the variants to run; an argument that only one variant needs asks for it.

    Raises:
        UsageError: A variant is unknown, or the prompt has no place for the text.
    """
    if prompt is not None and PLACE not in prompt:
        raise UsageError(f"The prompt {prompt!r} has no {PLACE}, where the text goes.")
    given = {
        "against": any(not rival.is_adapter for rival in rivals),
        "merged": any(rival.is_adapter for rival in rivals),
        "prompt": prompt is not None,
    }
    return chosen_variants(variants, [name for name, is_given in given.items() if is_given])


def _check_size(documents: Documents) -> None:
    """Refuse too few texts for any interval.

    Raises:
        DataError: There are fewer than `LEAST`.
    """
    count = len(documents.items)
    if count < LEAST:
        raise DataError(
            f"{documents.source} has {count} different text{'s' * (count != 1)}, and {LEAST} are "
            "the least whose resamples say anything. Give more texts of the task."
        )


def _check_types(rivals: Sequence[Rival], subject: Subject) -> None:
    """Compare the types of saved scores with those of the model, before the first forward pass.

    Raises:
        UsageError: They are not the same.
    """
    own = {site.host.type for site in subject.sites}
    for rival in rivals:
        rival.check(own, subject.name)


def _whole(items: Sequence[Document], *, apart: bool) -> tuple[Document, ...]:
    """Return documents as the model reads them: a single text, unless it has a decoder apart."""
    if apart:
        return tuple(items)
    return tuple(
        Document(item.text + (item.target or ""), None, item.rendered, item.group) for item in items
    )


def _scored(subject: Subject, documents: Documents, progress: bool) -> Scores:
    """Return the scores of all texts, which also hold the general text."""
    engine, asked = subject.engine, subject.asked
    if engine.one_round:
        return score(subject.name, subject.tokenizer, documents, settings=asked, progress=progress)
    loaded = asked.model_copy(update={"engine": "memory", "gguf": None, "ray_address": None})
    return score(engine.model, subject.tokenizer, documents, settings=loaded, progress=progress)
