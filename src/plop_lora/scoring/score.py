"""The step `score`: a model and texts in, `Scores` out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from plop_lora.data.batches import ready_batches
from plop_lora.data.documents import Documents
from plop_lora.errors import ModelError, UsageError
from plop_lora.indicators import NFN, Indicator, recorded_indicator
from plop_lora.models.devices import slow_dtype
from plop_lora.models.folders import expanded, model_name
from plop_lora.models.loading import load_tokenizer
from plop_lora.models.origin import Origin
from plop_lora.options import ADAPTIVE, BASELINES, check_choices, check_numbers
from plop_lora.placement.place import DEFAULT_TOP
from plop_lora.placement.stopping import StopSettings
from plop_lora.records import Scores
from plop_lora.scoring.assemble import assemble
from plop_lora.scoring.beside import measure_beside
from plop_lora.scoring.engines.choose import engine_for
from plop_lora.scoring.engines.processes import Processes
from plop_lora.scoring.further import with_indicators
from plop_lora.scoring.inputs import ScoringInputs, as_documents, known_name, padding_of, tokenise
from plop_lora.scoring.look import looked_at
from plop_lora.scoring.measurement.collect import Measured
from plop_lora.scoring.measurement.settings import MeasurementSettings
from plop_lora.scoring.progress import progress_bar
from plop_lora.scoring.provenance import provenance_of
from plop_lora.scoring.reference import random_batches, references_of
from plop_lora.scoring.sites.find import Site, find_sites
from plop_lora.scoring.stopping import StopRule, check_top, stopping_of

__all__ = ["BASELINES", "score"]


def score(  # noqa: PLR0913
    model: str | Path | nn.Module,
    tokenizer: Any = None,
    texts: Iterable[str | Mapping[str, Any]] | Documents | None = None,
    *,
    batches: Iterable[Mapping[str, Any]] | None = None,
    max_length: int = 512,
    batch_size: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    baseline: str = "analytic",
    stop: str = ADAPTIVE,
    tolerance: float = 0.03,
    top: int = DEFAULT_TOP,
    engine: str = "auto",
    ray_address: str | None = None,
    cache: bool = True,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    processes: Processes | None = None,
    progress: bool = True,
    reference: bool = True,
    indicators: Sequence[str] = (),
) -> Scores:
    """Score every module type of a model on unlabelled texts, with forward passes only.

    Args:
        model: hub id, local folder, or a loaded module (which keeps its device, dtype and mode).
        tokenizer: a transformers tokenizer, or the name or folder of one; found by the model's
            name if left out.
        texts: strings, `Documents` from `load_documents`, or rows such as a `datasets.Dataset`,
            of which 200 are drawn.
        batches: ready batches instead of texts: dicts of tensors with `input_ids` and
            `attention_mask`, or whatever the model's processor returns.
        max_length: tokens kept of each text, at most the model's positions.
        batch_size: sequences a batch; None fills a token budget. Never changes the result.
        device: where a model given by name is loaded.
        dtype: of a model given by name; `auto` is the checkpoint's, or float32 on a processor
            that is slow in it.
        seed: of the probes of the baseline, and of the order of the texts.
        include: shell patterns of modules or types to score, wherever they stand.
        exclude: shell patterns to leave out.
        baseline: `analytic`, or `monte_carlo` for comparison.
        stop: `adaptive` ends as soon as the choice of the `top` types is decided, or `fixed`
            scores every text, as a paper needs it. Ready batches are looked at in their order,
            which should be random.
        tolerance: how much better, in NFN, a type left out may be than a chosen one.
        top: how many types the choice holds.
        engine: `memory`; `stream` reads a model given by name block by block and gives the same
            scores; `auto` streams what would not fit; `ray` spreads the batches over a cluster.
            What streams scores every text, since it ends with the last block.
        ray_address: of the cluster; None takes `RAY_ADDRESS`, one on this machine, or a new one.
        cache: remember what depends on the weights alone, for a model given by name.
        revision: branch, tag or commit of a model on the hub.
        token: access token of the hub; None takes the stored one. It is never recorded.
        trust_remote_code: whether Python code that lies beside the weights may run, with all the
            rights of your account. Recorded; nobody is asked.
        processes: those that measure together, from `parallel.together()`; each makes the same
            call and gets the same scores.
        progress: draw a bar on stderr.
        reference: whether to score a few sequences of random tokens as well, which say whether
            the choice would be the same without these texts.
        indicators: Names of indicators to record beside NFN, such as `rank-of-weights`, on the
            same tokens and without a second forward pass. The rule that stops looks at NFN alone.

    Returns:
        Scores; NFN about 1 means no more response than to noise, and a low NFN means room for
        an adapter.

    Raises:
        DataError: no text, or texts without tokens.
        ModelError: no such model, weights that are not those of its config.json, no site, or a
            tokenizer of another model.
        MeasurementError: NaN or infinity, or nothing measured.
        UsageError: an option that cannot work.
        ProcessError: another process or worker failed or is lost.

    Source: PLoP, arXiv 2506.20629; the denominator is the closed form, not the authors' draw.
    """
    started = time.monotonic()
    processes = processes or Processes()
    if (texts is None) == (batches is None):
        raise UsageError("Give texts or batches to score, one of the two.")
    check_choices(baseline=baseline, dtype=dtype, stop=stop, engine=engine, device=device)
    check_numbers(max_length=max_length, batch_size=batch_size, top=top, tolerance=tolerance)
    origin = Origin(revision, trust_remote_code, token)
    name = None if isinstance(model, nn.Module) else model_name(str(model))
    masks, further = (tuple(include), tuple(exclude)), _further(indicators)
    job = MeasurementSettings(name, device, dtype, *masks, baseline, seed, cache, origin, further)
    chosen = engine_for(
        model if isinstance(model, nn.Module) else str(name), job,
        engine=engine, ray_address=ray_address, processes=processes, progress=progress,
    )  # fmt: skip
    loaded = chosen.model
    found = find_sites(loaded, include=include, exclude=exclude)
    check_top(top, found.sites)
    _check_new(found.sites, chosen.new)
    if batches is not None:
        tokenizer = tokenizer and _tokenizer(tokenizer, name, loaded, origin)
        ready = tuple(ready_batches(batches, padding_of(loaded)))
        given = ScoringInputs(ready, "ready batches", ())
    else:
        tokenizer = _tokenizer(tokenizer, name, loaded, origin)
        shuffle_seed = seed if stop == ADAPTIVE else None
        documents = as_documents(texts, tokenizer, seed)
        given = tokenise(loaded, tokenizer, documents, max_length, batch_size, shuffle_seed)
    found, looked = looked_at(loaded, found, given.batches, asked=bool(include))
    watch = StopRule(found.sites, StopSettings(top, tolerance))
    total = sum(len(batch.names) for batch in given.batches)
    random = random_batches(given.batches, loaded, tokenizer, seed) if reference else ()
    with progress_bar(total, progress and processes.first) as advance:
        measured, by_chance = measure_beside(
            chosen, found.sites, given, random, processes,
            enough=watch if stop == ADAPTIVE else None, advance=advance,
        )  # fmt: skip
    settings = {
        "max_length": max_length, "batch_size": batch_size or "auto", "include": list(include),
        "exclude": list(exclude), "engine": measured.engine, **_recorded(origin, name, tokenizer),
        **_read_as(given, measured),
    }  # fmt: skip
    provenance = provenance_of(
        given.source, measured, loaded, seed=seed, baseline=baseline, settings=settings,
        elapsed=time.monotonic() - started,
    )  # fmt: skip
    scores = assemble(
        loaded, name, found, measured, provenance,
        stopping_of(watch, stop, measured, total, given.groups),
        (*given.notes, *looked, *measured.notes, *_slow(loaded)),
        references_of(watch, measured, by_chance),
    )  # fmt: skip
    return with_indicators(scores, job.further, found.sites, measured)


def _further(names: Sequence[str]) -> tuple[Indicator, ...]:
    """Return the indicators to record beside NFN, which is recorded always."""
    rows = (recorded_indicator(name) for name in dict.fromkeys(names))
    return tuple(row for row in rows if row.name != NFN)


def _tokenizer(given: Any, name: str | None, model: nn.Module, origin: Origin) -> Any:
    """Return a tokenizer as it was given, by its name, or by the name of its model."""
    if isinstance(given, str | Path):
        return load_tokenizer(expanded(str(given)), origin.elsewhere())
    return given or load_tokenizer(name or known_name(model), origin)


def _recorded(origin: Origin, name: str | None, tokenizer: Any) -> dict[str, Any]:
    """Return what a record says of where a model came from; never the token."""
    recorded: dict[str, Any] = {"trust_remote_code": origin.trust_remote_code}
    if origin.revision is not None:
        recorded["revision"] = origin.revision
    source = getattr(tokenizer, "name_or_path", "")
    if source and source != name:
        recorded["tokenizer"] = source
    return recorded


def _read_as(given: ScoringInputs, measured: Measured) -> dict[str, Any]:
    """Return what a record says of what was scored: the field, and how long its texts are."""
    length = {"tokens_per_sequence": round(measured.tokens / len(measured.names), 1)}
    return length if given.field is None else {"field": given.field} | length


def _check_new(sites: Sequence[Site], new: Sequence[str]) -> None:
    """Refuse to score weights that the checkpoint lacks, such as a head that --include names.

    Raises:
        ModelError: a site's weight is random.
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
