"""The engine for a model that fits in memory: run the body over batches under the probe.

Runs the body only, without the output head and without a cache, in eval and inference mode. When
a batch does not fit, it is halved and the run goes on.

Shape letters: B batch, T token, S sites, N sequences.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from plop_lora.data import Batch
from plop_lora.errors import DataError, MeasurementError
from plop_lora.scoring.probe import Floats, Layout, Probe, attach
from plop_lora.scoring.sites import Site


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Sums and counts per site and sequence, columns in the order of `names` (sorted)."""

    names: tuple[str, ...]
    sums_SN: Floats
    counts_SN: Floats
    tokens: int
    unassignable: frozenset[int]
    halvings: int


class _HeadReachedError(Exception):
    """Raised by the hook on the output head: everything before it has run."""


def measure(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Iterable[Batch],
    *,
    baseline: str = "analytic",
    seed: int = 0,
    advance: Callable[[int], None] = lambda rows: None,
) -> Measured:
    """Run the batches through the model's body and collect the sites' sums.

    Args:
        model: any module; its train/eval state is restored afterwards.
        sites: from `find_sites(model)`.
        batches: inputs by keyword; tensors are moved to the model's device.
        baseline: `analytic` or `monte_carlo`, see `nfn.expected_gain`.
        seed: of the baseline.
        advance: called with the number of sequences after each batch.

    Raises:
        MeasurementError: NaN or infinity, or a single sequence that does not fit in memory.
        DataError: there is no batch.
    """
    device = sites[0].operator.weight_OI().device
    names: list[str] = []
    sums: list[Floats] = []
    counts: list[Floats] = []
    tokens = halvings = 0
    with evaluating(model), _body(model) as forward:
        with attach(sites, device=device, baseline=baseline, seed=seed) as probe:
            for batch in batches:
                pending = [batch]
                while pending:
                    current = pending.pop()
                    try:
                        part = _measure_batch(forward, probe, current, device)
                    except Exception as error:
                        if not _out_of_memory(error):
                            raise
                        pending += reversed(_halved(current, error))
                        halvings += 1
                        continue
                    names += current.names
                    sums.append(part[0])
                    counts.append(part[1])
                    tokens += part[2]
                    advance(len(current.names))
    if not names:
        raise DataError("There is no batch to score. Give at least one text or batch.")
    order = np.argsort(np.array(names), kind="stable")
    return Measured(
        names=tuple(names[index] for index in order),
        sums_SN=np.concatenate(sums, axis=1)[:, order],
        counts_SN=np.concatenate(counts, axis=1)[:, order],
        tokens=tokens,
        unassignable=frozenset(probe.unassignable),
        halvings=halvings,
    )


def _measure_batch(
    forward: Callable[..., None], probe: Probe, batch: Batch, device: torch.device
) -> tuple[Floats, Floats, int]:
    inputs = {
        key: value.to(device) if isinstance(value, torch.Tensor) else value
        for key, value in batch.inputs.items()
    }
    masks = tuple(
        inputs[key].bool()
        for key in ("attention_mask", "decoder_attention_mask")
        if isinstance(inputs.get(key), torch.Tensor) and inputs[key].ndim == 2
    )
    counted = sum(int(batch.inputs[key].sum()) for key in _MASKS if key in batch.inputs)
    if not masks and isinstance(inputs.get("input_ids"), torch.Tensor):
        masks = (torch.ones_like(inputs["input_ids"], dtype=torch.bool),)
        counted = inputs["input_ids"].numel()
    probe.begin(Layout(len(batch.names), masks))
    try:
        forward(**inputs)
    except IndexError as error:
        raise MeasurementError(
            f"The model refused a batch: {error}. Either a text is longer than the model has "
            "positions (try a smaller --max-length), or the tokenizer is not the model's own."
        ) from error
    sums_SB, counts_SB = probe.finish()
    return sums_SB, counts_SB, counted


_MASKS = ("attention_mask", "decoder_attention_mask")


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the block in eval and inference mode, then give each module its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _body(model: nn.Module) -> Iterator[Callable[..., None]]:
    """Yield what runs the model up to its output head.

    Most models keep the body under `base_model`. Where they do not (T5), the full model runs and
    is stopped at the door of its output head.
    """
    body: nn.Module = model.base_model if isinstance(model, PreTrainedModel) else model
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    fixed: dict[str, Any] = {}
    if "use_cache" in inspect.signature(body.forward).parameters:
        fixed["use_cache"] = False

    def forward(**inputs: Any) -> None:
        with contextlib.suppress(_HeadReachedError):
            body(**inputs, **fixed)

    def stop(module: nn.Module, arguments: Any) -> None:
        raise _HeadReachedError

    handle = head.register_forward_pre_hook(stop) if isinstance(head, nn.Module) else None
    try:
        yield forward
    finally:
        if handle is not None:
            handle.remove()


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _halved(batch: Batch, error: Exception) -> tuple[Batch, Batch]:
    if len(batch.names) == 1:
        raise MeasurementError(
            "A single sequence does not fit in memory. Use a smaller --max-length, a narrower "
            "--dtype, or another --device."
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return batch.halves()
