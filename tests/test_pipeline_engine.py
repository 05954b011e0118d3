"""The engine of the pipeline on stages that compute little: once each, and whole or not at all.

Needs no torch.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import until

from plop_lora.errors import OutputError, RecordError, UsageError
from plop_lora.pipeline.asked import RunRecipe
from plop_lora.pipeline.folder import DONE, MARK, is_busy
from plop_lora.pipeline.run import plan_stages, run_stages
from plop_lora.pipeline.stage import Stage, Work
from plop_lora.pipeline.start import stands
from plop_lora.records.run import (
    PipelineRun,
    RunVerdict,
    StageEstimate,
    StageOutcome,
    StageState,
)
from plop_lora.reports.page import read_records
from plop_lora.reports.pipeline import run_table

NAMES = ("read", "double", "judge")


def recipe(**values: object) -> RunRecipe:
    return RunRecipe({"model": "m", "start": 2, "limit": 9, **values}, "the recipe r.yaml")


def stages(calls: list[str], *, slow: float = 0.0) -> list[Stage]:
    """Return three stages: a number, its double and whether that is below a limit."""

    def made(name: str, compute: Callable[[Work], int]) -> Callable[[Work], None]:
        def work(work: Work) -> None:
            calls.append(name)
            time.sleep(slow)
            (work.folder / "half").write_text("half")
            time.sleep(slow)
            (work.folder / "value.json").write_text(json.dumps(compute(work)))
            (work.folder / "half").unlink()

        return work

    def before(work: Work, name: str) -> int:
        return int(json.loads((work.made[name] / "value.json").read_text()))

    def outcome(folder: Path) -> StageOutcome:
        value = json.loads((folder / "value.json").read_text())
        return StageOutcome(words=f"it is {value}")

    def judged(folder: Path) -> StageOutcome:
        below = json.loads((folder / "value.json").read_text())
        verdict = RunVerdict.CONFIRMED if below else RunVerdict.GATE_FAILED
        return StageOutcome(words=str(below), verdict=verdict)

    def deciding(*keys: str) -> Callable[[RunRecipe], dict[str, object]]:
        return lambda recipe: {key: recipe.document[key] for key in keys}

    first = Stage(
        name="read", version=1, needs=(), deciding=deciding("start"),
        inputs=lambda recipe: {"data": str(recipe.document.get("data"))},
        work=made("read", lambda work: work.recipe.document["start"]),
        outcome=outcome, result="value.json",
    )  # fmt: skip
    second = replace(
        first, name="double", needs=("read",), deciding=deciding(), inputs=lambda recipe: {},
        work=made("double", lambda work: 2 * before(work, "read")),
    )  # fmt: skip
    third = replace(
        second, name="judge", needs=("double",), deciding=deciding("limit"),
        work=made("judge", lambda work: before(work, "double") < work.recipe.document["limit"]),
        outcome=judged,
    )  # fmt: skip
    return [first, second, third]


def states(record: PipelineRun) -> list[str]:
    return [str(stage.state) for stage in record.stages]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    """A run that is started again would train for hours once more."""
    calls: list[str] = []
    first = run_stages(stages(calls), recipe(), tmp_path / "run")
    again = run_stages(stages(calls), recipe(), tmp_path / "run")
    assert calls == list(NAMES)
    assert states(first) == ["done"] * 3
    assert states(again) == ["reused"] * 3
    assert first.exit_code == again.exit_code == 0
    assert [one.outcome for one in first.stages] == [one.outcome for one in again.stages]
    assert PipelineRun.load(tmp_path / "run" / "pipeline.json") == again


@pytest.mark.parametrize(
    ("change", "made"),
    [
        ({"limit": 3}, ["judge"]),
        ({"start": 4}, [*NAMES]),
        ({"data": "other"}, [*NAMES]),
        ({"unrelated": 1}, []),
    ],
)
def test_a_change_reruns_what_depends_on_it(
    tmp_path: Path, change: dict[str, object], made: list[str]
) -> None:
    """Another margin of the gate would train again, or other data would keep an old verdict."""
    calls: list[str] = []
    run_stages(stages(calls), recipe(), tmp_path)
    calls.clear()
    planned = plan_stages(stages(calls), recipe(**change), tmp_path)
    assert calls == []
    assert [one.stage for one in planned.stages if one.state is StageState.OPEN] == made
    run_stages(stages(calls), recipe(**change), tmp_path)
    assert calls == made
    calls.clear()
    run_stages(stages(calls), recipe(), tmp_path)
    assert calls == [], "the results of before are kept"


def test_the_verdict_is_the_gravest_and_has_its_exit_code(tmp_path: Path) -> None:
    record = run_stages(stages([]), recipe(limit=1), tmp_path)
    assert record.verdict is RunVerdict.GATE_FAILED
    assert record.exit_code == 3
    codes = {str(one): replace(record, stages=()).exit_code for one in ("open",)}
    assert codes == {"open": 0}


def test_a_plan_says_what_has_changed(tmp_path: Path) -> None:
    """A user would not know why hours of training are asked for again."""
    first = plan_stages(stages([]), recipe(), tmp_path / "run")
    assert {one.reason for one in first.stages} == {"it was not run yet"}
    assert not (tmp_path / "run").exists()
    run_stages(stages([]), recipe(), tmp_path / "run")
    planned = plan_stages(stages([]), recipe(start=3, limit=5), tmp_path / "run")
    assert [one.reason for one in planned.stages] == [
        "start is 3 and was 2",
        "read has changed",
        "double has changed; limit is 5 and was 9",
    ]
    newer = [replace(stage, version=2) for stage in stages([])[:1]]
    (only,) = plan_stages(newer, recipe(), tmp_path / "run").stages
    assert only.reason == "this version of plop-lora computes it otherwise"


def test_a_plan_says_what_a_stage_would_take_once_it_can_be_known(tmp_path: Path) -> None:
    takes = StageEstimate(seconds=120, source="its plan", money=0.5, currency="EUR")

    def estimate(work: Work) -> StageEstimate:
        asked.append((work.made["read"] / "value.json").read_text())
        return takes

    asked: list[str] = []
    read, double, judge = stages([])
    timed = [read, replace(double, estimate=estimate), judge]
    assert [one.estimate for one in plan_stages(timed, recipe(), tmp_path).stages] == [None] * 3
    run_stages(timed, recipe(), tmp_path, until="read")
    assert asked == [], "a run that goes on has no use for it"
    planned = plan_stages(timed, recipe(), tmp_path)
    assert [one.estimate for one in planned.stages] == [None, takes, None]
    assert asked == ["2"]
    table = run_table(planned)
    assert table.rows[1][-1] == "to be run: it was not run yet (about 2 min, 0.50 EUR, its plan)"
    assert "To come: about 2 min, 0.50 EUR; the time of judge is not known yet." in table.lines


def test_a_stage_that_was_made_before_takes_as_long_as_then(tmp_path: Path) -> None:
    run_stages(stages([]), recipe(), tmp_path)
    (done,) = tmp_path.glob("stages/judge-*/DONE")
    done.write_text(json.dumps({**json.loads(done.read_text()), "seconds": 90.0}))
    changed = plan_stages(stages([]), recipe(limit=5), tmp_path).stages
    assert changed[2].estimate == StageEstimate(seconds=90.0, source="the last time")
    assert [one.estimate for one in changed[:2]] == [None, None], "what is done takes nothing"
    done.write_text("{")
    assert plan_stages(stages([]), recipe(limit=5), tmp_path).stages[2].estimate is None


def test_until_and_from(tmp_path: Path) -> None:
    calls: list[str] = []
    partly = run_stages(stages(calls), recipe(), tmp_path, until="double")
    assert calls == ["read", "double"]
    assert partly.verdict is RunVerdict.OPEN
    calls.clear()
    run_stages(stages(calls), recipe(), tmp_path, redo="double")
    assert calls == ["double", "judge"]
    with pytest.raises(UsageError, match=r"--until dubble.*'double'"):
        run_stages(stages(calls), recipe(), tmp_path, until="dubble")
    with pytest.raises(UsageError, match=r"--from judge comes after --until read.*read, double"):
        run_stages(stages(calls), recipe(), tmp_path, until="read", redo="judge")
    with pytest.raises(UsageError, match=r"--from x: this run has no such stage"):
        plan_stages(stages(calls), recipe(), tmp_path, redo="x")


def test_a_run_waits_for_what_its_user_has_to_do(tmp_path: Path) -> None:
    """Stages after an adapter that is not there yet would fail."""
    first, second, third = stages([])
    waiting = replace(
        second, outcome=lambda folder: StageOutcome(words="written", waiting="train, then go on")
    )
    record = run_stages([first, waiting, third], recipe(), tmp_path)
    assert record.waiting == "train, then go on"
    assert states(record) == ["done", "done", "open"]


def test_files_that_were_edited_are_named(tmp_path: Path) -> None:
    """A verdict would rest on a number that somebody has typed."""
    record = run_stages(stages([]), recipe(), tmp_path)
    edited = tmp_path / record.stages[1].result
    before = edited.read_text()
    edited.write_text("7")
    with pytest.raises(RecordError, match=r"double-.*value\.json has changed since"):
        run_stages(stages([]), recipe(), tmp_path)
    edited.unlink()
    with pytest.raises(RecordError, match=r"value\.json of a finished stage cannot be read"):
        plan_stages(stages([]), recipe(), tmp_path)
    edited.write_text(before)
    assert states(run_stages(stages([]), recipe(), tmp_path)) == ["reused"] * 3
    done = tmp_path / record.stages[1].folder / DONE
    for text in ("{", "[]", '{"key": 1}', json.dumps(json.loads(done.read_text()) | {"key": "0"})):
        done.write_text(text)
        with pytest.raises(RecordError, match=r"DONE (is damaged|belongs to another)"):
            run_stages(stages([]), recipe(), tmp_path)


@pytest.mark.parametrize("key", ["folder", "result"])
@pytest.mark.parametrize("place", ["/etc/hostname", "../elsewhere", "stages/../../x"])
def test_a_run_reads_nothing_outside_of_its_folder(tmp_path: Path, key: str, place: str) -> None:
    """A folder of a run may come from somebody else."""
    run_stages(stages([]), recipe(), tmp_path / "run")
    path = tmp_path / "run" / "pipeline.json"
    document = json.loads(path.read_text())
    del document["digest"]  # as whoever edits it would
    document["stages"][0][key] = place
    path.write_text(json.dumps(document))
    read = {"folder": stands, "result": lambda folder: read_records([folder])}[key]
    with pytest.raises(RecordError, match="outside of the run"):
        read(tmp_path / "run")


def test_a_stage_that_fails_leaves_the_others_done(tmp_path: Path) -> None:
    first, second, third = stages([])

    def fails(work: Work) -> None:
        (work.folder / "half").write_text("half")
        raise OutputError("no space")

    with pytest.raises(OutputError, match="no space"):
        run_stages([first, replace(second, work=fails), third], recipe(), tmp_path)
    calls: list[str] = []
    planned = plan_stages(stages(calls), recipe(), tmp_path)
    assert states(planned) == ["reused", "partly done", "open"]
    assert states(stands(tmp_path)) == ["done", "open", "open"]
    run_stages(stages(calls), recipe(), tmp_path)
    assert calls == ["double", "judge"]


def test_a_full_disk_at_any_write_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of a run that is synced may be the one for which there is no space."""
    whole = run_stages(stages([]), recipe(), tmp_path / "whole")
    sync, refused = os.fsync, list[str]()
    for room in itertools.count():
        left = [room]

        def full(handle: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(handle)

        root = tmp_path / str(room)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            try:
                run_stages(stages([]), recipe(), root)
            except OutputError as error:
                refused.append(str(error))
            else:
                break
        again = run_stages(stages([]), recipe(), root)
        assert [one.key for one in again.stages] == [one.key for one in whole.stages]
        assert [one.outcome for one in again.stages] == [one.outcome for one in whole.stages]
    assert len(refused) >= 3 * len(NAMES), "a recipe, and three files of every stage"
    assert all("the disk is full" in text for text in refused)


def test_a_moved_folder_goes_on(tmp_path: Path) -> None:
    run_stages(stages([]), recipe(), tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert stands(tmp_path / "b").folder == str(tmp_path / "b")
    assert states(run_stages(stages([]), recipe(), tmp_path / "b")) == ["reused"] * 3


def test_folders_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    """The files of the user would lie among those of a run."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="something else than a run"):
        run_stages(stages([]), recipe(), own)
    with pytest.raises(UsageError, match="is a file"):
        run_stages(stages([]), recipe(), own / "thesis.tex")
    for document, said in (
        ('{"kind": "plop-run", "format": 2}', "newer plop-lora"),
        ('{"kind": "plop-run"}', "newer plop-lora"),
        ("{", "is damaged"),
    ):
        (own / MARK).write_text(document)
        with pytest.raises(RecordError, match=said):
            plan_stages(stages([]), recipe(), own)
    (own / MARK).write_text('{"verb": "verify"}')
    with pytest.raises(UsageError, match="another verb"):
        run_stages(stages([]), recipe(), own)


_RUN = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_pipeline_engine import recipe, run_stages, stages
print("ready", flush=True)
run_stages(stages([], slow={slow}), recipe(), Path({folder!r}))
"""


def started(folder: Path, slow: float) -> subprocess.Popen[str]:
    code = _RUN.format(tests=str(Path(__file__).parent), slow=slow, folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def ended(process: subprocess.Popen[str], how: signal.Signals) -> None:
    process.send_signal(how)
    process.communicate()


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """Both would write the same files."""
    process = started(tmp_path, slow=600)
    try:
        until((tmp_path / MARK).exists)
        with pytest.raises(UsageError, match="Another plop run works in"):
            run_stages(stages([]), recipe(), tmp_path)
        assert is_busy(tmp_path)
    finally:
        ended(process, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """Half of a stage would be taken for the whole, or finished stages would be lost."""
    whole = run_stages(stages([]), recipe(), tmp_path / "whole")
    draw = random.Random(0)
    for number in range(20):
        folder = tmp_path / str(number)
        process = started(folder, slow=0.05)
        time.sleep(draw.uniform(0, 0.4))
        ended(process, signal.SIGKILL)
        done = run_stages(stages([]), recipe(), folder)
        assert [(one.key, one.outcome, one.folder) for one in done.stages] == [
            (one.key, one.outcome, one.folder) for one in whole.stages
        ]
        assert not list(folder.rglob("half"))
