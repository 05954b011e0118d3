"""The engine for a model that fits in memory: run its body on batches with the hooks attached.

Only the body runs, without the output head and without a key-value cache, in eval mode
without gradients. A batch that does not fit in memory is halved, and the run continues.

Shape letters: B batch, T token, R rows of the probe's buffer, N sequences.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from plop_lora.data.batches import SIDES, Batch
from plop_lora.errors import MeasurementError, PlopError
from plop_lora.models.devices import home_of, sent
from plop_lora.models.memory import is_out_of_memory
from plop_lora.scoring.measurement.collect import BatchPart, Collector, Measured
from plop_lora.scoring.measurement.expected_norm_cache import ExpectedNormCache
from plop_lora.scoring.measurement.experts import experts_measured
from plop_lora.scoring.measurement.hooks import Probe, attach
from plop_lora.scoring.measurement.padding import (
    halves_of,
    is_text,
    padded,
    split_square,
    window_of,
    without_padding,
)
from plop_lora.scoring.measurement.same import unchanged
from plop_lora.scoring.measurement.settings import NFN_ALONE, IndicatorSettings
from plop_lora.scoring.measurement.sums import Floats, Layout
from plop_lora.scoring.sites.find import Site


class _HeadReachedError(Exception):
    """Raised by the hook on the output head, after everything before it has run."""


def measure(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Iterable[Batch],
    *,
    indicators: IndicatorSettings = NFN_ALONE,
    expected_norms: ExpectedNormCache | None = None,
    advance: Callable[[int], None] = lambda rows: None,
    warmup_batch: Batch | None = None,
) -> Measured:
    """Run the batches through the model's body and collect the sites' sums.

    Args:
        model: Any module; its train/eval state is restored afterwards.
        sites: Sites from `find_sites(model)`.
        batches: Inputs by keyword; tensors are moved to the model's device.
        indicators: The indicators to compute for every site.
        expected_norms: Cache of expected norms, to which new ones are added.
        advance: Called after each batch with its number of sequences.
        warmup_batch: Batch of the longest text, which is run first and not counted, so that a lack
            of memory shows at the start.

    Raises:
        MeasurementError: A value is NaN or infinite, or a single sequence does not fit in memory.
        DataError: There is no batch.
    """
    device = home_of(model)
    expected_norms = expected_norms or ExpectedNormCache()
    with (
        evaluating(model),
        body_of(model, sites) as forward,
        attach(
            sites,
            indicators,
            known=expected_norms.known,
            weights=expected_norms.weights,
            encoder=encoder_of(model),
            window=window_of(model),
        ) as probe,  # fmt: skip
        experts_measured(sites, probe),
    ):
        collector = Collector(probe)
        if warmup_batch is not None:
            for _ in _fitting(forward, collector, warmup_batch, device):
                pass
        for batch in batches:
            for part in _fitting(forward, collector, batch, device):
                collector.add(part)
                advance(len(part.names))
    expected_norms.learn(probe.expected_norms())
    return collector.result()


def _fitting(
    forward: Callable[..., None], collector: Collector, batch: Batch, device: torch.device
) -> Iterator[BatchPart]:
    """Measure a batch, if necessary in several pieces, and yield the parts.

    A piece that does not fit in memory is halved, unless the model is sharded over processes,
    which must all run the same batches. If a module mixes the sequences of a batch, this batch and
    all later ones are measured one sequence at a time.
    """
    probe, window = collector.probe, collector.probe.window
    pending = (rows_of(batch) if collector.alone else split_square(batch, window))[::-1]
    while pending:
        current = pending.pop()
        try:
            part = measure_batch(forward, probe, current, device)
        except Exception as error:
            if not is_out_of_memory(error) or probe.in_step:
                raise
            pending += reversed(
                [p for h in halved(current, error) for p in split_square(h, window)]
            )
            collector.halvings += 1
            continue
        if part.found.unassignable and current.can_split():
            pending += reversed(rows_of(current))
            collector.alone = True
            continue
        yield part


def rows_of(batch: Batch) -> list[Batch]:
    """Split a batch into its sequences without padding, if its tensors can be split."""
    if not batch.can_split():
        return [batch]
    return [without_padding(batch.part(row, row + 1)) for row in range(len(batch.names))]


def measure_batch(
    forward: Callable[..., None], probe: Probe, batch: Batch, device: torch.device
) -> BatchPart:
    """Run one batch with the hooks attached and return its sums.

    Raises:
        MeasurementError: The model raises an error on the batch, or a value is NaN or infinite.
    """
    inputs = {
        key: sent(value, device) if isinstance(value, torch.Tensor) else value
        for key, value in batch.inputs.items()
    }
    masks = _masks(batch, probe)
    layout = _layout(batch, masks, probe, device)
    probe.begin(layout)
    try:
        forward(**inputs)
    except IndexError as error:
        raise MeasurementError(
            f"The model refused a batch: {error}. Either a text is longer than the model has "
            "positions (try a smaller --max-length), or the tokenizer is not the model's own."
        ) from error
    except (AttributeError, TypeError, ValueError) as error:  # an input that it lacks
        if probe.in_step or not _is_of_model(error):
            raise
        raise MeasurementError(_refused(error, batch)) from error
    return BatchPart(batch.names, probe.finish(), _lengths(batch, masks), layout.text_only)


def _masks(batch: Batch, probe: Probe, *, read: bool = False) -> dict[str, torch.Tensor]:
    """Return the mask [B, T] of the tokens of encoder and decoder that count.

    It is the batch's text mask, or its attention mask; without either, all places count. With
    `read`, it is the mask of the tokens that the model reads, also special tokens around a text.
    """
    # A decoder without input ids of its own derives them from the labels.
    answers = ("decoder_input_ids", "labels") if probe.encoder else ("decoder_input_ids",)
    masks: dict[str, torch.Tensor] = {}
    for side, names in zip(SIDES, (("input_ids",), answers), strict=True):
        given = batch.inputs.get(side)
        if not read:
            given = batch.text_masks.get(side, given)
        tokens = next((batch.inputs[name] for name in names if name in batch.inputs), None)
        if isinstance(given, torch.Tensor) and given.ndim == 2:
            masks[side] = given.bool()
        elif isinstance(tokens, torch.Tensor) and tokens.ndim == 2:
            masks[side] = torch.ones_like(tokens, dtype=torch.bool)
    return masks


def _layout(
    batch: Batch, masks: dict[str, torch.Tensor], probe: Probe, device: torch.device
) -> Layout:
    of_model, of_encoder = _sent(masks, probe, device)
    layout = Layout(len(batch.names), of_model, of_encoder, is_text(batch))
    if not batch.text_masks:
        return layout
    read, of_encoder = _sent(_masks(batch, probe, read=True), probe, device)
    return replace(layout, read_masks=read, read_encoder_masks=of_encoder)


def _sent(
    masks: dict[str, torch.Tensor], probe: Probe, device: torch.device
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Return the masks of the model and those of its encoder on a device, also with its padding."""
    there = {side: sent(mask_BT, device) for side, mask_BT in masks.items()}
    of_encoder = tuple(mask_BT for side, mask_BT in there.items() if side == SIDES[0])
    of_model = tuple(there.values())
    if probe.window is not None:
        of_encoder += tuple(padded(mask_BT, probe.window) for mask_BT in of_encoder)
        of_model += tuple(padded(mask_BT, probe.window) for mask_BT in there.values())
    return of_model, of_encoder


def _lengths(batch: Batch, masks: dict[str, torch.Tensor]) -> Floats:
    """Return the number of tokens of each sequence in encoder and decoder, [2, B]."""
    lengths_2B = np.zeros((len(SIDES), len(batch.names)))
    for index, side in enumerate(SIDES):
        if side in masks and len(masks[side]) == len(batch.names):
            lengths_2B[index] = masks[side].sum(dim=1).cpu().numpy()
    return lengths_2B


def _is_of_model(error: BaseException) -> bool:
    """Return whether an error was raised outside this package, by the model."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    package = __name__.partition(".")[0]
    module = "" if frame is None else frame.tb_frame.f_globals.get("__name__", "")
    return not isinstance(error, PlopError) and module.partition(".")[0] != package


def _refused(error: Exception, batch: Batch) -> str:
    reason = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
    return (
        f"The model refused a batch of {', '.join(batch.inputs)} ({type(error).__name__}: "
        f"{reason}). If it reads one text at a time, give --batch-size 1. If it needs more, such "
        "as images or sound, score what its processor returns: plop.score(model, batches=…)."
    )


def encoder_of(model: nn.Module) -> nn.Module | None:
    """Return the encoder of an encoder-decoder, or None if there is none or it is not exposed."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return None
    encoder: nn.Module | None = getattr(model, "get_encoder", lambda: None)()
    return None if encoder is model else encoder


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Use eval mode without gradients inside the `with` block, then restore the model's state.

    Inference mode would not count the changes of a tensor, by which the hooks know whether modules
    that share an input received the same values (`sums.py`).

    A module that was compiled in place runs eagerly meanwhile, because a graph that was compiled
    before the hooks were registered would not call them.
    """
    with unchanged(model):
        model.eval()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield


@contextlib.contextmanager
def body_of(model: nn.Module, sites: Sequence[Site]) -> Iterator[Callable[..., Any]]:
    """Yield a function that runs the model up to its output head, or whole if a site needs that.

    Most models have their body under `base_model`. For those that do not (T5), the full model runs
    and is stopped before its output head. The function returns the output of the body, or the
    input of the head.
    """
    body, head = model, None
    if isinstance(model, PreTrainedModel):
        inside = set(model.base_model.modules())
        if all(site.module in inside for site in sites):
            body, head = model.base_model, model.get_output_embeddings()
    fixed: dict[str, object] = {}
    if "use_cache" in inspect.signature(body.forward).parameters:
        fixed["use_cache"] = False

    def forward(**inputs: object) -> Any:
        try:
            return body(**inputs, **fixed)
        except _HeadReachedError as reached:
            return reached.args

    def stop(module: nn.Module, arguments: tuple[object, ...]) -> None:
        raise _HeadReachedError(*arguments)

    # FSMT reports an embedding as its head: stop only at a head that comes after all sites.
    places = {module: index for index, module in enumerate(model.modules())}
    last = max(places.get(site.module, 0) for site in sites)
    stops = isinstance(head, nn.Module) and places.get(head, 0) > last
    handle = head.register_forward_pre_hook(stop) if stops and head is not None else None
    try:
        yield forward
    finally:
        if handle is not None:
            handle.remove()


def halved(batch: Batch, error: BaseException) -> tuple[Batch, Batch]:
    """Return both halves of a batch that did not fit in memory.

    Raises:
        MeasurementError: The batch cannot be split.
    """
    if not batch.can_split():
        raise MeasurementError(
            "A single sequence, or a batch that cannot be split, does not fit in memory. Use a "
            "smaller --max-length or batch, a narrower --dtype, or another --device."
        ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return halves_of(batch)
