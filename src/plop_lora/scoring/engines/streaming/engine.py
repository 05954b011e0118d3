"""The engine for a model larger than memory: all batches run through one block, then the next.

The model's own forward runs once per batch, all of them in lockstep (`lockstep.py`), while a
thread reads the next block (`checkpoint.py`). Memory holds two blocks, the hidden states of all
batches and the weights outside the blocks, whatever the depth. Scores are bit-identical to those of
the engine in `in_memory.py`, because the same products are computed from the same numbers.

A model that cannot be run this way is loaded whole instead, and the record gets a note.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from torch import nn

from plop_lora.data.batches import Batch
from plop_lora.models.capacity import available_memory
from plop_lora.models.memory import is_out_of_memory
from plop_lora.scoring.engines import in_memory as memory
from plop_lora.scoring.engines.in_memory import (
    body_of,
    encoder_of,
    evaluating,
    halved,
    measure_batch,
)
from plop_lora.scoring.engines.streaming.activation_offload import ActivationOffload
from plop_lora.scoring.engines.streaming.checkpoint import Checkpoint
from plop_lora.scoring.engines.streaming.lockstep import (
    Call,
    CallResult,
    Pass,
    intercepted_calls,
    run_in_lockstep,
)
from plop_lora.scoring.engines.streaming.skeleton import UnstreamableError
from plop_lora.scoring.measurement.collect import BatchPart, Collector, Measured
from plop_lora.scoring.measurement.expected_norm_cache import ExpectedNormCache
from plop_lora.scoring.measurement.experts import experts_measured
from plop_lora.scoring.measurement.hooks import Probe, attach
from plop_lora.scoring.measurement.padding import split_square, window_of
from plop_lora.scoring.measurement.settings import NFN_ALONE, IndicatorSettings
from plop_lora.scoring.measurement.sums import BatchSums
from plop_lora.scoring.sites.find import Site

PASSES = 256
"""Number of batches that run in lockstep; for each further group, the model is read again."""
_UNKNOWN_MEMORY = 1 << 33


def measure(
    checkpoint: Checkpoint,
    sites: Sequence[Site],
    batches: Iterable[Batch],
    *,
    indicators: IndicatorSettings = NFN_ALONE,
    expected_norms: ExpectedNormCache | None = None,
    advance: Callable[[int], None] = lambda rows: None,
    warmup_batch: Batch | None = None,
    offload: ActivationOffload | None = None,
) -> Measured:
    """Run the batches through a model on disk and collect the sites' sums.

    Each call reads the weights once, so a single call should receive all batches.

    Args:
        checkpoint: Checkpoint of the model.
        sites: Sites from `find_sites(checkpoint.model)`.
        batches: Inputs by keyword.
        indicators: The indicators to compute for every site.
        expected_norms: Cache of expected norms, to which new ones are added.
        warmup_batch: Not used while streaming, where a lack of memory shows in the first block
            and costs a second reading for the batch concerned.
        advance: Called with numbers of sequences that add up to their total.
        offload: Storage of the hidden states between blocks, which is closed at the end. By
            default they may take half of the free memory, and a temporary file beyond it.

    Raises:
        MeasurementError: A value is NaN or infinite, or a single sequence does not fit in memory.
        DataError: There is no batch.
        ModelError: A weights file is damaged.
    """
    given = list(batches)
    expected_norms = expected_norms or ExpectedNormCache()
    if offload is None:
        offload = ActivationOffload((available_memory() or _UNKNOWN_MEMORY) // 2)
    bar = _Bar(advance, given, len(checkpoint.modules))
    try:
        encoder = encoder_of(checkpoint.model)
        with attach(
            sites, indicators, known=expected_norms.known, weights=expected_norms.weights,
            encoder=encoder, window=window_of(checkpoint.model),
        ) as probe:  # fmt: skip
            measured = _streamed(checkpoint, probe, given, bar, offload)
        expected_norms.learn(probe.expected_norms())
    except UnstreamableError as reason:
        model = checkpoint.materialise()
        measured = memory.measure(
            model,
            sites,
            given,
            indicators=indicators,
            expected_norms=expected_norms,
            warmup_batch=warmup_batch,
        )
        measured = dataclasses.replace(measured, notes=(loaded_whole(reason),))
    finally:
        checkpoint.close()
    bar.finish()
    return measured


def loaded_whole(reason: UnstreamableError) -> str:
    """Return the note of a record whose model could not be streamed."""
    return f"the model was loaded whole and not streamed: {reason}"


def _streamed(
    checkpoint: Checkpoint,
    probe: Probe,
    batches: list[Batch],
    bar: _Bar,
    offload: ActivationOffload,
) -> Measured:
    with (
        evaluating(checkpoint.model),
        body_of(checkpoint.model, probe.sites) as forward,
        experts_measured(probe.sites, probe),
        intercepted_calls(checkpoint.streamed_modules),
        _Prefetcher(checkpoint) as loader,
        contextlib.closing(offload),
    ):
        collector = Collector(probe)
        pending = batches
        while pending:
            group, pending = pending[:PASSES], pending[PASSES:]
            if collector.alone:
                group = [row for batch in group for row in memory.rows_of(batch)]
            group = [part for batch in group for part in split_square(batch, probe.window)]
            passes = [Pass(_job(forward, probe, batch, checkpoint)) for batch in group]
            observer = _Observer(probe, offload, checkpoint, bar)
            with _explained_meta():
                run_in_lockstep(passes, loader, observer, lambda error: not is_out_of_memory(error))
            pending = [*_again(collector, group, passes), *pending]
    return dataclasses.replace(collector.result(), engine="stream")


def _job(
    forward: Callable[..., None], probe: Probe, batch: Batch, checkpoint: Checkpoint
) -> Callable[[], object]:
    def job() -> BatchPart:
        # Blocks run in the scheduler's thread, in which embeddings are not intercepted.
        with checkpoint.embedding_rows():
            return measure_batch(forward, probe, batch, checkpoint.device)

    return job


def _again(collector: Collector, group: list[Batch], passes: list[Pass]) -> list[Batch]:
    """Collect the measurements of a group, and return the batches to run again, split up.

    The rules are those of the engine in memory: a batch that did not fit is halved, and from the
    first batch whose sequences a module mixes, sequences run one at a time.
    """
    again: list[Batch] = []
    for batch, one in zip(group, passes, strict=True):
        if one.error is not None:
            again += halved(batch, one.error)
            collector.halvings += 1
            continue
        collector.alone |= bool(one.result.found.unassignable) and batch.can_split()
        if collector.alone and batch.can_split():
            again += memory.rows_of(batch)
        else:
            collector.add(one.result)
    return again


@contextlib.contextmanager
def _explained_meta() -> Iterator[None]:
    """Turn the error of a model that uses a block's weights outside the block into our own."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"\bmeta\b", str(error), re.IGNORECASE):
            raise
        raise UnstreamableError("it uses weights of a block without calling it") from error


class _Prefetcher:
    """Loads one block at a time, while a thread reads the next one."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plop-lora-reader")
        self._after = dict(itertools.pairwise(checkpoint.modules))
        self._current: nn.Module | None = None
        self._ahead: tuple[nn.Module, Future[None]] | None = None

    def __enter__(self) -> _Prefetcher:
        # The first block is read while the batches run up to it.
        self._fetch(self._checkpoint.modules[0])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._drop()
        self._leave()
        self._thread.shutdown()

    @contextlib.contextmanager
    def loaded(self, block: nn.Module) -> Iterator[None]:
        """Load the weights of a block, which stay in memory until another block is loaded."""
        if block is not self._current:
            self._leave()
            if self._ahead is None or self._ahead[0] is not block:
                self._fetch(block)
            assert self._ahead is not None
            _, read = self._ahead
            read.result()
            self._ahead, self._current = None, block
        if block in self._after:
            self._fetch(self._after[block])
        yield

    def prefetch(self, block: nn.Module) -> None:
        """Start to read the block that comes next, if it is not the one already being read."""
        if self._current is not None and block is not self._current:
            self._after[self._current] = block
            self._fetch(block)

    def _fetch(self, block: nn.Module) -> None:
        if self._ahead is not None and self._ahead[0] is block:
            return
        self._drop()
        self._ahead = (block, self._thread.submit(self._checkpoint.load, block))

    def _drop(self) -> None:
        """Wait for a read that is no longer needed, and free its weights."""
        if self._ahead is not None:
            block, read = self._ahead
            read.exception()
            self._checkpoint.free(block)
            self._ahead = None

    def _leave(self) -> None:
        if self._current is not None:
            self._checkpoint.free(self._current)
            self._current = None


class _Bar:
    """Progress in sequences; each call of a block is a fraction of a sequence."""

    def __init__(self, advance: Callable[[int], None], batches: list[Batch], blocks: int) -> None:
        self._advance = advance
        self._total = sum(len(batch.names) for batch in batches)
        self._calls = max(1, len(batches) * blocks)
        self._made = self._shown = 0

    def step(self) -> None:
        """Count a call of a block; passes that run again do not move the bar past its end."""
        self._made += 1
        self._show(min(self._total, self._total * self._made // self._calls))

    def finish(self) -> None:
        """Fill the bar."""
        self._show(self._total)

    def _show(self, rows: int) -> None:
        if rows > self._shown:
            self._advance(rows - self._shown)
            self._shown = rows


class _Observer:
    """Selects the sums of the pass that runs, and offloads the hidden states of waiting passes."""

    def __init__(
        self, probe: Probe, offload: ActivationOffload, checkpoint: Checkpoint, bar: _Bar
    ) -> None:
        self._probe = probe
        self._offload = offload
        self._checkpoint = checkpoint
        self._bar = bar
        self._sums: dict[int, BatchSums | None] = {}

    @contextlib.contextmanager
    def running(self, index: int) -> Iterator[None]:
        """Let the hooks write to the sums of a pass."""
        self._probe.current = self._sums.get(index)
        try:
            yield
        finally:
            self._sums[index] = self._probe.current
            self._probe.current = None

    def on_wait(self, index: int, call: Call) -> None:
        """Offload hidden states above the limit, and release mapped pages outside the blocks."""
        self._offload.offload(index, (call.arguments, call.options))
        self._checkpoint.release_outside()

    def on_call(self, index: int, call: Call) -> None:
        """Read the hidden states of a pass back into memory."""
        self._offload.restore(index)

    def on_result(self, index: int, call_result: CallResult) -> None:
        """Record the tensors that a block has returned, and advance the progress bar."""
        self._offload.record_output(index, call_result.output)
        self._bar.step()
