"""Run the trials of the study on this machine until the time is over, and pack their records.

One pair of model and data after another, the shortest first, several trials at once. Records of
earlier runs that lie in the results are put back first, so that no trial is made twice. While
trials run, their records are packed every few seconds into `study.jsonl`, which has a row for each:
`{"pair": …, "path": …, "record": …}`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results import ROOT, options_of

from plop_lora.files import atomic_file

EXPERIMENTS = ROOT / "scripts" / "experiments"
STUDY = EXPERIMENTS / "study.py"
PACKED = "study.jsonl"
EVERY = 5.0
"""Seconds between two packings."""
ENDING = 12
"""Seconds that a study gets to end after its own limit."""
LEAST = 20
"""Seconds below which no pair is begun."""


def pairs_of(data: Path) -> list[str]:
    """Return the pairs that are prepared, the shortest first."""
    sys.path.insert(0, str(EXPERIMENTS))
    from pairs import PAIRS

    there = [pair for pair in PAIRS.values() if (data / pair.name / "scores.json").exists()]
    return [pair.name for pair in sorted(there, key=lambda pair: pair.order)]


def records_in(folder: Path) -> Iterator[dict[str, Any]]:
    """Go through the records of all pairs; one that is being written is left for later."""
    for path in sorted(folder.glob("*/**/*.json")):
        try:
            record = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        pair, _, place = path.relative_to(folder).as_posix().partition("/")
        yield {"pair": pair, "path": place, "record": record}


def pack(folder: Path, results: Path) -> int:
    """Write the records of all pairs into one file, and return how many there are."""
    rows = [json.dumps(row) for row in records_in(folder)]
    if rows:
        with atomic_file(results / PACKED) as file:
            file.writelines(f"{row}\n" for row in rows)
    return len(rows)


def unpack(packed: Path, folder: Path) -> int:
    """Put the records of an earlier run back where they were, and return how many were not there.

    Raises:
        SystemExit: a row would be written outside the folder.
    """
    count = 0
    for line in packed.read_text("utf-8").splitlines():
        row = json.loads(line)
        path = folder / row["pair"] / row["path"]
        if not path.resolve().is_relative_to(folder.resolve()):
            raise SystemExit(f"{packed} names {row['path']}, which is outside {folder}.")
        if not path.exists():
            with atomic_file(path) as file:
                json.dump(row["record"], file)
            count += 1
    return count


def run(pair: str, options: argparse.Namespace, seconds: float) -> int:
    """Run a pair for some seconds and return its exit status."""
    records = options.work / "study"
    records.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, str(STUDY), "run", pair, "--workers", str(options.workers),
        "--seconds", str(int(seconds)), "--device", options.device,
        "--results", str(records), "--models", str(options.models),
    ]  # fmt: skip
    print(f"{pair}: {int(seconds)} s, {options.workers} at once", flush=True)
    latest = time.monotonic() + seconds + ENDING
    process = subprocess.Popen(command, cwd=ROOT, process_group=0)
    try:
        while process.poll() is None and time.monotonic() < latest:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=min(EVERY, max(0.1, latest - time.monotonic())))
            pack(records, options.results)
    finally:
        end(process)
        count = pack(records, options.results)
    print(f"{pair}: {count} records of all pairs, exit status {process.returncode}", flush=True)
    return process.returncode


def end(process: subprocess.Popen[bytes]) -> None:
    """End a study, and whatever it has started."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=3)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    """Run as many pairs as there is time for."""
    parser = options_of(__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="for all pairs together")
    parser.add_argument("--workers", type=int, default=8, help="trials at once")
    parser.add_argument("--data", type=Path, default=ROOT / "build" / "study")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--earlier", type=Path, help="a folder with results of earlier runs")
    options = parser.parse_args()
    # A stop from outside ends the trials and packs what is there, as the end of the time does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started, failed = time.monotonic(), []
    pairs = pairs_of(options.data)
    if not STUDY.exists() or not pairs:
        print(f"No trials: {options.data} holds no pair, or {STUDY} is not there.")
        return
    for packed in sorted((options.earlier or options.results).rglob(PACKED)):
        print(f"{unpack(packed, options.work / 'study')} records are put back from {packed}")
    for pair in pairs:
        left = options.seconds - (time.monotonic() - started) - ENDING
        if left < LEAST:
            print(f"{pair}: left out, no time")
            continue
        if run(pair, options, left):
            failed.append(pair)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
