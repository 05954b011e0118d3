"""What every row fulfils: of exports, servers, strategies, arms, indicators and tasks.

A check says whether it holds for a row, and has a row for which it must not: that is its control.
Whoever adds a row gets all of them. The runners' own contract stands in test_runner_contract.py.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import random
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from builders import trial_spec
from conftest import GOLDEN

import plop_lora as plop
from plop_lora.errors import DataError, ExportError, MissingExtraError, PlopError, UsageError
from plop_lora.exports import SERVERS, TARGETS, lint
from plop_lora.exports.registry import prepare
from plop_lora.exports.target import Target
from plop_lora.gating.check import Check as GateCheck
from plop_lora.gating.checks import CHECKS, GROUPS
from plop_lora.indicators import INDICATORS, OfModels
from plop_lora.indicators.registry import find_indicator
from plop_lora.indicators.signal import Signal
from plop_lora.placement import STRATEGIES
from plop_lora.placement.groups import groups_of
from plop_lora.placement.strategies import End, Request, Strategy, find_strategy
from plop_lora.recipe import RUNNERS, GateSettings, Runner
from plop_lora.records import Placement, Scores
from plop_lora.study.checks import check_trainer
from plop_lora.training.runners.run import KINDS
from plop_lora.training.task import Task
from plop_lora.training.tasks import TASKS, task_named
from plop_lora.verification.arm_rules import ARMS, ArmRequest, ArmRule
from plop_lora.verification.arms import make_arms

DOCS = Path(__file__).parents[1] / "docs" / "how-to"
WORD = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_counter = itertools.count()


@dataclass(frozen=True)
class Check:
    """`holds` is asked of a name and its row; `broken` makes a pair for which it must say no."""

    name: str
    holds: Callable[[str, Any], bool]
    broken: Callable[[str, Any], tuple[str, Any]]


@functools.cache
def scores() -> Scores:
    return Scores.load(GOLDEN / "llama-scores.json")


@functools.cache
def placement() -> Placement:
    return plop.place(scores())


def _page(*names: str) -> str:
    return "".join((DOCS / name).read_text(encoding="utf-8") for name in names)


def _documented(*pages: str, form: str = "`{}`") -> Check:
    """Return the check that a name stands on one of some pages, in this form."""

    def broken(name: str, row: Any) -> tuple[str, Any]:
        return "no-such-name", row

    return Check("documented", lambda name, row: form.format(name) in _page(*pages), broken)


NAMES = (
    Check("listed under its name", lambda name, row: row.name == name,
          lambda name, row: (f"{name}-2", row)),
    Check("a word for the command line", lambda name, row: bool(WORD.fullmatch(name)),
          lambda name, row: ("Two Words", row)),
)  # fmt: skip
TEXTS = (
    Check("says what it is", lambda name, row: bool(row.description.strip()),
          lambda name, row: (name, replace(row, description=" "))),
    Check("says where it is from", lambda name, row: bool(row.source.strip()),
          lambda name, row: (name, replace(row, source=""))),
)  # fmt: skip

# --------------------------------------------------------------------------- exports


def _is_deterministic(name: str, row: Target) -> bool:
    again = Placement.from_dict(placement().to_dict())
    return row.render(placement()) == row.render(again)


def _counts_its_parameters(name: str, row: Target) -> bool:
    made = row.render(placement())
    same = made.trainable_parameters == placement().trainable_parameters
    return same or bool(made.losses)


def _describes_its_file(name: str, row: Target) -> bool:
    try:
        told = row.description.format(file="THE-FILE", folder="THE-FOLDER")
    except (KeyError, IndexError, ValueError):
        return False
    return not re.search(r"[{}]", told)


def _pickles(name: str, row: Target) -> bool:
    """What an export returns goes from one process to another."""
    made = replace(prepare(placement(), to="peft", dry_run=False), target=row)
    try:
        return pickle.loads(pickle.dumps(made)) == made
    except (AttributeError, pickle.PicklingError):
        return False


def _changed(row: Target, **changes: Any) -> Callable[[Placement], Any]:
    return lambda given: replace(row.render(given), **changes)


EXPORTS = (
    *NAMES, *TEXTS,
    _documented("export.md", "export-native.md", form="--to {}"),
    Check("a file name alone", lambda name, row: Path(row.file_name).name == row.file_name,
          lambda name, row: (name, replace(row, file_name="folder/file.yaml"))),
    Check("deterministic", _is_deterministic, lambda name, row: (
        name, replace(row, render=lambda given: replace(row.render(given),
                                                        text=f"{next(_counter)}")))),
    Check("counts its parameters", _counts_its_parameters, lambda name, row: (
        name, replace(row, render=_changed(row, trainable_parameters=1, losses=())))),
    Check("describes its file", _describes_its_file,
          lambda name, row: (name, replace(row, description="Read {path}."))),
    Check("pickles", _pickles,
          lambda name, row: (name, replace(row, render=_changed(row)))),
)  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_of_another_placement_is_refused(name: str) -> None:
    """The read-back is what an export is trusted for; one that takes everything says nothing."""
    row, other = TARGETS[name], plop.place(scores(), top=2)
    row.check(placement(), row.render(placement()))
    with pytest.raises(ExportError):
        row.check(placement(), row.render(other))


# --------------------------------------------------------------------------- strategies


def _request(**values: Any) -> Request:
    return Request(**{"top": 2, "seed": 0, "types": (), "every": tuple(_groups())} | values)


def _groups() -> list[Any]:
    return [group for group in groups_of(scores()) if group.eligible]


def _chosen(row: Strategy, **values: Any) -> list[str]:
    """Return the types that a strategy chooses; `custom` is given the last two."""
    types = tuple(group.type for group in _groups()[-2:]) if row.name == "custom" else ()
    return [group.type for group in row.choose(_groups(), _request(types=types, **values))]


def _chooses_among_the_groups(name: str, row: Strategy) -> bool:
    found, known = _chosen(row), {group.type for group in _groups()}
    return bool(found) and len(set(found)) == len(found) and set(found) <= known


def _takes_what_top_says(name: str, row: Strategy) -> bool:
    numbers = [len(_chosen(row, top=top)) for top in (1, 2, 3)]
    return numbers == [1, 2, 3] if row.uses_top else len(set(numbers)) == 1


def _goes_by_score(name: str, row: Strategy) -> bool:
    """Lowest and highest change places when the order of the groups is turned; no other does."""
    types = tuple(group.type for group in _groups()[-2:])
    turned = row.choose(_groups()[::-1], _request(types=types))
    return (set(_chosen(row)) != {group.type for group in turned}) == row.by_score


def _anything(groups: list[Any], request: Request) -> list[Any]:
    return random.sample(groups, 3)


STRATEGY_CHECKS = (
    *NAMES, *TEXTS, _documented("place.md"),
    Check("chooses among the groups", _chooses_among_the_groups, lambda name, row: (
        name, replace(row, choose=lambda groups, request: groups * 2))),
    Check("deterministic", lambda name, row: len({str(_chosen(row)) for _ in range(20)}) == 1,
          lambda name, row: (name, replace(row, choose=_anything))),
    Check("takes what --top says", _takes_what_top_says,
          lambda name, row: (name, replace(row, uses_top=not row.uses_top))),
    Check("goes by score", _goes_by_score,
          lambda name, row: (name, replace(row, end=None if row.end else End.first))),
)  # fmt: skip

# --------------------------------------------------------------------------- arms, indicators


def _signal(name: str) -> Signal:
    """Return a signal by which the last host is best."""
    values = {host.name: float(index + 1) for index, host in enumerate(scores().hosts)}
    measure = INDICATORS[name].measure
    return Signal(name, values, isinstance(measure, OfModels) and measure.are_ranks, 1.0, 1)


def _placed(row: ArmRule, seed: int = 0, **signals: Signal) -> tuple[str, ...]:
    wanted = ArmRequest(scores(), 2, seed, signals)
    return tuple(site.name for site in row.choose(wanted).sites)


def _has_what_it_needs(name: str, row: ArmRule) -> bool:
    if "--indicator" in row.needs:
        return row.name in INDICATORS and row.signal is None
    if row.signal is None:
        return bool(_placed(row))
    return row.signal in INDICATORS and bool(_placed(row, **{row.signal: _signal(row.signal)}))


def _varies_as_it_says(name: str, row: ArmRule) -> bool:
    if "--indicator" in row.needs:
        return not row.varies
    signals = {row.signal: _signal(row.signal)} if row.signal else {}
    drawn = {_placed(row, seed, **signals) for seed in range(6)}
    return (len(drawn) > 1) == row.varies


ARM_CHECKS = (
    *NAMES, *TEXTS, _documented("verify.md"),
    Check("needs something", lambda name, row: bool(row.needs),
          lambda name, row: (name, replace(row, needs=""))),
    Check("has what it needs", _has_what_it_needs,
          lambda name, row: (name, replace(row, signal="no-such-selector"))),
    Check("varies as it says", _varies_as_it_says,
          lambda name, row: (name, replace(row, varies=not row.varies))),
)  # fmt: skip


NEEDS = ("features", "weights", "scores", "a reference", "batches", "a batch with labels")
"""What an indicator may look at."""


INDICATOR_CHECKS = (
    *NAMES, *TEXTS, _documented("score.md", "verify.md"),
    Check("says what memory it takes", lambda name, row: bool(row.memory),
          lambda name, row: (name, replace(row, memory=""))),
    Check("says what it needs", lambda name, row: row.needs in NEEDS,
          lambda name, row: (name, replace(row, needs="a guess"))),
    Check("names its source", lambda name, row: "http" in row.source or "baseline" in row.source,
          lambda name, row: (name, replace(row, source="a paper"))),
)  # fmt: skip

# --------------------------------------------------------------------------- checks of the gate


def _has_a_line_in_the_recipe(name: str, row: GateCheck) -> bool:
    sections = (row.name, *(name for name, members in GROUPS.items() if row.name in members))
    return any(name in GateSettings.model_fields for name in sections)


GATE_CHECKS = (
    *NAMES, *TEXTS, _documented("gate.md"),
    Check("has its limits in the recipe", _has_a_line_in_the_recipe,
          lambda name, row: (name, replace(row, name="no-such-check"))),
    Check("says what to try first", lambda name, row: bool(row.advice),
          lambda name, row: (name, replace(row, advice=()))),
    Check("names its source", lambda name, row: "http" in row.source,
          lambda name, row: (name, replace(row, source="a paper"))),
)  # fmt: skip

# --------------------------------------------------------------------------- tasks


def _is_judged_by_its_metric(name: str, row: Task) -> bool:
    lines = _page("verify.md").splitlines()
    return any(line.startswith(f"| `{name}`") and f"`{row.metrics[0]}`" in line for line in lines)


PACKAGES = {name: task.packages for name, task in TASKS.items()}


def _missing(row: Task, package: str) -> str:
    """Return what is said before any trial where a package is missing, empty where nothing is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, package, None)
        try:
            check_trainer(row)
        except MissingExtraError as error:
            return str(error)
    return ""


def _names_what_is_missing(name: str, row: Task) -> bool:
    told = {package: _missing(row, package) for package in PACKAGES[name]}
    return all(repr(package) in text and "pip install" in text for package, text in told.items())


TASK_CHECKS = (
    *NAMES, _documented("verify.md"),
    Check("judged by the metric of its line", _is_judged_by_its_metric,
          lambda name, row: (name, replace(row, metrics=("rouge",)))),
    Check("a rate like those of LoRA", lambda name, row: 1e-7 < row.full_rate < 1e-3,
          lambda name, row: (name, replace(row, full_rate=2e-2))),
    Check("names what is missing", _names_what_is_missing,
          lambda name, row: (name, replace(row, packages=()))),
    Check("reserves the columns that it reads",
          lambda name, row: {c for kind in row.columns for c in kind} <= set(row.reserved),
          lambda name, row: (name, replace(row, reserved=()))),
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if "trl" in task.packages])
def test_a_trainer_names_the_package_that_is_missing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial on another machine, where nothing was checked, must say it as well."""
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(MissingExtraError, match=r"plop-lora\[train\]"):
        TASKS[name].train(trial_spec(task=name), None, [], None)


# --------------------------------------------------------------------------- all of them

REGISTRIES: dict[str, tuple[Mapping[str, Any], tuple[Check, ...]]] = {
    "exports": (TARGETS, EXPORTS),
    "servers": (SERVERS, (*NAMES, _documented("serve.md", form="{}"))),
    "strategies": (STRATEGIES, STRATEGY_CHECKS),
    "arms": (ARMS, ARM_CHECKS),
    "indicators": (INDICATORS, INDICATOR_CHECKS),
    "tasks": (TASKS, TASK_CHECKS),
    "checks": (CHECKS, GATE_CHECKS),
}


ROWS = [
    pytest.param(registry, check, name, id=f"{registry}-{name}-{check.name}")
    for registry, (rows, checks) in REGISTRIES.items()
    for check in checks
    for name in rows
]


@pytest.mark.parametrize(("registry", "check", "name"), ROWS)
def test_every_row(registry: str, check: Check, name: str) -> None:
    assert check.holds(name, REGISTRIES[registry][0][name])


@pytest.mark.parametrize(("registry", "check", "name"), ROWS)
def test_a_broken_row_is_caught(
    registry: str, check: Check, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    rows = REGISTRIES[registry][0]
    wrong_name, wrong = check.broken(name, rows[name])
    if isinstance(rows, MutableMapping):  # the arms follow from the others
        monkeypatch.setitem(rows, wrong_name, wrong)
    assert not check.holds(wrong_name, wrong)


def test_every_kind_of_runner_has_a_function() -> None:
    assert tuple(KINDS) == RUNNERS


# --------------------------------------------------------------------------- names that are none

LOOKUPS: dict[str, tuple[str, Mapping[str, Any], Callable[[str], object]]] = {
    "exports": ("pef", TARGETS, lambda name: prepare(placement(), to=name)),
    "servers": ("vlm", SERVERS, lambda name: lint(placement(), name)),
    "strategies": ("atention", STRATEGIES, find_strategy),
    "arms": ("mpl", ARMS, lambda name: make_arms([name], scores(), budget=10**4, seeds=[0])),
    "indicators": ("kapa", INDICATORS, find_indicator),
    "tasks": ("stf", TASKS, task_named),
    "runners": ("locl", KINDS, lambda name: Runner.parse({"kind": name}, "the recipe")),
}


def _refusal(look_up: Callable[[str], object], name: str) -> PlopError | None:
    try:
        look_up(name)
    except PlopError as error:
        return error
    return None


def _is_refused(wrong: str, rows: Mapping[str, Any], look_up: Callable[[str], object]) -> bool:
    error = _refusal(look_up, wrong)
    told = isinstance(error, UsageError) and repr(wrong) in str(error)
    return told and all(name in str(error) for name in rows)


@pytest.mark.parametrize("registry", LOOKUPS)
def test_a_name_that_is_none_is_refused_with_all_that_are(registry: str) -> None:
    assert _is_refused(*LOOKUPS[registry])


def test_a_lookup_that_refuses_badly_is_caught() -> None:
    """The controls of the test above: silence, another error, a message without the choices."""

    def bare(name: str) -> None:
        raise UsageError(f"There is no {name!r}.")

    def of_data(name: str) -> None:
        raise DataError(f"There is no {name!r}. Allowed: {', '.join(TASKS)}.")

    for look_up in (lambda name: None, of_data, bare):
        assert not _is_refused("stf", TASKS, look_up)
