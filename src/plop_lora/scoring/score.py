"""The step `score`: a model and texts in, `Scores` out."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from plop_lora.data import Batch, ready_batches
from plop_lora.documents import Documents
from plop_lora.errors import UsageError, nearest
from plop_lora.records import Scores
from plop_lora.scoring.assemble import assemble
from plop_lora.scoring.cache import open_cache
from plop_lora.scoring.cluster import check_cluster, connected, measure_on_ray
from plop_lora.scoring.collect import Measured
from plop_lora.scoring.inputs import Given, as_documents, known_name, tokenise
from plop_lora.scoring.job import Job
from plop_lora.scoring.loading import load_model, load_tokenizer
from plop_lora.scoring.memory import measure
from plop_lora.scoring.parallel import Processes
from plop_lora.scoring.progress import progress_bar
from plop_lora.scoring.provenance import provenance_of
from plop_lora.scoring.sites import Site, find_sites
from plop_lora.scoring.wrappers import unwrap

BASELINES = ("analytic", "monte_carlo")
ENGINES = ("auto", "memory", "ray")


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
    engine: str = "auto",
    ray_address: str | None = None,
    cache: bool = True,
    processes: Processes | None = None,
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
        engine: `auto` or `memory`; `ray` spreads the batches over a Ray cluster.
        ray_address: of the cluster; None takes `RAY_ADDRESS`, one on this machine, or a new one.
        cache: remember what depends on the weights alone, for a model given by name.
        processes: those that measure together, from `parallel.together()`; each makes the same
            call and gets the same scores.
        progress: draw a bar on stderr.

    Returns:
        Scores; NFN about 1 means no more response than to noise, and a low NFN means room for
        an adapter.

    Raises:
        DataError: no text, or texts without tokens.
        ModelError: no such model, no site, or a tokenizer of another model.
        MeasurementError: NaN or infinity, or nothing measured.
        UsageError: an option that cannot work.
        ProcessError: another process or worker failed or is lost.

    Source: PLoP, arXiv 2506.20629; the denominator is the closed form, not the authors' draw.
    """
    started = time.monotonic()
    processes = processes or Processes()
    _check_options(texts, batches, baseline, max_length, batch_size)
    _check_engine(engine, model, ray_address, processes)
    name = model if isinstance(model, str) else None
    home = processes.device(device)
    loaded = load_model(model, device=home, dtype=dtype) if isinstance(model, str) else model
    loaded = unwrap(loaded)
    found = find_sites(loaded, include=include, exclude=exclude)
    if batches is not None:
        given = Given(tuple(ready_batches(batches)), "ready batches", ())
    else:
        tokenizer = tokenizer or load_tokenizer(name or known_name(loaded))
        documents = as_documents(texts)
        given = tokenise(loaded, tokenizer, documents, max_length, batch_size)
    job = Job(name, device, dtype, tuple(include), tuple(exclude), baseline, seed, cache)
    total = sum(len(batch.names) for batch in given.batches[processes.index :: processes.count])
    with (
        progress_bar(total, progress and processes.first) as advance,
        _engine(engine, job, loaded, found.sites, ray_address, advance) as run,
    ):
        measured = processes.measure([given.batches], run)
    settings = {
        "max_length": max_length,
        "batch_size": batch_size or "auto",
        "include": list(include),
        "exclude": list(exclude),
    }
    provenance = provenance_of(
        given.source, measured, loaded, seed=seed, baseline=baseline, settings=settings,
        elapsed=time.monotonic() - started,
    )  # fmt: skip
    return assemble(loaded, name, found, measured, provenance, given.notes)


@contextlib.contextmanager
def _engine(
    engine: str,
    job: Job,
    model: nn.Module,
    sites: Sequence[Site],
    ray_address: str | None,
    advance: Callable[[int], None],
) -> Iterator[Callable[[Sequence[Batch]], Measured]]:
    """Yield what measures batches; it may be called for one chunk after another."""
    if engine == "ray":
        with connected(ray_address):
            yield functools.partial(measure_on_ray, job, sites, advance=advance)
    else:
        yield functools.partial(
            measure, model, sites,
            baseline=job.baseline, seed=job.seed, gains=open_cache(job, model), advance=advance,
        )  # fmt: skip


def _check_engine(engine: str, model: Any, ray_address: str | None, processes: Processes) -> None:
    if engine not in ENGINES:
        raise UsageError(
            f"There is no engine {engine!r}.{nearest(engine, ENGINES)} "
            f"Allowed: {', '.join(ENGINES)}."
        )
    if engine == "ray" and not isinstance(model, str):
        raise UsageError("--engine ray loads the model in every worker; give its name or folder.")
    if engine == "ray" and processes.count > 1:
        raise UsageError("--engine ray starts its own workers; run it without torchrun.")
    if engine != "ray" and ray_address is not None:
        raise UsageError("--ray-address needs --engine ray.")
    if engine == "ray":
        check_cluster(ray_address)


def _check_options(
    texts: Any, batches: Any, baseline: str, max_length: int, batch_size: int | None
) -> None:
    if baseline not in BASELINES:
        raise UsageError(f"There is no baseline {baseline!r}. Allowed: {', '.join(BASELINES)}.")
    if (texts is None) == (batches is None):
        raise UsageError("Give texts or batches to score, one of the two.")
    if max_length < 1 or (batch_size is not None and batch_size < 1):
        raise UsageError("--max-length and --batch-size must be at least 1.")
