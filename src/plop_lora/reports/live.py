"""Running trials: a live table on a terminal, and otherwise one line per finished trial.

Everything is written to stderr. The output is a pure function of a `State`, which a `LiveBoard`
makes from the events of a runner and from the `curve.jsonl` of running trials.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from plop_lora.escapes import escaped
from plop_lora.recipe import Price
from plop_lora.records import TrialResult, TrialSpec
from plop_lora.records.trial import CONFIRM, FINAL, LADDER, SEARCH, UNTRAINED, Phase
from plop_lora.reports.costs import duration, money
from plop_lora.reports.rows import Column, Table, shown, sparkline
from plop_lora.training.runners.events import FINISHED, RUNNING, WAITING, ArmEnded, Event, Watch
from plop_lora.training.tasks import metric_of, task_named

CURVE = "curve.jsonl"
REFRESH_SECONDS = 0.5
WIDTH = 8
"""The width of a curve in a cell, in characters."""
MARKS = {WAITING: "·", RUNNING: "▸"}
PHASES = {LADDER: "learning-rate ladder", SEARCH: "search", CONFIRM: "confirmation",
          UNTRAINED: "untrained model", FINAL: "final finetune"}  # fmt: skip
"""The names of the phases in plans and ledgers."""
RATES = (LADDER, SEARCH)
"""Phases in which trials of one seed differ by their learning rate."""
_LISTED = 5
_TAIL_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """The state of a trial: its losses (or rewards) so far, and its result once it has ended."""

    spec: TrialSpec
    state: str = WAITING
    curve: tuple[float, ...] = ()
    result: TrialResult | None = None

    @property
    def column(self) -> str:
        """The heading of its column: the learning rate if that is being chosen, else the seed."""
        spec = self.spec
        return f"{spec.learning_rate:.2g}" if spec.phase in RATES else f"seed {spec.seed}"


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All trials in the order they came, and the sums over them.

    `left` is the estimated remaining time in seconds, None until a trial is finished.
    `device_seconds` is the device time so far, and `accelerator` says whether it is that of
    accelerators (None until a trial is finished). `hourly` is the price of a device-hour. `ended`
    says which arms are trained no further, and why.
    """

    trials: tuple[Trial, ...]
    elapsed: float = 0.0
    left: float | None = None
    device_seconds: float = 0.0
    accelerator: bool | None = None
    hourly: float | None = None
    currency: str = "USD"
    ended: tuple[str, ...] = ()


def rows(state: State) -> Table:
    """Return a table of the current phase: a row per arm, and a column per seed or learning rate.

    If most cells would be empty, or one would hold two trials, each trial has its own row.
    """
    if not state.trials:
        return Table("Trials", (Column("arm"),), (), ())
    phase = _current_phase(state.trials)
    trials = [trial for trial in state.trials if trial.spec.phase == phase]
    title = f"Trials, {PHASES[phase]}: {_finished(trials)} of {len(trials)} finished"
    lines = (_legend(trials), *_failures(trials), *state.ended, *_sums(state))
    arms = dict.fromkeys(trial.spec.arm for trial in trials)
    names = dict.fromkeys(trial.column for trial in _by_column(trials))
    cells = {(trial.spec.arm, trial.column): cell(trial) for trial in trials}
    if len(cells) < len(trials) or 2 * len(cells) <= len(arms) * len(names):
        each = tuple((trial.spec.arm, trial.column, cell(trial)) for trial in trials)
        return Table(title, (Column("arm"), Column("run"), Column("state")), each, lines)
    grid = tuple((arm, *(cells.get((arm, name), "") for name in names)) for arm in arms)
    columns = (Column("arm"), *(Column(name, starts=True) for name in names))
    return Table(title, columns, grid, lines)


def _current_phase(trials: Sequence[Trial]) -> Phase:
    """Return the phase of the first unfinished trial, or of the last trial."""
    unfinished = (trial for trial in trials if trial.state != FINISHED)
    return next(unfinished, trials[-1]).spec.phase


def _by_column(trials: Sequence[Trial]) -> list[Trial]:
    def key(trial: Trial) -> float:
        return trial.spec.learning_rate if trial.spec.phase in RATES else trial.spec.seed

    return sorted(trials, key=key)


def _finished(trials: Sequence[Trial]) -> int:
    return sum(trial.state == FINISHED for trial in trials)


def cell(trial: Trial) -> str:
    """Return the symbol, curve and latest logged value of a trial, or its metric at the end."""
    bars = _bars(trial.curve)
    if trial.result is not None:
        text = outcome(trial.result)
        named = f"{trial.result.metric} {text}" if trial.result.done else text
        return " ".join(filter(None, (_mark(trial.result), bars, named)))
    latest = f"{_logged(trial.spec)} {_number(trial.curve[-1])}" if trial.curve else ""
    return " ".join(filter(None, (MARKS[trial.state], bars, latest)))


def _logged(spec: TrialSpec) -> str:
    """Return the name of the value that a trial logs during training."""
    return "reward" if task_named(spec.task).samples else "train loss"


def _legend(trials: Sequence[Trial]) -> str:
    spec = trials[0].spec
    metric = metric_of(spec)
    return (
        f"{MARKS[WAITING]} waiting, {MARKS[RUNNING]} running, ✓ done, ✗ failed. Bars: "
        f"{_logged(trials[0].spec)} from the start; at the end {metric} on the evaluation rows."
    )


def _mark(result: TrialResult) -> str:
    return "✓" if result.done else "✗"


def outcome(result: TrialResult) -> str:
    """Return the metric that decides, or that the trial failed."""
    value = result.metrics.get(result.metric)
    return _number(value) if result.done and value is not None else "failed"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1000 else f"{value:.3f}"


def _bars(curve: Sequence[float]) -> str:
    return sparkline(curve, (min(curve), max(curve)), WIDTH) if len(curve) > 1 else ""


def _failures(trials: Sequence[Trial]) -> list[str]:
    failed = [(t, t.result) for t in trials if t.result is not None and not t.result.done]
    lines = [f"✗ {t.spec.arm}, {t.column}: {result.cause}" for t, result in failed[:_LISTED]]
    more = len(failed) - _LISTED
    return [*lines, f"✗ {more} more"] if more > 0 else lines


def _sums(state: State) -> list[str]:
    over = _finished(state.trials) == len(state.trials)
    left = "" if over or state.left is None else f", {to_go(state.left)}"
    lines = [f"{duration(state.elapsed)} so far{left}."]
    if state.device_seconds and state.accelerator is not None:
        what = "GPU" if state.accelerator else "CPU"
        paid = ""
        if state.hourly is not None:
            amount = money(state.device_seconds / 3600 * state.hourly)
            paid = f", {amount} {state.currency} at {money(state.hourly)} a device-hour"
        lines.append(f"{what} time so far: {duration(state.device_seconds)}{paid}.")
    return lines


def to_go(seconds: float) -> str:
    """Return the remaining time in words, which the last trials may exceed."""
    return f"about {duration(seconds)} to go" if seconds >= 1 else "the last trials take longer"


class LiveBoard:
    """Collects events, which one thread writes while it runs trials and another reads to draw."""

    def __init__(
        self,
        specs: Sequence[TrialSpec] = (),
        *,
        device_seconds: float = 0.0,
        price: Price | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with the planned trials and the device time that was spent before."""
        self._lock = threading.Lock()
        self._clock = clock
        self._start = clock()
        self._before = device_seconds
        self._price = price or Price()
        self._trials = {spec.digest(): Trial(spec) for spec in specs}
        self._folders: dict[str, Path] = {}
        self._began: dict[str, float] = {}
        self._done_before: dict[str, float] = {}
        self._ended: list[str] = []
        self._at_once = 1

    def __call__(self, event: Event | ArmEnded) -> None:
        """Take note of an event."""
        if isinstance(event, ArmEnded):
            with self._lock:
                self._ended.append(ended_line(event))
            return
        digest = event.spec.digest()
        with self._lock:
            if self._is_finished(digest):
                return
            self._folders[digest] = event.folder
            if event.state == RUNNING:
                self._began[digest] = self._clock()
                self._done_before[digest] = share_done(event.folder, event.spec)
            curve = () if event.state == WAITING else read_curve(event.folder, event.spec.task)
            self._trials[digest] = Trial(event.spec, event.state, curve, event.result)
            under_way = sum(trial.state == RUNNING for trial in self._trials.values())
            self._at_once = max(self._at_once, under_way)

    def knows(self, event: Event) -> bool:
        """Whether the trial of an event has finished before: the next phase asks for it again."""
        with self._lock:
            return self._is_finished(event.spec.digest())

    def _is_finished(self, digest: str) -> bool:
        return digest in self._trials and self._trials[digest].state == FINISHED

    def state(self) -> State:
        """Return the current state, reading the curves of running trials again."""
        with self._lock:
            for digest, trial in self._trials.items():
                if trial.state == RUNNING:
                    curve = read_curve(self._folders[digest], trial.spec.task)
                    self._trials[digest] = Trial(trial.spec, RUNNING, curve)
            ran = [
                trial.result.cost
                for digest, trial in self._trials.items()
                if digest in self._began and trial.result is not None
            ]
            return State(
                trials=tuple(self._trials.values()),
                elapsed=self._clock() - self._start,
                left=self._left(),
                device_seconds=self._before + sum(c.wall_seconds * c.devices for c in ran),
                accelerator=any(cost.accelerator for cost in ran) if ran else None,
                hourly=self._price.hourly,
                currency=self._price.currency,
                ended=tuple(self._ended),
            )

    def _left(self) -> float | None:
        """Estimate the remaining seconds from the mean of finished trials and the parallelism."""
        seconds: dict[str, list[float]] = {}
        for trial in self._trials.values():
            if trial.result is not None and trial.result.done:
                seconds.setdefault(trial.spec.phase, []).append(trial.result.cost.wall_seconds)
        trials = self._trials.values()
        if any(trial.spec.phase == FINAL and trial.state != FINISHED for trial in trials):
            return self._left_of_final()
        every = [value for values in seconds.values() for value in values]
        if not every:
            return None
        total = 0.0
        for digest, trial in self._trials.items():
            if trial.state != FINISHED:
                alike = seconds.get(trial.spec.phase, every)
                began = self._began.get(digest)
                passed = 0.0 if began is None else self._clock() - began
                total += max(0.0, sum(alike) / len(alike) - passed)
        return total / self._at_once

    def _left_of_final(self) -> float | None:
        """Estimate the remaining seconds of a final finetune from the steps that it has taken."""
        for digest, trial in self._trials.items():
            if trial.spec.phase == FINAL and trial.state == RUNNING:
                before = self._done_before[digest]
                share = share_done(self._folders[digest], trial.spec)
                if share > before:
                    passed = self._clock() - self._began[digest]
                    return passed * (1 - share) / (share - before)
        return None

    def line(self, event: Event) -> str:
        """Return the line of a finished trial, for a log."""
        result, spec = event.result, event.spec
        assert result is not None
        with self._lock:
            trials = tuple(self._trials.values())
            left = self._left()
        text, phase = f"{result.metric} {outcome(result)}", PHASES[spec.phase]
        what = text if result.done else f"failed: {result.cause}"
        rest = f"; {to_go(left)}" if left is not None and _finished(trials) < len(trials) else ""
        return (
            f"[{_finished(trials)}/{len(trials)}] {spec.arm}, {phase}, seed {spec.seed}, "
            f"rate {spec.learning_rate:.2g}: {what}, {duration(result.cost.wall_seconds)}{rest}"
        )


def ended_line(event: ArmEnded) -> str:
    """Return the line of an arm that is trained no further."""
    return f"{event.arm}: {event.why}"


def share_done(folder: Path, spec: TrialSpec) -> float:
    """Return the share of a training that its curve says is done, from 0 to 1."""
    key, whole = ("epoch", spec.training.epochs)
    if spec.training.steps is not None:
        key, whole = "step", float(spec.training.steps)
    rows = _logged_rows(folder)
    done = rows[-1].get(key) if rows else None
    return min(1.0, done / whole) if isinstance(done, int | float) else 0.0


def read_curve(folder: Path, task: str) -> tuple[float, ...]:
    """Return the losses (for grpo, rewards) that a trial has logged, without an incomplete line.

    The result is empty if there is no curve yet. Values that are not finite are left out.
    """
    key = "reward" if task_named(task).samples else "loss"
    values = (row.get(key) for row in _logged_rows(folder))
    return tuple(
        float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)
    )


def _logged_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the complete rows at the end of a curve; none where there is no curve yet."""
    try:
        with open(folder / CURVE, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    rows: list[dict[str, Any]] = []
    for line in lines:
        with contextlib.suppress(ValueError):
            row: Any = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


@contextlib.contextmanager
def live(
    specs: Sequence[TrialSpec] = (),
    *,
    device_seconds: float = 0.0,
    price: Price | None = None,
    console: Console | None = None,
) -> Iterator[Watch]:
    """Yield a function to which a runner reports events, and show them on stderr inside the block.

    Args:
        specs: Trials that are planned; trials of other events are added.
        device_seconds: Device time that was spent before, such as on an earlier phase.
        price: Price of a device-hour, for the cost so far.
        console: Console to draw on, by default stderr.
    """
    console = console or Console(stderr=True)
    board = LiveBoard(specs, device_seconds=device_seconds, price=price)
    if not console.is_terminal or console.is_dumb_terminal or not _draws_bars(console):
        yield _printed_lines(board, console)
        return
    with Live(
        get_renderable=lambda: drawn(shown(rows(board.state()))),
        console=console,
        refresh_per_second=1 / REFRESH_SECONDS,
    ):
        yield board


def _draws_bars(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")


def _printed_lines(board: LiveBoard, console: Console) -> Watch:
    def tell(event: Event | ArmEnded) -> None:
        if isinstance(event, ArmEnded):
            board(event)
            print(escaped(ended_line(event)), file=console.file or sys.stderr, flush=True)
        elif not board.knows(event):
            board(event)
            if event.state == FINISHED:
                print(escaped(board.line(event)), file=console.file or sys.stderr, flush=True)

    return tell


def drawn(table: Table) -> RenderableType:
    """Return the table for rich; cells are never folded, a narrow terminal cuts them."""
    grid = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        grid.add_column(column.name, no_wrap=True, justify="right" if column.right else "left")
    for row in table.rows:
        grid.add_row(*(Text(text) for text in row))
    lines = (Text(line) for line in table.lines)
    return Group(Text(table.title, style="bold"), Text(), grid, Text(), *lines)
