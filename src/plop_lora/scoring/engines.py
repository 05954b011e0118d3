"""Which engine scores a model: the one in memory, or the one that streams its blocks from disk."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from plop_lora.errors import UsageError
from plop_lora.scoring import memory
from plop_lora.scoring.capacity import available_memory, device_memory
from plop_lora.scoring.collect import Measured
from plop_lora.scoring.loading import check_dtype, device_named, explained, load_model
from plop_lora.scoring.shards import Shards, shard_files
from plop_lora.scoring.wrappers import unwrap

ENGINES = ("auto", "memory", "stream")
_SPARE = 1 << 30
"""Bytes that activations, the library itself and others need beside the weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """A model and what measures it: `measure(sites, batches, *, baseline, seed, advance)`.

    It may be called for one part of the batches after another; the engine that streams reads the
    weights again each time.
    """

    model: nn.Module
    measure: Callable[..., Measured]


def engine_for(
    model: str | nn.Module, *, engine: str = "auto", device: str = "auto", dtype: str = "auto"
) -> Engine:
    """Load a model by its name, or only its skeleton where its blocks are streamed.

    Args:
        model: hub id, local folder, or a loaded module, which only the engine in memory takes.
        engine: one of `ENGINES`; `auto` streams a model by name that would not fit.
        device: where a model given by name is put.
        dtype: of a model given by name.

    Raises:
        UsageError: an unknown engine, device or dtype, or a loaded module to be streamed.
        ModelError: no such model, or a damaged one.
    """
    if engine not in ENGINES:
        raise UsageError(f"There is no engine {engine!r}. Allowed: {', '.join(ENGINES)}.")
    if not isinstance(model, str):
        if engine == "stream":
            raise UsageError(
                "A loaded model is in memory already; to stream it, give its name or folder."
            )
        inner = unwrap(model)
        return Engine(inner, functools.partial(memory.measure, inner))
    check_dtype(dtype)
    target = device_named(device)
    notes: tuple[str, ...] = ()
    if engine == "stream" or (engine == "auto" and not fits(model, target, dtype)):
        streaming = _streaming(model, target, dtype)
        if isinstance(streaming, Engine):
            return streaming
        notes = (streaming,)
    loaded = unwrap(load_model(model, device=device, dtype=dtype))
    return Engine(loaded, functools.partial(_with_notes, notes, loaded))


def _streaming(name: str, device: torch.device, dtype: str) -> Engine | str:
    """Return the engine that streams a model, or the note that says why it cannot."""
    # Here and not above: it leans on parts of transformers that the other engine does without.
    from plop_lora.scoring import stream
    from plop_lora.scoring.checkpoint import Checkpoint, UnstreamableError

    try:
        with explained(name, "model"):
            checkpoint = Checkpoint(name, device=device, dtype=dtype)
    except UnstreamableError as reason:
        return stream.loaded_whole(reason)
    return Engine(checkpoint.model, functools.partial(stream.measure, checkpoint))


def _with_notes(
    notes: tuple[str, ...], model: nn.Module, *arguments: object, **options: object
) -> Measured:
    measured = memory.measure(model, *arguments, **options)  # type: ignore[arg-type]
    return dataclasses.replace(measured, notes=notes)


def fits(name: str, device: torch.device, dtype: str) -> bool:
    """Whether a model on disk fits in the memory that is left; yes where nobody can tell."""
    needed = _weight_bytes(name, dtype)
    if needed is None:
        return True
    rooms = (available_memory(), device_memory(device))
    return all(room is None or needed + _SPARE <= room for room in rooms)


def _weight_bytes(name: str, dtype: str) -> int | None:
    with explained(name, "model"):
        files = shard_files(name)
    if files is None:
        return None
    shards = Shards(files)
    if dtype == "auto":
        return shards.size
    width: int = getattr(torch, dtype).itemsize
    sizes = ((shards[key].size, shards[key].dtype) for key in shards)
    return sum(size * width // stored.itemsize for size, stored in sizes)
