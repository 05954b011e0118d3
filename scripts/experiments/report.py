"""From finished verifications to a Markdown section with tables, correlations and curves.

    python scripts/experiments/report.py build/sft/verification.json … --output build/report

For each `verification.json` the trials are looked for in its folder (`--trials` names another):
every folder below it with a trial's result, and beside that `curve.jsonl`. Written are `report.md`
and one SVG of curves a verification: thin lines are seeds, thick ones their mean; each point is the
mean of the last `--window` logged rows.

NFN against gain is Spearman's rho over trials. All trials of an arm have the NFN of its placement,
so they are not exchangeable one by one: p is from permuting the NFN over arms, all orders where
there are few, 20,000 random ones otherwise. Gain is the metric minus that of the untrained model
(`--base`), turned so that more is better; the base moves the column of gains and not rho.

Measures nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from plop_lora.records import TrialResult, Verification
from plop_lora.records.trial import CONFIRM, higher_is_better

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from drawing import Line, Panel, draw  # noqa: E402

LOSS = "loss"
CURVES = {"sft": (LOSS,), "classify": (LOSS,), "grpo": ("reward",)}
"""What is drawn of a task's logged rows."""
SIZE = (640, 380)
_MOST_ORDERS = 20_000
_MARKER = '{"kind": "trial-result"'


@dataclass(frozen=True)
class Trial:
    """A finished trial with what its trainer logged."""

    result: TrialResult
    rows: tuple[dict[str, Any], ...]


def read_trials(root: Path) -> list[Trial]:
    """Return the trials that ended with numbers below a folder, by arm, seed and rate."""
    trials = []
    for path in sorted(root.rglob("*.json")):
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.read(len(_MARKER)) != _MARKER:
                continue
        result = TrialResult.load(path)
        if result.done:
            trials.append(Trial(result, tuple(_rows(path.parent / "curve.jsonl"))))
    return sorted(trials, key=lambda t: (t.result.arm, t.result.seed, t.result.learning_rate))


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield json.loads(line)


# --------------------------------------------------------------------------- correlation


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho over trials, with p from permutations of whole arms."""

    rho: float
    p: float
    trials: int
    arms: int


def correlate(pairs: Sequence[tuple[str, float, float]], seed: int = 0) -> Correlation | None:
    """Correlate NFN with gain.

    Args:
        pairs: arm, its NFN and the gain of one trial.
        seed: of the random orders, where there are too many to try all.

    Returns:
        None where there are fewer than three arms, or nothing varies.

    >>> rising = [("a", 0.9, 3.0), ("b", 1.0, 2.0), ("c", 1.1, 1.0)]
    >>> correlate(rising).rho
    -1.0
    """
    known = {arm: nfn for arm, nfn, _ in pairs}
    arms = sorted(known)
    gains = scipy.stats.rankdata([gain for _, _, gain in pairs])
    places = np.array([arms.index(arm) for arm, _, _ in pairs])
    if len(arms) < 3 or np.ptp(gains) == 0 or len(set(known.values())) < 2:
        return None

    def rho(values: Sequence[float]) -> float:
        ranks = scipy.stats.rankdata(np.array(values)[places])
        return float(np.corrcoef(ranks, gains)[0, 1])

    found = rho([known[arm] for arm in arms])
    values = [known[arm] for arm in arms]
    orders: list[Sequence[float]]
    if math.factorial(len(arms)) <= _MOST_ORDERS:
        orders, extra = list(itertools.permutations(values)), 0
    else:
        rng = random.Random(seed)
        orders, extra = [rng.sample(values, len(values)) for _ in range(_MOST_ORDERS)], 1
    # Equal ranks in another order of summation differ in their last digits.
    as_far = sum(abs(rho(order)) >= abs(found) - 1e-9 for order in orders)
    return Correlation(found, (as_far + extra) / (len(orders) + extra), len(pairs), len(arms))


def gains_of(
    record: Verification, trials: Sequence[Trial], base: float | None
) -> list[tuple[str, float, float]]:
    """Return arm, NFN and gain of every trial whose arm has an NFN."""
    nfn = {arm.arm: arm.nfn for arm in record.arms}
    sign = 1.0 if higher_is_better(record.metric) else -1.0
    return [
        (t.result.arm, known, sign * (t.result.metrics[record.metric] - (base or 0.0)))
        for t in trials
        if (known := nfn.get(t.result.arm)) is not None and record.metric in t.result.metrics
    ]


# --------------------------------------------------------------------------- curves


def panels_of(record: Verification, trials: Sequence[Trial], window: int = 1) -> list[Panel]:
    """Return the panels of a verification's curves; a quantity that nobody logged has none."""
    panels = []
    for quantity in CURVES[record.task]:
        lines: list[Line] = []
        for arm in (row.arm for row in record.arms):
            curves = [
                smoothed(curve, window)
                for trial in trials
                if trial.result.arm == arm and (curve := curve_of(trial.rows, quantity))
            ]
            lines += [Line(arm, curve, faint=True) for curve in curves]
            if curves:
                lines.append(Line(arm, mean_curve(curves), dots=False))
        if lines:
            panels.append(
                Panel(
                    f"{record.task}: {quantity}", "step", quantity, lines, log_up=quantity == LOSS
                )
            )
    return panels


def curve_of(rows: Sequence[dict[str, Any]], quantity: str) -> list[tuple[float, float]]:
    """Return step and quantity of the rows that have both as numbers."""
    return [
        (float(row["step"]), float(row[quantity]))
        for row in rows
        if isinstance(row.get("step"), int | float) and isinstance(row.get(quantity), int | float)
    ]


def smoothed(curve: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Return each point with the mean of itself and those before it, up to `window` of them.

    >>> smoothed([(1, 2.0), (2, 4.0), (3, 6.0)], 2)
    [(1, 2.0), (2, 3.0), (3, 5.0)]
    """
    return [
        (step, statistics.fmean(value for _, value in curve[max(0, end - window) : end]))
        for end, (step, _) in enumerate(curve, start=1)
    ]


def mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the mean over seeds at the steps that all of them logged."""
    tables = [dict(curve) for curve in curves]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    return [(step, statistics.fmean(table[step] for table in tables)) for step in shared]


# --------------------------------------------------------------------------- Markdown


def number(value: float | None, digits: int = 4) -> str:
    """Write a number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}g}"


def arms_table(record: Verification) -> list[str]:
    """Return the table of arms, the shortlist first."""
    lines = [
        "| arm | parameters | rate | mean | by seed | difference (95 %) | p | verdict | NFN |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in sorted(record.arms, key=lambda arm: (arm.arm != record.shortlist, arm.arm)):
        difference = verdict = "–"
        if arm.difference is not None:
            verdict = str(arm.verdict)
            difference = f"{arm.difference:+.4f}"
            if arm.low is not None and arm.high is not None:
                difference += f" ({arm.low:+.4f} to {arm.high:+.4f})"
        lines.append(
            f"| {arm.arm} | {arm.parameters:,} | {number(arm.learning_rate, 2)} | "
            f"{number(arm.mean)} | {', '.join(map(number, arm.values))} | {difference} | "
            f"{number(arm.p, 2)} | {verdict} | {number(arm.nfn, 3)} |"
        )
    return lines


def correlation_lines(
    record: Verification, trials: Sequence[Trial], base: float | None
) -> list[str]:
    """Return the table of NFN against gain: the trials of the report, then all of them."""
    confirmed = [trial for trial in trials if trial.result.phase == CONFIRM]
    lines = ["| trials | rho | n | arms | p | mean gain |", "|---|---|---|---|---|---|"]
    for title, chosen in (("of the report", confirmed), ("all, with the ladder", trials)):
        pairs = gains_of(record, chosen, base)
        found = correlate(pairs) if pairs else None
        mean = None if base is None or not pairs else statistics.fmean(gain for *_, gain in pairs)
        rho, p = (found.rho, found.p) if found else (None, None)
        arms = len({arm for arm, *_ in pairs})
        lines.append(
            f"| {title} | {number(rho, 3)} | {len(pairs)} | {arms} | {number(p, 2)} | "
            f"{number(mean)} |"
        )
    return lines


def section(
    title: str, record: Verification, trials: Sequence[Trial], base: float | None, plot: str | None
) -> str:
    """Return the section of one verification."""
    better = f"; better: {record.better}" if record.better else ""
    more = f"; {record.more}" if record.more else ""
    direction = "higher" if record.higher_is_better else "lower"
    hours = sum(trial.result.cost.wall_seconds for trial in trials) / 3600
    lines = [
        f"## {title}",
        "",
        f"{record.task}, {record.metric} ({direction} is better), margin {record.margin:g}, "
        f"shortlist {record.shortlist}, budget {record.budget:,} parameters; {record.train_rows} "
        f"rows to train, {record.selection_rows} to select, {record.report_rows} to report; seeds "
        f"{', '.join(map(str, record.seeds))}. {len(trials)} trials, {hours:.2f} hours of them."
        + ("" if base is None else f" Untrained: {number(base)}."),
        "",
        f"**{record.verdict}**{better}{more}" + (" (smoke test)" if record.quick else ""),
        "",
        *arms_table(record),
        "",
        "NFN against gain; below 0: lower NFN, more gain.",
        "",
        *correlation_lines(record, trials, base),
        "",
    ]
    if plot:
        lines += [f"![{title}: curves by arm, thin lines are seeds]({plot})", ""]
    lines += [f"- {note}" for note in record.notes]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Read the verifications and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path, nargs="+", help="files of verifications")
    parser.add_argument("--trials", type=Path, action="append", help="one a record, in order")
    parser.add_argument("--title", action="append", help="one a record, in order")
    parser.add_argument("--base", type=float, action="append", help="untrained, one a record")
    parser.add_argument("--window", type=int, default=3, help="logged rows a point of a curve")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    options = parser.parse_args()
    for name in ("trials", "title", "base"):
        given = getattr(options, name)
        if given is not None and len(given) != len(options.records):
            parser.error(f"--{name} is given {len(given)} times for {len(options.records)} records")
    if options.window < 1:
        parser.error(f"--window is {options.window}; 1 or more")
    options.output.mkdir(parents=True, exist_ok=True)
    sections = []
    for order, path in enumerate(options.records):
        record = Verification.load(path)
        trials = read_trials(options.trials[order] if options.trials else path.parent)
        title = options.title[order] if options.title else f"{path.parent.name}: {record.task}"
        confirmed = [trial for trial in trials if trial.result.phase == CONFIRM]
        panels = panels_of(record, confirmed, options.window)
        plot = f"curves-{order + 1}-{record.task}.svg" if panels else None
        if plot:
            note = f"means of the last {options.window} logged rows; thin: seeds, thick: their mean"
            (options.output / plot).write_text(draw(panels, size=SIZE, note=note), "utf-8")
        base = options.base[order] if options.base else None
        sections.append(section(title, record, trials, base, plot))
    (options.output / "report.md").write_text("\n".join(sections), encoding="utf-8")
    print(options.output / "report.md")


if __name__ == "__main__":
    main()
