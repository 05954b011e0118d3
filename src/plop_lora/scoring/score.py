"""The step `score`: measure a model on texts and return `Scores`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from plop_lora.data.batches import ready_batches
from plop_lora.data.documents import Documents
from plop_lora.errors import ModelError, UsageError
from plop_lora.indicators import recorded_indicators
from plop_lora.models.devices import slow_dtype
from plop_lora.models.folders import expanded, model_name
from plop_lora.models.gguf import locate, path_of, read_header, tokenizer_notes
from plop_lora.models.loading import describe, load_tokenizer
from plop_lora.models.origin import Origin
from plop_lora.models.pinning import pinned
from plop_lora.options import ADAPTIVE, check_choices
from plop_lora.placement.stopping import StopSettings
from plop_lora.recipe import ScoringSettings
from plop_lora.records import ModelReference, Scores
from plop_lora.scoring.assemble import assemble
from plop_lora.scoring.controls import measure_with_controls
from plop_lora.scoring.engines.choose import engine_for
from plop_lora.scoring.engines.processes import Processes
from plop_lora.scoring.further import with_indicators
from plop_lora.scoring.inputs import (
    ScoringInputs,
    as_documents,
    in_any_order,
    known_name,
    padding_of,
    tokenise,
)
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.measurement.settings import MeasurementSettings
from plop_lora.scoring.progress import progress_bar
from plop_lora.scoring.provenance import provenance_of
from plop_lora.scoring.reference import not_finite, reference_batches, references_of
from plop_lora.scoring.site_checks import check_sites
from plop_lora.scoring.sites.find import Site, find_sites
from plop_lora.scoring.stopping import StopRule, check_top, stopping_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["score"]


def score(
    model: str | Path | nn.Module,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    texts: Iterable[str | Mapping[str, object]] | Documents | None = None,
    *,
    batches: Iterable[Mapping[str, object]] | None = None,
    settings: ScoringSettings | None = None,
    processes: Processes | None = None,
    progress: bool = True,
    **keys: object,
) -> Scores:
    """Score every module type of a model on unlabelled texts, with forward passes only.

    Args:
        model: Hub id, local folder, GGUF file, or a loaded module, which keeps its device, dtype
            and mode.
        tokenizer: A transformers tokenizer, or its name or folder. By default, the tokenizer that
            is stored with the model is loaded.
        texts: Strings, `Documents` from `load_documents`, or rows such as a `datasets.Dataset`,
            of which 200 are drawn.
        batches: Batches to use instead of texts: dicts of tensors with `input_ids` and
            `attention_mask`, or whatever the model's processor returns. Every token that a mask
            admits counts, special tokens included. They are measured in the order given, which
            should be random if scoring may stop early.
        settings: Settings of the measurement; `ScoringSettings` describes every key.
        processes: Processes that share the measurement, from `processes.together()`. Each makes
            the same call and receives the same scores.
        progress: Whether to draw a progress bar on stderr.
        keys: Single keys of the settings, such as `max_length=256, stop="fixed"`. They override
            the values in `settings`.

    Returns:
        The scores. An NFN of about 1 means that a weight responds to the data no more than to
        noise; the types with the lowest NFN are the candidates for adapters.

    Raises:
        DataError: There is no text, or the texts have no tokens.
        ModelError: The model does not exist, its weights do not match its config.json, it has no
            site, or the tokenizer belongs to another model.
        MeasurementError: A value is NaN or infinite, or nothing was measured.
        UsageError: A key is unknown, or a value is not valid.
        ProcessError: Another process or worker failed or was lost.

    Source: PLoP, arXiv 2506.20629. The denominator is computed in closed form; the authors' code
    estimates it from random draws.
    """
    started = time.monotonic()
    processes = processes or Processes()
    if (texts is None) == (batches is None):
        raise UsageError("Give texts or batches to score, one of the two.")
    asked = ScoringSettings.of(settings, keys)
    check_choices(
        denominator=asked.denominator, dtype=asked.dtype, stop=asked.stop, engine=asked.engine,
        device=asked.device,
    )  # fmt: skip
    name, origin = located(model, asked)
    further = recorded_indicators(asked.indicators, reference=asked.reference)
    job = MeasurementSettings(
        name, asked.device, asked.dtype, asked.include, asked.exclude, asked.denominator,
        asked.seed, asked.cache, origin, further,
    )  # fmt: skip
    chosen = engine_for(
        model if isinstance(model, nn.Module) else str(name), job,
        engine=asked.engine, ray_address=asked.ray_address, processes=processes, progress=progress,
    )  # fmt: skip
    loaded = chosen.model
    found = find_sites(loaded, include=asked.include, exclude=asked.exclude)
    check_top(asked.top, found.sites)
    _check_new(found.sites, chosen.new)
    given, tokenizer = _inputs(loaded, name, tokenizer, texts, batches, asked, origin)
    found, check_notes = check_sites(loaded, found, given.batches, asked=bool(asked.include))
    stop_rule = StopRule(found.sites, StopSettings(asked.top, asked.tolerance))
    total = sum(len(batch.names) for batch in given.batches)
    reference = reference_batches(given.batches, loaded, tokenizer, asked)
    with progress_bar(total, progress and processes.first) as advance:
        measured, beside = measure_with_controls(
            chosen, found.sites, given, reference.batches, processes,
            enough=stop_rule if asked.stop == ADAPTIVE else None, advance=advance,
        )  # fmt: skip
    provenance = provenance_of(
        given.source, measured, loaded, seed=asked.seed, denominator=asked.denominator,
        settings=_recorded(asked, given, measured, name, tokenizer),
        elapsed=time.monotonic() - started,
    )  # fmt: skip
    scores = assemble(
        _described(loaded, name, origin), found, measured, provenance,
        stopping_of(stop_rule, asked.stop, measured, total, given.groups),
        (*given.notes, *check_notes, *measured.notes, *_slow(loaded),
         *_of_tokenizer(name, origin, tokenizer), *reference.notes,
         *([not_finite()] if reference.batches and beside is None else [])),
        references_of(stop_rule, measured, beside, asked.seed),
    )  # fmt: skip
    return with_indicators(scores, job.further, found.sites, measured)


def located(model: str | Path | nn.Module, asked: ScoringSettings) -> tuple[str | None, Origin]:
    """Return the name to load a model by, None for a module, and how its files are requested.

    Raises:
        UsageError: `asked` names a GGUF file, but the model is loaded already.
        ModelError: The name is not that of a model.
    """
    if isinstance(model, nn.Module):
        if asked.gguf is not None:
            raise UsageError("gguf names a file; leave it out for a model that is loaded already.")
        return None, Origin(asked.revision, asked.trust_remote_code, asked.token)
    folder, gguf = locate(str(model), asked.gguf)
    origin = Origin(asked.revision, asked.trust_remote_code, asked.token, gguf)
    name = model_name(folder, gguf=gguf)
    return name, pinned(name, origin)


def _described(model: nn.Module, name: str | None, origin: Origin) -> ModelReference:
    """Return the reference of the scored model; that of a GGUF file ends in its name."""
    if name is None or origin.gguf is None:
        return describe(model, name, None if name is None else origin.revision)
    file = read_header(path_of(name, origin)).file
    path = str(Path(name) / file.name)
    return dataclasses.replace(describe(model, path, origin.revision), gguf=file)


def _of_tokenizer(name: str | None, origin: Origin, tokenizer: object) -> list[str]:
    if name is None or origin.gguf is None:
        return []
    return tokenizer_notes(name, read_header(path_of(name, origin)), tokenizer)


def _inputs(
    model: nn.Module,
    name: str | None,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str | Mapping[str, object]] | Documents | None,
    batches: Iterable[Mapping[str, object]] | None,
    asked: ScoringSettings,
    origin: Origin,
) -> tuple[ScoringInputs, PreTrainedTokenizerBase | None]:
    """Return the batches to score, and the tokenizer, or None if none was given or needed."""
    if batches is not None:
        tokenizer = tokenizer and _tokenizer(tokenizer, name, model, origin)
        ready = tuple(ready_batches(batches, padding_of(model)))
        seed = asked.seed if asked.stop == ADAPTIVE else None
        return in_any_order(ready, seed), tokenizer
    tokenizer = _tokenizer(tokenizer, name, model, origin)
    documents = as_documents(texts, tokenizer, asked.seed)
    given = tokenise(
        model, tokenizer, documents, asked.max_length, asked.batch_size,
        special_tokens=asked.special_tokens,
        shuffle_seed=asked.seed if asked.stop == ADAPTIVE else None,
    )  # fmt: skip
    return given, tokenizer


def _tokenizer(
    given: PreTrainedTokenizerBase | str | Path | None,
    name: str | None,
    model: nn.Module,
    origin: Origin,
) -> PreTrainedTokenizerBase:
    """Return the given tokenizer, or load it by its own name or by that of the model."""
    if isinstance(given, str | Path):
        return load_tokenizer(expanded(str(given)), origin.elsewhere())
    return given or load_tokenizer(name or known_name(model), origin)


def _recorded(
    asked: ScoringSettings,
    given: ScoringInputs,
    measured: Measured,
    name: str | None,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, object]:
    """Return the settings that the record keeps; the access token is never among them."""
    recorded: dict[str, object] = {
        "max_length": asked.max_length,
        "special_tokens": not any(batch.text_masks for batch in given.batches),
        "batch_size": asked.batch_size or "auto",
        "include": list(asked.include),
        "exclude": list(asked.exclude),
        "engine": measured.engine,
        "trust_remote_code": asked.trust_remote_code,
    }
    if asked.revision is not None:
        recorded["revision"] = asked.revision
    source = getattr(tokenizer, "name_or_path", "")
    if source and source != name:
        recorded["tokenizer"] = source
    if given.field is not None:
        recorded["field"] = given.field
    length = round(measured.tokens / len(measured.names), 1)
    return recorded | {"tokens_per_sequence": length}


def _check_new(sites: Sequence[Site], new: Sequence[str]) -> None:
    """Refuse to score weights that the checkpoint lacks, such as a head that --include names.

    Raises:
        ModelError: The weight of a site was initialised at random.
    """
    lacking = sorted({site.host.name for site in sites} & {key.rpartition(".")[0] for key in new})
    if lacking:
        raise ModelError(
            f"The checkpoint has no weights for {lacking[0]}, so that it would be scored as random "
            f"numbers. Leave it out with --exclude {lacking[0]}."
        )


def _slow(model: nn.Module) -> Iterator[str]:
    dtype = slow_dtype(model)
    if dtype is not None:
        name = str(dtype).removeprefix("torch.")
        yield f"{name} is slow on this processor; --dtype float32 is faster"
