"""The step `score`: a model and texts in, `Scores` out."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import nn

from plop_lora._version import __version__
from plop_lora.data import (
    Batch,
    Document,
    Documents,
    encode,
    fingerprint,
    make_batches,
    ready_batches,
)
from plop_lora.errors import DataError, UsageError
from plop_lora.records import Provenance, Scores
from plop_lora.scoring.assemble import assemble
from plop_lora.scoring.loading import load_model, load_tokenizer
from plop_lora.scoring.memory import Measured, measure
from plop_lora.scoring.sites import find_sites
from plop_lora.scoring.wrappers import unwrap

BASELINES = ("analytic", "monte_carlo")
CPU_TOKEN_BUDGET = 4096
ACCELERATOR_TOKEN_BUDGET = 16384
_VERSIONED = ("torch", "transformers", "numpy")


@dataclass(frozen=True, slots=True, eq=False)
class _Input:
    """Batches with what the record says about them."""

    batches: Sequence[Batch]
    source: str
    notes: tuple[str, ...]


def score(
    model: str | nn.Module,
    tokenizer: Any = None,
    texts: Iterable[str] | Documents | None = None,
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
    progress: bool = True,
) -> Scores:
    """Score every module type of a model on unlabelled texts, with forward passes only.

    Args:
        model: hub id, local folder, or a loaded module (which keeps its device, dtype and mode).
        tokenizer: a transformers tokenizer; found by the model's name if left out.
        texts: strings, or `Documents` from `load_documents`.
        batches: ready batches instead of texts: dicts of tensors with `input_ids` and
            `attention_mask`, or whatever the model's processor returns.
        max_length: tokens kept of each text, at most the model's positions.
        batch_size: sequences a batch; None fills a token budget. Never changes the result.
        device: where a model given by name is loaded.
        dtype: of a model given by name; `auto` is the checkpoint's.
        seed: of the probes of the baseline.
        include: shell patterns of modules or types to score, wherever they stand.
        exclude: shell patterns to leave out.
        baseline: `analytic`, or `monte_carlo` for comparison.
        progress: draw a bar on stderr.

    Returns:
        Scores; NFN about 1 means no more response than to noise, and a low NFN means room for
        an adapter.

    Raises:
        DataError: no text, or texts without tokens.
        ModelError: no such model, no site, or a tokenizer of another model.
        MeasurementError: NaN or infinity, or nothing measured.
        UsageError: an option that cannot work.

    Source: PLoP, arXiv 2506.20629; the denominator is the closed form, not the authors' draw.
    """
    started = time.monotonic()
    _check_options(texts, batches, baseline, max_length, batch_size)
    name = model if isinstance(model, str) else None
    loaded = load_model(model, device=device, dtype=dtype) if isinstance(model, str) else model
    loaded = unwrap(loaded)
    found = find_sites(loaded, include=include, exclude=exclude)
    if batches is not None:
        given = _Input(tuple(ready_batches(batches)), "ready batches", ())
    else:
        tokenizer = tokenizer or load_tokenizer(name or _known_name(loaded))
        documents = _documents(texts)
        given = _tokenise(loaded, tokenizer, documents, max_length, batch_size)
    total = sum(len(batch.names) for batch in given.batches)
    with _progress_bar(total, progress) as advance:
        measured = measure(
            loaded, found.sites, given.batches, baseline=baseline, seed=seed, advance=advance
        )
    settings = {
        "max_length": max_length,
        "batch_size": batch_size or "auto",
        "include": list(include),
        "exclude": list(exclude),
    }
    provenance = _provenance(
        given.source, measured, loaded, seed=seed, baseline=baseline, settings=settings,
        elapsed=time.monotonic() - started,
    )  # fmt: skip
    return assemble(loaded, name, found, measured, provenance, given.notes)


# --------------------------------------------------------------------------- input


def _check_options(
    texts: Any, batches: Any, baseline: str, max_length: int, batch_size: int | None
) -> None:
    if baseline not in BASELINES:
        raise UsageError(f"There is no baseline {baseline!r}. Allowed: {', '.join(BASELINES)}.")
    if (texts is None) == (batches is None):
        raise UsageError("Give texts or batches to score, one of the two.")
    if max_length < 1 or (batch_size is not None and batch_size < 1):
        raise UsageError("--max-length and --batch-size must be at least 1.")


def _documents(texts: Any) -> Documents:
    if isinstance(texts, Documents):
        return texts
    if isinstance(texts, str):
        raise UsageError("texts is one string; give a list of strings.")
    given = list(texts)
    items = tuple(Document(text) for text in given if text is not None and str(text).strip())
    if not items:
        raise DataError("There is no text to score: the list is empty or all of it is blank.")
    return Documents("texts", items, len(given), len(given) - len(items))


def _tokenise(
    model: nn.Module,
    tokenizer: Any,
    documents: Documents,
    max_length: int,
    batch_size: int | None,
) -> _Input:
    config = getattr(model, "config", None)
    limit = min(max_length, _positions(config), tokenizer.model_max_length)
    encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
    embedding = _input_embedding(model)
    sequences, truncated, dropped = encode(
        documents.items,
        tokenizer,
        max_length=limit,
        vocabulary=None if embedding is None else embedding.num_embeddings,
        encoder_decoder=encoder_decoder,
    )
    on_cpu = next(model.parameters()).device.type == "cpu"
    batches = make_batches(
        sequences,
        batch_size=batch_size,
        token_budget=CPU_TOKEN_BUDGET if on_cpu else ACCELERATOR_TOKEN_BUDGET,
        decoder_start=getattr(config, "decoder_start_token_id", None),
    )
    counts = {
        f"rows of {documents.source} skipped for empty text": documents.skipped,
        "texts dropped because they have no token": dropped,
        f"texts cut to {limit} tokens": truncated,
    }
    notes = tuple(f"{count} {what}" for what, count in counts.items() if count)
    return _Input(batches, documents.source, notes)


def _positions(config: Any) -> int:
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else sys.maxsize


def _input_embedding(model: nn.Module) -> nn.Embedding | None:
    getter = getattr(model, "get_input_embeddings", None)
    embedding = getter() if getter is not None else None
    return embedding if isinstance(embedding, nn.Embedding) else None


def _known_name(model: nn.Module) -> str:
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    if not name:
        raise UsageError("Give the tokenizer as well: plop.score(model, tokenizer, texts).")
    return str(name)


# --------------------------------------------------------------------------- provenance, progress


def _provenance(
    source: str,
    measured: Measured,
    model: nn.Module,
    *,
    seed: int,
    baseline: str,
    settings: dict[str, Any],
    elapsed: float,
) -> Provenance:
    device, dtype = _kind(model)
    return Provenance(
        data=source,
        data_fingerprint=fingerprint(measured.names),
        plop_version=__version__,
        versions={"python": platform.python_version()}
        | {package: metadata.version(package) for package in _VERSIONED},
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        seed=seed,
        baseline=baseline,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        elapsed_seconds=round(elapsed, 3),
        peak_memory_bytes=_peak_memory(device),
        settings=settings,
    )


def _kind(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and the floating dtype of most of a model's parameters."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        sizes[parameter.dtype] += parameter.numel()
    return next(model.parameters()).device, sizes.most_common(1)[0][0]


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def _progress_bar(total: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    if not wanted or os.environ.get("TERM") == "dumb":
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=total)
        yield lambda rows: bar.advance(task, rows)
