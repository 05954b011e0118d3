"""What every runner of trials keeps to, the planted one of the tests as well; each check can fail.

A check takes a runner and an empty folder. `BROKEN` has a runner for each that it must catch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pretend
import pytest
from builders import PlantedTrials, trial_result, trial_spec

from plop_lora.recipe import RUNNERS, Runner
from plop_lora.records import TrialResult, TrialSpec
from plop_lora.training.runners.events import FINISHED, RUNNING, WAITING, Event, RunTrials, ignore
from plop_lora.training.runners.run import run_trials
from plop_lora.training.trial import find_result, trial_folder

TWO = Runner(workers=2)
QUICK = {"learning_rate": 0.001}
"""Seconds that a step of the stand-in for a trial takes."""


def results_come_in_the_order_of_the_specs(run: RunTrials, root: Path) -> None:
    """The first to end is not the first asked for; a result under another's name decides wrong."""
    specs = [trial_spec(seed=n, learning_rate=rate) for n, rate in enumerate((0.2, 0.001, 0.001))]
    results = run(specs, root, TWO)
    assert [result.spec_digest for result in results] == [spec.digest() for spec in specs]
    assert [result.metrics["loss"] for result in results] == pytest.approx([1.0, 1.1, 1.2])


def a_failing_trial_takes_no_other_with_it(run: RunTrials, root: Path) -> None:
    specs = [trial_spec(arm, seed=n, **QUICK) for n, arm in enumerate(("good", "fails", "good"))]
    results = run(specs, root, TWO)
    assert [result.done for result in results] == [True, False, True]
    assert results[1].cause == "the loss is NaN"
    assert results[1].metrics == {}


def a_spec_given_twice_runs_once_and_a_finished_one_never_again(run: RunTrials, root: Path) -> None:
    first, second = trial_spec(seed=1, **QUICK), trial_spec(seed=2, **QUICK)
    seen: list[Event] = []
    before = run([first, second, first], root, TWO, watch=seen.append)
    assert before[0] == before[2]
    assert run([second, first], root, TWO, watch=seen.append) == (before[1], before[0])
    started = sorted(event.spec.seed for event in seen if event.state == RUNNING)
    assert started == [1, 2]


def results_are_kept_in_the_folders_of_the_trials(run: RunTrials, root: Path) -> None:
    """Another process, or a later one, reads what a trial came to."""
    spec = trial_spec(**QUICK)
    (result,) = run([spec], root, TWO)
    folder = trial_folder(root, spec)
    assert find_result(folder, spec) == result
    assert TrialSpec.load(folder / "spec.json") == spec


def events_tell_waiting_running_finished_in_that_order(run: RunTrials, root: Path) -> None:
    """The live table counts on each state once, and on no run of a trial that was found."""
    specs = [trial_spec(seed=n, **QUICK) for n in range(3)]
    run(specs[:1], root, TWO)
    seen: list[Event] = []
    run(specs, root, TWO, watch=seen.append)
    assert [event.state for event in seen[:3]] == [WAITING] * 3
    states = {spec.seed: [e.state for e in seen if e.spec == spec] for spec in specs}
    assert states[0] == [WAITING, FINISHED]
    assert states[1] == states[2] == [WAITING, RUNNING, FINISHED]
    assert all((event.result is not None) == (event.state == FINISHED) for event in seen)
    assert {event.folder for event in seen} == {trial_folder(root, spec) for spec in specs}


def planted(spec: TrialSpec, root: Path) -> TrialResult:
    """What comes of the stand-in for a trial as well."""
    return trial_result(spec, None if spec.arm == "fails" else 1 + spec.seed / 10)


@pytest.fixture(
    params=[
        "planted",
        *(
            pytest.param(
                kind,
                marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
                if kind == "ray"  # Its own warnings differ by version.
                else [],
            )
            for kind in RUNNERS
        ),
    ]
)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunTrials]:
    """Every runner in turn: those of the registry on the stand-in for a trial."""
    if request.param == "planted":
        yield PlantedTrials(planted)
        return
    if request.param == "ray":
        pytest.importorskip("ray")
        request.getfixturevalue("ray_cluster")
    command = pretend.command(tmp_path)

    def of_kind(specs: Sequence[TrialSpec], root: Path, runner: Runner, **options: object):
        there = runner.model_copy(update={"kind": request.param})
        return run_trials(specs, root, there, command=command, **options)

    yield of_kind


def _shuffled(specs, root, runner, **options):
    return PlantedTrials(planted)(specs, root, runner, **options)[::-1]


def _sinking(specs, root, runner, **options):
    results = PlantedTrials(planted)(specs, root, runner, **options)
    return tuple(result for result in results if not result.done)


def _forgetful(specs, root, runner, *, watch=ignore):
    for spec in specs:
        watch(Event(spec, root, RUNNING))
    return tuple(planted(spec, root) for spec in specs)


def _silent(specs, root, runner, *, watch=ignore):
    return PlantedTrials(planted)(specs, root, runner)


BROKEN: dict[Callable[[RunTrials, Path], None], RunTrials] = {
    results_come_in_the_order_of_the_specs: _shuffled,
    a_failing_trial_takes_no_other_with_it: _sinking,
    a_spec_given_twice_runs_once_and_a_finished_one_never_again: _forgetful,
    results_are_kept_in_the_folders_of_the_trials: _forgetful,
    events_tell_waiting_running_finished_in_that_order: _silent,
}
each_check = functools.partial(
    pytest.mark.parametrize, argvalues=BROKEN, ids=lambda check: check.__name__
)


@each_check("check")
def test_every_runner(check: Callable[[RunTrials, Path], None], run: RunTrials, tmp_path) -> None:
    check(run, tmp_path / "run")


@each_check("check")
def test_a_broken_runner_is_caught(check: Callable[[RunTrials, Path], None], tmp_path) -> None:
    with pytest.raises(AssertionError):
        check(BROKEN[check], tmp_path / "run")
