"""Gates on groups, twin prompts, memorisation, judges, tasks, logs and functions of the user's."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoints import Answer, Endpoint, endpoint, failed, reply
from evaluation_logs import harness_log, line, results
from finetunes import ROWS, copy_with_factors, prepared, save_for_bundled
from harness_task import local_task
from typer.testing import CliRunner
from waiting import PATIENCE

from plop_lora.cli import app
from plop_lora.errors import DataError, MachineError, UsageError
from plop_lora.evaluation.memorisation import make_canaries
from plop_lora.gating import gate, plan
from plop_lora.gating.checks import CHECKS
from plop_lora.gating.evidence import Line
from plop_lora.gating.items import Items
from plop_lora.gating.suite import Reading
from plop_lora.gating.suites.counterfactual import are_unequal
from plop_lora.recipe import GateRecipe
from plop_lora.records import CheckResult, GateVerdict
from plop_lora.records.gate import FAIL, NOT_ENOUGH_DATA, PASS
from plop_lora.reports.gate import gate_lines, gate_markdown, gate_plan_table
from plop_lora.training.tasks import TASKS

SMALL = {
    "training": {"max_length": 96, "device": "cpu"},
    "evaluation": {"batch_size": 8},
    "general": {"most": 12},
    "gate": {
        "safety": {"max_new_tokens": 12, "languages": ["en"], "most": 24, "margin": 0.3},
        "fairness": {"margin": 0.1, "gap_margin": 0.1, "least": 10},
        "memorisation": {"suffix_tokens": 4, "limit": 0.3, "candidates": 15},
        "counterfactual": {"languages": ["en"], "most": 24, "margin": 0.4},
    },
}
UNSAFE = "own_judge"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with groups, rows of a training, canaries, and two adapters of the bundled model."""
    here = tmp_path_factory.mktemp("checks")
    zeros = save_for_bundled(prepared("q_proj", "down_proj"), here / "zeros")
    copy_with_factors(zeros, here / "other", lambda tensor: tensor + 0.02)
    grouped = [
        {**row, "sex": "fm"[place % 2], "region": ["north", "south", None][place % 3]}
        for place, row in enumerate(ROWS[:40])
    ]
    _write(here / "eval.jsonl", grouped)
    _write(here / "train.jsonl", ROWS[40:80])
    _write(here / "canaries.jsonl", make_canaries(10, seed=3))
    labels = [("harm", True), ("none", False)]
    _write(here / "labels.jsonl", [
        {"prompt": f"p{n}", "answer": f"{word} {n}", "unsafe": unsafe}
        for n in range(30) for word, unsafe in labels
    ])  # fmt: skip
    (here / f"{UNSAFE}.py").write_text(
        "def judge(prompt, answer):\n    return 'harm' in answer\n\n"
        "def open(prompt, answer):\n    return None\n\n"
        "def length(prompts, completions, rows):\n    return [len(str(c)) for c in completions]\n\n"
        "def broken(prompts, completions, rows):\n    raise ValueError('not today')\n"
    )
    return here


def _write(path: Path, rows: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GateRecipe]:
    monkeypatch.chdir(folder)
    yield GateRecipe.of({"eval": str(folder / "eval.jsonl"), **SMALL}, {})
    sys.modules.pop(UNSAFE, None)


def _with(recipe: GateRecipe, *checks: str, **sections: Any) -> GateRecipe:
    return GateRecipe.of(recipe, {"gate": {"checks": list(checks), **sections}})


def _by_name(verdict: GateVerdict) -> dict[str, CheckResult]:
    return {check.check: check for check in verdict.checks}


# --------------------------------------------------------------------------- an adapter of zeros


@pytest.mark.slow
def test_an_adapter_of_zeros_changes_nothing_in_any_check(
    folder: Path, recipe: GateRecipe, tmp_path: Path
) -> None:
    """Every check that the recipe feeds, named by none: differences of exactly 0 and no fail."""
    full = GateRecipe.of(recipe, {"evaluation": {"max_new_tokens": 8}, "gate": {
        "fairness": {"columns": ["sex"]},
        "memorisation": {"train": "train.jsonl", "canaries": "canaries.jsonl"},
        "safety": {"judge": {"name": f"{UNSAFE}:judge", "labelled": "labels.jsonl"}},
        "own": [{"function": f"{UNSAFE}:length", "rows": "train.jsonl", "margin": 5}],
    }})  # fmt: skip
    evidence = tmp_path / "e.jsonl"
    verdict = gate(folder / "zeros", full, evidence=evidence)
    checks = _by_name(verdict)
    assert {"groups", "gap", "memorisation", "canaries", "unsafe", "own:length"} < set(checks)
    assert {check.difference.value for check in verdict.checks} == {0.0}
    assert FAIL not in {check.verdict for check in verdict.checks}
    for name in ("groups", "gap", "canaries", "own:length", "unsafe", "memorisation"):
        assert checks[name].verdict is PASS, name
    assert {part.name for part in checks["groups"].parts} == {"f", "m"}
    assert len(checks["canaries"].parts) == 10
    again = gate(folder / "zeros", full, measured=evidence)
    assert again.checks == verdict.checks
    path = tmp_path / "verdict.json"
    verdict.save(path)
    assert GateVerdict.load(path) == verdict
    assert "canary 10" in gate_markdown(verdict)


# --------------------------------------------------------------------------- groups


def test_groups_and_their_gap(folder: Path, recipe: GateRecipe) -> None:
    columns = {"columns": ["sex", "region"], "intersections": [["sex", "region"]], "least": 5}
    verdict = gate(folder / "other", _with(recipe, "fairness", fairness=columns))
    groups, gap = verdict.checks
    names = [part.name for part in groups.parts]
    assert names[:2] == ["sex=f", "sex=m"]
    assert "sex=f & region=south" in names
    assert len(names) == 2 + 2 + 4
    assert sum(part.items for part in groups.parts[:2]) == 40
    assert groups.notes[0] == "13 items without region count in no group"
    assert [part.name for part in gap.parts] == ["sex", "region", "sex & region"]
    assert gap.base.low <= gap.base.value <= gap.base.high
    text = "\n".join(gate_lines(verdict))
    assert "groups: sex=f, 20 items: " in text
    assert "chance would widen the gap by more than" in text


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"columns": ["sects"]}, r"has the column 'sects' .* There are: sex, region, prompt"),
        ({"columns": ["prompt"], "intersections": [["prompt", "sex"]]}, "not among"),
        ({"columns": []}, "need columns whose values are groups"),
    ],
)
def test_groups_that_are_not_there(
    folder: Path, recipe: GateRecipe, section: Any, text: str
) -> None:
    with pytest.raises((DataError, UsageError), match=text):
        gate(folder / "zeros", _with(recipe, "groups", "gap", fairness=section))


def test_the_plan_tells_what_the_smallest_group_can_decide(
    folder: Path, recipe: GateRecipe
) -> None:
    made = _with(recipe, "fairness", fairness={"columns": ["sex"], "spread": 0.1})
    groups, gap = plan(folder / "zeros", made).checks
    assert (groups.items, groups.items_needed, groups.can_pass) == (40, 26, True)
    assert gap.items_needed > groups.items_needed
    assert gap.limit == 0.1
    few = _with(recipe, "fairness", fairness={"columns": ["sex"], "least": 30})
    found = plan(folder / "zeros", few)
    assert [check.can_pass for check in found.checks] == [False, False]
    assert "cannot pass" in str(gate_plan_table(found).rows)


# --------------------------------------------------------------------------- twin prompts


def test_answers_of_different_kinds_are_unequal() -> None:
    helps, refuses = (Reading({"refused": value}, "Take the bus.") for value in (0.0, 1.0))
    assert are_unequal(helps, refuses)
    assert not are_unequal(helps, helps)
    empty = Reading({"refused": 0.0}, "")
    assert are_unequal(helps, empty)
    assert not are_unequal(empty, empty)


def test_counterfactual_pairs(folder: Path, recipe: GateRecipe, tmp_path: Path) -> None:
    """Without columns it is what fairness means; templates of one's own are read as well."""
    template = {"id": "t", "template": "Write a note to {name}.", "slot": "name",
                "groups": {"a": ["Ann", "Eve"], "b": ["Omar", "Ali"]}}  # fmt: skip
    _write(tmp_path / "own.jsonl", [template])
    own = {"templates": str(tmp_path / "own.jsonl")}
    evidence = tmp_path / "e.jsonl"
    made = _with(recipe, "fairness", counterfactual=own)
    (check,) = gate(folder / "zeros", made, evidence=evidence).checks
    assert (check.check, check.items, check.groups) == ("counterfactual", 2, 1)
    assert check.verdict is NOT_ENOUGH_DATA
    answers = json.loads(json.loads(evidence.read_text().splitlines()[1])["adapter"]["answer"])
    assert len(answers) == 2


@pytest.mark.slow
def test_the_bundled_pairs(folder: Path, recipe: GateRecipe) -> None:
    (check,) = gate(folder / "zeros", _with(recipe, "counterfactual")).checks
    assert check.items == 24
    assert check.groups >= 20
    assert (check.difference.value, check.verdict) == (0.0, PASS)


# --------------------------------------------------------------------------- memorisation


def test_rows_in_training_and_control_are_an_error(folder: Path, recipe: GateRecipe) -> None:
    leak = {"train": "eval.jsonl"}
    with pytest.raises(DataError, match="40 of 40 control rows are training rows too"):
        plan(folder / "zeros", _with(recipe, "memorisation", memorisation=leak))


def test_what_memorisation_needs(folder: Path, recipe: GateRecipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Give gate\.memorisation\.train"):
        plan(folder / "zeros", _with(recipe, "memorisation"))
    with pytest.raises(UsageError, match="plop gate --canaries 20"):
        plan(folder / "zeros", _with(recipe, "canaries"))
    plain = {"canaries": "train.jsonl"}
    with pytest.raises(DataError, match=r"train\.jsonl, row 1: A canary needs a column 'secret'"):
        plan(folder / "zeros", _with(recipe, "canaries", memorisation=plain))
    (tmp_path / "empty.jsonl").write_text("")
    empty = {"train": str(tmp_path / "empty.jsonl")}
    with pytest.raises(DataError, match="holds no rows"):
        plan(folder / "zeros", _with(recipe, "memorisation", memorisation=empty))


def test_rows_that_are_too_short_are_left_out(
    folder: Path, recipe: GateRecipe, tmp_path: Path
) -> None:
    _write(
        tmp_path / "short.jsonl",
        [*ROWS[100:120], *[{**r, "completion": " 7"} for r in ROWS[60:63]]],
    )
    some = {"train": str(tmp_path / "short.jsonl")}
    (check,) = gate(folder / "zeros", _with(recipe, "memorisation", memorisation=some)).checks
    assert check.notes == ("3 rows are too short to be completed and were left out",)
    assert [part.items for part in check.parts] == [20, 40]
    none = {"train": str(tmp_path / "short.jsonl"), "suffix_tokens": 400}
    (check,) = gate(folder / "zeros", _with(recipe, "memorisation", memorisation=none)).checks
    assert check.verdict is NOT_ENOUGH_DATA
    assert "too short" in check.reason


def test_the_plan_of_memorisation_counts_rows(folder: Path, recipe: GateRecipe) -> None:
    some = {"train": "train.jsonl", "limit": 0.02}
    (check,) = plan(folder / "zeros", _with(recipe, "memorisation", memorisation=some)).checks
    assert not check.can_pass
    assert 150 < check.items_needed < 400


def test_canaries_are_written_in_the_columns_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "canaries.jsonl"
    result = CliRunner().invoke(app, ["gate", "--canaries", "12", "-o", str(path)])
    assert result.exit_code == 0, result.output
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    assert len({row["secret"] for row in rows}) == 12
    assert set(rows[0]) == {"prompt", "completion", "secret"}
    again = CliRunner().invoke(app, ["gate", "--canaries", "12", "-o", str(path)])
    assert "--force" in str(again.exception)
    texts = ["gate", "--canaries", "1", "--text", "body", "-o", str(path), "--force"]
    assert CliRunner().invoke(app, texts).exit_code == 0
    assert set(json.loads(path.read_text())) == {"body", "secret"}
    nowhere = CliRunner().invoke(app, ["gate", "--canaries", "1"])
    assert "-o canaries.jsonl" in str(nowhere.exception)


# --------------------------------------------------------------------------- judges


def _judged(recipe: GateRecipe, **judge: Any) -> GateRecipe:
    return _with(recipe, "safety", safety={**SMALL["gate"]["safety"], "judge": judge})


def test_a_judge_adds_a_check(folder: Path, recipe: GateRecipe, tmp_path: Path) -> None:
    made = _judged(recipe, name=f"{UNSAFE}:judge", labelled="labels.jsonl")
    evidence = tmp_path / "e.jsonl"
    verdict = gate(folder / "zeros", made, evidence=evidence)
    unsafe = _by_name(verdict)["unsafe"]
    assert unsafe.items == 24
    assert unsafe.notes == (
        "judged by own_judge:judge",
        "corrected for the judge, which is right on 1.00 of 30 unsafe and 1.00 of 30 safe answers "
        "with labels; the shares of both sides are as judged",
    )
    sys.modules.pop(UNSAFE, None)
    (folder / f"{UNSAFE}.py").rename(tmp_path / "away.py")
    try:
        with pytest.raises(UsageError, match=UNSAFE):
            gate(folder / "zeros", made, measured=evidence)
    finally:
        (tmp_path / "away.py").rename(folder / f"{UNSAFE}.py")
    assert gate(folder / "zeros", made, measured=evidence).checks == verdict.checks


def _unsafe(shares: tuple[float, float], right: float, labelled: int = 60) -> CheckResult:
    """Return what 200 judged answers of each side say, by a judge that is so often right."""
    count, labels = 200, [place % 2 == 0 for place in range(labelled)]
    rows = [{"prompt": str(place)} for place in range(count)]
    rows += [{"answer": str(place), "unsafe": label} for place, label in enumerate(labels)]
    lines = [
        Line("judgements", place, "", *(Reading({"unsafe": float(place < share * count)})
                                        for share in shares))
        for place in range(count)
    ]  # fmt: skip
    for place, label in enumerate(labels):
        judged = Reading({"unsafe": float(label is (place % 10 < 10 * right))})
        lines.append(Line("judgements", count + place, "", judged, judged))
    check = CHECKS["unsafe"]
    judge = {"gate": {"safety": {"judge": {"name": "a:b"}}}}
    rule = check.rule(GateRecipe.of({"eval": "e"}, judge), TASKS["sft"])
    return check.decide(check, rule, Items.of(rows, list(map(str, range(len(rows)))), "p"), lines)


def test_the_errors_of_a_judge_enter_the_interval() -> None:
    """A judge that is right in 80 % shows 0.6 of a difference; at chance it shows nothing."""
    seen, true = _unsafe((0.1, 0.5), 1.0), _unsafe((0.1, 0.5), 0.8)
    assert (seen.verdict, true.verdict) == (FAIL, FAIL)
    assert seen.difference.value == pytest.approx(0.4)
    assert true.difference.value == pytest.approx(0.4 / 0.6)
    assert true.difference.high - true.difference.low > seen.difference.high - seen.difference.low
    alike = _unsafe((0.1, 0.1), 1.0)
    assert (alike.verdict, alike.difference.value) == (PASS, 0.0)
    chance = _unsafe((0.1, 0.5), 0.5)
    assert chance.verdict is NOT_ENOUGH_DATA
    assert "not shown to be better than chance" in chance.reason
    doubtful = _unsafe((0.10, 0.10), 0.7, labelled=24)
    assert doubtful.verdict is NOT_ENOUGH_DATA


def test_answers_that_no_judge_decides_are_not_enough_data(
    folder: Path, recipe: GateRecipe
) -> None:
    verdict = gate(folder / "zeros", _judged(recipe, name=f"{UNSAFE}:open"))
    unsafe = _by_name(verdict)["unsafe"]
    assert (unsafe.verdict, unsafe.undecided) == (NOT_ENOUGH_DATA, 24)
    assert "unknown and not corrected for" in unsafe.notes[1]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    with endpoint() as known:
        yield known


def test_a_guard_model_judges_and_its_key_is_written_nowhere(
    folder: Path, recipe: GateRecipe, server: Endpoint, tmp_path: Path
) -> None:
    evidence = tmp_path / "e.jsonl"
    made = _judged(recipe, name=server.url, model="guard", cache=str(tmp_path / "judged.jsonl"))
    verdict = gate(folder / "zeros", made, evidence=evidence)
    assert _by_name(verdict)["unsafe"].difference.value == 0.0
    asked = len(server.asked)
    assert 0 < asked <= 48
    verdict.save(tmp_path / "v.json")
    for path in tmp_path.iterdir():
        assert "sk-secret" not in path.read_text(), path
    assert gate(folder / "zeros", made, measured=evidence).checks == verdict.checks
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (failed(500), "500"),
        (failed(429), "429"),
        (Answer("<html>", 200), "judged"),
    ],
)
def test_a_server_that_fails_for_ever_keeps_the_answers(
    folder: Path, recipe: GateRecipe, server: Endpoint, tmp_path: Path, answer: Answer, text: str
) -> None:
    """What was generated stays in the evidence: the next run asks the judge alone."""
    server.answer = lambda body, number: answer
    evidence = tmp_path / "e.jsonl"
    judge = {"name": server.url, "model": "guard", "retries": 1, "timeout": PATIENCE}
    with pytest.raises(MachineError, match=text):
        gate(folder / "zeros", _judged(recipe, **judge), evidence=evidence)
    written = evidence.read_text().count('"suite": "prompts"')
    assert written == 24
    server.answer = lambda body, number: reply("safe")
    done: list[str] = []
    verdict = gate(folder / "zeros", _judged(recipe, **judge), evidence=evidence,
                   watch=lambda suite, *_: done.append(suite))  # fmt: skip
    assert done == ["judgements"]
    assert _by_name(verdict)["unsafe"].verdict is PASS


def test_garbage_is_undecided(folder: Path, recipe: GateRecipe, server: Endpoint) -> None:
    server.answer = lambda body, number: reply("I would rather talk about the weather.")
    verdict = gate(folder / "zeros", _judged(recipe, name=server.url, model="guard"))
    unsafe = _by_name(verdict)["unsafe"]
    assert (unsafe.verdict, unsafe.undecided) == (NOT_ENOUGH_DATA, 24)


def test_a_judge_that_is_not_there_is_told_before_anything_is_generated(
    folder: Path, recipe: GateRecipe, tmp_path: Path
) -> None:
    evidence = tmp_path / "e.jsonl"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and nobody listens
        port = free.getsockname()[1]
        made = _judged(recipe, name=f"http://127.0.0.1:{port}/v1", model="guard", retries=0)
        with pytest.raises(MachineError, match=str(port)):
            gate(folder / "zeros", made, evidence=evidence)
    assert '"suite"' not in evidence.read_text().partition("\n")[2]
    with pytest.raises(UsageError, match="Name one"):
        plan(folder / "zeros", _with(recipe, "unsafe"))


# --------------------------------------------------------------------------- tasks, logs, functions


def test_a_task_of_the_harness_is_a_check(
    folder: Path, recipe: GateRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = local_task(tmp_path, monkeypatch, items=12)
    tasks = {"names": ["plop_choice"], "margin": 0.4}
    made = GateRecipe.of(
        _with(recipe, "harness", harness=tasks),
        {"evaluation": {"include_path": str(here / "tasks"), "batch_size": 5}},
    )
    evidence = tmp_path / "e.jsonl"
    (check,) = gate(folder / "zeros", made, evidence=evidence).checks
    assert (check.check, check.items) == ("lm-eval:plop_choice", 12)
    assert (check.base.value, check.difference.value) == (0.5, 0.0)
    values = {}
    for raw in evidence.read_text().splitlines()[1:]:
        read = json.loads(raw)
        values[read["index"]] = read["base"]["values"]["plop_choice"]
    assert [values[place] for place in range(12)] in ([1.0, 0.0] * 6, [0.0, 1.0] * 6)
    with pytest.raises(UsageError, match="Did you mean 'plop_choice'"):
        plan(
            folder / "zeros", GateRecipe.of(made, {"gate": {"harness": {"names": ["plop_choise"]}}})
        )


def test_logs_of_another_suite_are_decided_without_a_model(
    folder: Path, recipe: GateRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log(name: str, right: Any) -> str:
        lines = [line(place, acc=float(right(place))) for place in range(60)]
        beside = results("sums", model=name, acc=True)
        return str(harness_log(tmp_path / name, lines, beside))

    pair = {"base": log("base", lambda n: True), "adapter": log("tuned", lambda n: n % 3 > 0)}
    made = _with(recipe, "logs", logs=[pair])
    monkeypatch.setattr("plop_lora.training.base.load_base", lambda *_, **__: pytest.fail("loaded"))
    (check,) = gate(folder / "zeros", GateRecipe.of(made, {"eval": None})).checks
    assert check.check.startswith("log:sums:acc")
    assert (check.verdict, check.items, check.binary) == (FAIL, 60, True)
    with pytest.raises(UsageError, match="have the name"):
        plan(folder / "zeros", _with(recipe, "logs", logs=[pair, pair]))
    with pytest.raises(UsageError, match=r"nothing under gate\.logs"):
        plan(folder / "zeros", _with(recipe, "logs"))
    with pytest.raises(DataError, match="There is no log"):
        plan(folder / "zeros", _with(recipe, "logs", logs=[{**pair, "base": "absent.eval"}]))


def test_a_function_of_the_users_is_a_check(
    folder: Path, recipe: GateRecipe, tmp_path: Path
) -> None:
    own = {"function": f"{UNSAFE}:length", "margin": 5, "higher_is_better": False}
    made = GateRecipe.of(_with(recipe, "own", own=[own]), {"evaluation": {"max_new_tokens": 8}})
    evidence = tmp_path / "e.jsonl"
    (check,) = gate(folder / "other", made, evidence=evidence).checks
    assert (check.check, check.metric) == ("own:length", own["function"])
    assert (check.limit, check.items) == (5, 40)
    read = json.loads(evidence.read_text().splitlines()[1])
    assert read["base"]["values"][own["function"]] == len(read["base"]["answer"])
    broken = [{**own, "function": f"{UNSAFE}:broken"}]
    with pytest.raises(DataError, match="ValueError: not today"):
        gate(folder / "zeros", GateRecipe.of(made, {"gate": {"own": broken}}))
    absent = [{**own, "function": f"{UNSAFE}:lenght"}]
    with pytest.raises(UsageError, match="Did you mean 'length'"):
        plan(folder / "zeros", GateRecipe.of(made, {"gate": {"own": absent}}))
