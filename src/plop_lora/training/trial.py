"""One trial: a spec becomes a result, in a folder of its own.

    root/<arm, seed, phase and the first 16 letters of the spec's digest>/
        spec.json     the specification
        curve.jsonl   every row that the trainer logs, written as it comes
        adapter/      the trained adapter in PEFT's format
        checkpoints/  of a spec that asks for them; see `checkpoints` and `resuming`
        result.json   written last: a folder that holds one is complete and is never run again

A trial that was killed has no result and starts again, from its last complete checkpoint or from
the beginning. With checkpoints the adapter is written after the evaluation, so that a folder with
an adapter has one that could be evaluated. An error that the user
can correct (a changed data file, a wrong option) or that is due to the machine (a full disk, too
little memory, a missing library) is raised and leaves no result either. A failure of the trial
itself (a loss that became NaN, an error in training) is its result.

Imports torch only when something has to be trained. Knows only the names of the tasks.
"""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from plop_lora.errors import MachineError, PlopError, RecordError, UsageError
from plop_lora.evaluation.judged import Judged, Prepared, Row
from plop_lora.files import remove_abandoned
from plop_lora.launcher import is_first_process, process_count, settled
from plop_lora.models.memory import is_out_of_memory
from plop_lora.records import TrialResult, TrialSpec
from plop_lora.records.trial import DONE, FAILED, UNTRAINED
from plop_lora.training import resources
from plop_lora.training.checkpoints import (
    checkpoints_for,
    find_last,
    judged_selection,
    remove_later,
    state_of,
)
from plop_lora.training.curve import Curve, DivergedError, learning_curve, plain_row
from plop_lora.training.folder import (
    ADAPTER,
    RESULT,
    SPEC,
    check_no_links,
    check_space,
    trial_folder,
)
from plop_lora.training.learning import not_whole, unmoved, unrewarded
from plop_lora.training.machine import is_of_machine
from plop_lora.training.memory import release_memory, smaller_batch
from plop_lora.training.rows import check_rows, read_general, read_rows, read_selection
from plop_lora.training.task import Checkpoints, Session, Task, Trained
from plop_lora.training.tasks import check_judged, check_metric, metric_of, task_named
from plop_lora.training.weights import check_weights

if TYPE_CHECKING:
    from plop_lora.training.adapters import Factors


def write_spec(root: Path, spec: TrialSpec) -> Path:
    """Write the spec of a trial into its folder and return the file's path.

    Raises:
        RecordError: The folder holds another spec.
        OutputError: The folder cannot be written.
    """
    return _claim(trial_folder(root, spec), spec)


def find_result(folder: Path, spec: TrialSpec) -> TrialResult | None:
    """Return the result in a folder, or None if the trial has not finished.

    Raises:
        RecordError: The result is damaged, or it belongs to another spec.
    """
    path = Path(folder) / RESULT
    if not path.exists():
        return None
    result = TrialResult.load(path)
    if result.spec_digest != spec.digest():
        raise RecordError(
            f"{path} is the result of another trial ({result.arm}, seed {result.seed}, spec "
            f"{result.spec_digest[:16]}). Give this one a folder of its own: --folder DIR."
        )
    return result


def run_trial(
    spec: TrialSpec,
    folder: Path,
    *,
    root: Path | None = None,
    report_to: Sequence[str] = (),
    batch_size: int | None = None,
) -> TrialResult:
    """Train and evaluate one placement, or return its existing result.

    Under a launcher such as torchrun every process trains and returns, but only the first writes.

    Args:
        spec: Specification of the trial.
        folder: Folder for the files of the trial, which the docstring of this module describes.
        root: Folder to which the paths of the data are relative, by default `folder`.
        report_to: Names of trackers that transformers supports.
        batch_size: Batch size smaller than the spec's, after an attempt that lacked memory. The
            number of accumulated batches is increased accordingly.

    Returns:
        The result, whose `status` is `done`, or `failed` with a `cause`.

    Raises:
        PlopError: An error that the user can correct. No result is written.
    """
    folder = Path(folder)
    found = find_result(folder, spec)
    if found is not None:
        return found
    task = task_named(spec.task)
    check_weights(spec)
    if is_first_process():
        _claim(folder, spec)
        remove_abandoned(folder)
        check_space(folder, spec)
    rows = _read(task, spec, folder if root is None else Path(root))
    progress = _Progress(spec, folder, tuple(report_to))
    if batch_size is not None:
        _shrink(progress, batch_size)
    with settled() as notes:
        progress.notes += notes
        result = _run(spec, progress, rows)
    if is_first_process():
        result.save(folder / RESULT)
    return result


def _claim(folder: Path, spec: TrialSpec) -> Path:
    """Write the spec into a folder that has none; reject a folder that holds another spec."""
    check_no_links(folder)
    path = folder / SPEC
    if not path.exists():
        return spec.save(path)
    there = TrialSpec.load(path)
    if there.digest() != spec.digest():
        raise RecordError(
            f"{path} is another trial ({there.arm}, seed {there.seed}, spec "
            f"{there.digest()[:16]}). Give this one a folder of its own: --folder DIR."
        )
    return path


# --------------------------------------------------------------------------- the work


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The rows of the files of a trial; of the general text and the selection there may be none."""

    train: Sequence[Row]
    judged: Sequence[Row]
    general: Sequence[Row]
    selection: Sequence[Row]


def _read(task: Task, spec: TrialSpec, root: Path) -> _Rows:
    """Read and check the rows of all files."""
    data = spec.data
    found = _Rows(
        train=read_rows(root / data.train, data.train_sha256, limit=data.rows),
        judged=read_rows(root / data.evaluation, data.evaluation_sha256),
        general=read_general(task, spec, root),
        selection=read_selection(spec, root),
    )
    check_rows(task, spec, found.train, data.train)
    check_rows(task, spec, found.judged, data.evaluation)
    check_rows(task, spec, found.selection, data.selection or "")
    check_judged(task, spec, found.judged, data.evaluation)
    return found


@dataclass
class _Progress:
    """The current state of a trial, from which its result is made, also after a failure.

    `spec` is the specification as it runs now, with smaller batches after a lack of memory.
    """

    spec: TrialSpec
    folder: Path
    report_to: tuple[str, ...]
    parameters: int = 0
    dtype: str = ""
    last_log: dict[str, object] = field(default_factory=dict)
    curve: Curve | None = None
    judged: Judged = field(default_factory=lambda: Judged({}, {}))
    notes: list[str] = field(default_factory=list)
    nothing_learned: tuple[str, ...] = ()
    trained: Trained = field(default_factory=lambda: Trained(0, 0, {}))


def _run(spec: TrialSpec, progress: _Progress, rows: _Rows) -> TrialResult:
    from plop_lora.training.adapters import check_adapters
    from plop_lora.training.base import trial_device

    check_adapters(spec)
    device = trial_device(spec.training.device)
    with resources.measured(device) as meter:
        try:
            _work(progress, meter, rows)
            cause = None
        except PlopError:
            raise
        except DivergedError as error:
            cause = str(error)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            if is_of_machine(error):
                raise MachineError(_cause(error)) from error
            cause = _cause(error)
        cost = meter.cost(device, progress.trained.tokens)
    return TrialResult.of_spec(
        spec,
        status=DONE if cause is None else FAILED,
        cause=cause,
        metric=metric_of(spec),
        metrics=dict(progress.judged.metrics),
        items={name: tuple(values) for name, values in progress.judged.items.items()},
        trainable_parameters=progress.parameters,
        batch_size=progress.spec.training.batch_size,
        cost=cost,
        versions=resources.versions(*task_named(spec.task).packages),
        notes=tuple(progress.notes),
        last_log=progress.last_log or (progress.curve.last if progress.curve else {}),
        dtype=progress.dtype,
        nothing_learned=(*progress.nothing_learned, *progress.judged.doubts),
        rows_dropped=progress.trained.rows_dropped,
        rows_cut=progress.trained.rows_cut,
        general_tokens=progress.judged.general_tokens,
        steps=progress.trained.steps if spec.checkpoints else 0,
        best_step=progress.trained.best_step,
        curve=learning_curve(progress.curve.rows) if progress.curve else None,
    )


def _cause(error: Exception) -> str:
    first = (str(error).strip().splitlines() or ["no message"])[0]
    kind = "out of memory" if is_out_of_memory(error) else type(error).__name__
    return f"{kind}: {first}"


def _work(progress: _Progress, meter: resources.Meter, rows: _Rows) -> None:
    """Train, save the adapter and evaluate; the adapter that ships is evaluated first."""
    prepared, initial = _train_fitting(progress, meter, rows)
    if progress.spec.checkpoints is None:
        _save(progress, prepared, initial)
    _judge_fitting(progress, meter, prepared, rows)
    if progress.spec.checkpoints is not None:
        _save(progress, prepared, initial)


def _save(progress: _Progress, prepared: Prepared, initial: Factors) -> None:
    from plop_lora.training.adapters import save_adapter

    if is_first_process():
        save_adapter(prepared.model, progress.folder / ADAPTER, initial)


def _train_fitting(
    progress: _Progress, meter: resources.Meter, rows: _Rows
) -> tuple[Prepared, Factors]:
    """Train, and after an out-of-memory error once more with smaller batches."""
    try:
        with meter.part(resources.TRAIN):
            return _trained(progress, rows)
    except Exception as error:
        if not _halve_training(progress, error):
            raise
    # Out of the except block, whose traceback holds the model that did not fit.
    release_memory()
    with meter.part(resources.TRAIN):
        return _trained(progress, rows)


def _judge_fitting(
    progress: _Progress, meter: resources.Meter, prepared: Prepared, rows: _Rows
) -> None:
    """Evaluate, and after an out-of-memory error once more with smaller batches."""
    try:
        with meter.part(resources.EVALUATE):
            _judge(progress, prepared, rows)
        return
    except Exception as error:
        if not _halve_evaluation(progress, error):
            raise
    release_memory()
    with meter.part(resources.EVALUATE):
        _judge(progress, prepared, rows)


def _trained(progress: _Progress, rows: _Rows) -> tuple[Prepared, Factors]:
    """Return the trained model, and the factors that its adapters began with."""
    from plop_lora.evaluation.precision import dtype_of
    from plop_lora.training import adapters

    spec = progress.spec
    init = spec.placement.settings.init
    task = task_named(spec.task)
    prepared = adapters.prepare(spec, rows.train)
    progress.notes += prepared.notes
    progress.parameters = adapters.adapter_parameters(prepared.model)
    progress.dtype = dtype_of(prepared.model)
    initial = adapters.initial_factors(prepared.model, init)
    judge = partial(judged_selection, task, spec, prepared, rows.selection)
    checkpoints = checkpoints_for(task, spec, progress.folder, len(rows.train), judge)
    log = progress.curve = _curve(progress, checkpoints)
    session = Session(
        progress.folder, log, spec.training.batch_size, progress.report_to, checkpoints
    )  # fmt: skip
    trained = progress.trained = task.train(spec, prepared, rows.train, session)
    progress.last_log = plain_row(trained.last_log)
    progress.notes += not_whole(
        len(rows.train), trained.rows_dropped, trained.rows_cut, spec.training.max_length
    )
    if spec.phase != UNTRAINED:
        progress.nothing_learned = (*unmoved(prepared.model), *unrewarded(log.rows))
    return prepared, initial


def _curve(progress: _Progress, checkpoints: Checkpoints | None) -> Curve:
    """Return the curve, which goes on where the training resumes."""
    if checkpoints is None:
        return Curve(progress.folder)
    found = find_last(checkpoints.folder)
    progress.notes += found.notes
    if found.last is None:
        upto = 0
    else:
        upto = int(state_of(found.last)["global_step"])
        progress.notes.append(f"resumed from the checkpoint of step {upto}")
    if is_first_process():
        remove_later(checkpoints.folder, found.last)
    return Curve(progress.folder, upto=upto)


def _judge(progress: _Progress, prepared: Prepared, rows: _Rows) -> None:
    """Evaluate the trained model. Metrics that are not finite are dropped.

    Raises:
        DivergedError: The metric that decides is NaN, infinite or missing.
    """
    spec, metric = progress.spec, metric_of(progress.spec)
    task = task_named(spec.task)
    check_metric(task, metric)
    judged = task.judge(spec, prepared, rows.judged, general=rows.general)
    metrics = {name: float(value) for name, value in judged.metrics.items()}
    items = {name: tuple(map(float, values)) for name, values in judged.items.items()}
    bad = {name for name, value in metrics.items() if not math.isfinite(value)}
    bad |= {name for name, values in items.items() if not all(map(math.isfinite, values))}
    progress.judged = Judged(
        {name: values for name, values in items.items() if name not in bad},
        {name: value for name, value in metrics.items() if name not in bad},
        () if spec.phase == UNTRAINED else judged.doubts,
        general_tokens=judged.general_tokens,
    )
    progress.notes += judged.notes
    progress.notes += [f"{name} of the evaluation rows is not finite" for name in sorted(bad)]
    if metric in bad:
        raise DivergedError(f"{metric} of the evaluation rows became NaN or infinite")
    if metric not in metrics:
        raise DivergedError(
            f"the evaluation gave no {metric}; it gave: {', '.join(metrics) or 'nothing'}"
        )


# --------------------------------------------------------------------------- memory


def _halve_training(progress: _Progress, error: Exception) -> bool:
    """Halve the batch size, double the accumulation, and return whether to try again.

    With several processes there is no second attempt, since the others would wait for ever.
    """
    settings = progress.spec.training
    smaller = smaller_batch(settings.batch_size)
    if smaller is None or not is_out_of_memory(error) or process_count() > 1:
        return False
    _shrink(progress, smaller)
    return True


def _shrink(progress: _Progress, smaller: int) -> None:
    """Train with smaller batches from now on, and add a note.

    Raises:
        UsageError: The size is not a divisor, so that a step would use other rows.
    """
    settings = progress.spec.training
    if smaller < 1 or settings.batch_size % smaller:
        raise UsageError(
            f"--batch-size {smaller} does not divide the spec's {settings.batch_size}, so that a "
            f"step would use other rows. Give {smaller_batch(settings.batch_size) or 1}."
        )
    more = settings.accumulation * (settings.batch_size // smaller)
    progress.notes.append(
        f"memory did not suffice for batches of {settings.batch_size}; trained with "
        f"{smaller} and {more} batches a step"
    )
    training = replace(settings, batch_size=smaller, accumulation=more)
    progress.spec = replace(progress.spec, training=training)


def _halve_evaluation(progress: _Progress, error: Exception) -> bool:
    settings = progress.spec.evaluation
    smaller = smaller_batch(settings.batch_size)
    if smaller is None or not is_out_of_memory(error):
        return False
    progress.notes.append(
        f"memory did not suffice to evaluate {settings.batch_size} rows at once; took {smaller}"
    )
    progress.spec = replace(progress.spec, evaluation=replace(settings, batch_size=smaller))
    return True
