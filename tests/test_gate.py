"""Gates: what passes, what fails, what is not decided; evidence, resumption and errors."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetunes import (
    MODEL,
    NEW,
    ROWS,
    copy_with_factors,
    prepared,
    save_for_bundled,
    train_on,
)
from test_start import start
from typer.testing import CliRunner

import plop_lora as plop
from plop_lora.cli import app
from plop_lora.errors import AdapterError, DataError, OutputError, RecordError, UsageError
from plop_lora.gating import gate, plan
from plop_lora.gating.bounds import gain_of, mean_interval
from plop_lora.gating.check import Values
from plop_lora.gating.checks import CHECKS
from plop_lora.gating.decide import (
    LEAST,
    difference_result,
    noise_floor,
    verdict_of,
)
from plop_lora.gating.items import Items
from plop_lora.recipe import GateRecipe
from plop_lora.records import GateVerdict
from plop_lora.records.gate import FAIL, NOT_ENOUGH_DATA, PASS
from plop_lora.reports.gate import gate_markdown

ERRS_AT_MOST = 0.05
DRAWS = 2000
SLACK = 3 * (ERRS_AT_MOST * (1 - ERRS_AT_MOST) / DRAWS) ** 0.5
"""Three standard errors of a simulated share."""
SMALL = {
    "training": {"max_length": 48, "device": "cpu"},
    "evaluation": {"batch_size": 4},
    "general": {"most": 12},
    "gate": {"checks": ["task", "forgetting"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, and adapters of the bundled model: `zeros`, `wild`, and one of another base."""
    here = tmp_path_factory.mktemp("gate")
    zeros = save_for_bundled(prepared("q_proj", "down_proj"), here / "zeros")
    for name, scale in (("wild", 3.0), ("near", 0.01)):
        copy_with_factors(zeros, here / name, _normal(scale))
    (here / "eval.jsonl").write_text(_lines(ROWS[:12]))
    known = [{"text": row["prompt"] + row["completion"]} for row in ROWS[100:112]]
    (here / "known.jsonl").write_text(_lines(known))
    (here / "empty.jsonl").write_text("")
    return here


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _normal(scale: float) -> Callable[[Any], Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    return lambda tensor: scale * torch.randn(tensor.shape, generator=generator)


@pytest.fixture
def recipe(folder: Path) -> GateRecipe:
    return GateRecipe.of({"eval": str(folder / "eval.jsonl"), **SMALL}, {})


@pytest.fixture
def known(folder: Path, recipe: GateRecipe) -> GateRecipe:
    """The recipe with general text that the bundled model knows well, so that it can forget it."""
    return GateRecipe.of(recipe, {"general": {"data": str(folder / "known.jsonl")}})


def _at(recipe: GateRecipe, **sections: dict[str, Any]) -> GateRecipe:
    """Return the recipe with keys of `gate` changed."""
    return GateRecipe.of(recipe, {"gate": sections})


# --------------------------------------------------------------------------- decisions


def _share(
    draw: Callable[[], Any], limit: float, *, binary: bool = False, size: int = 1
) -> dict[str, float]:
    """Return how often simulated gains of this limit are decided either way."""
    groups = [str(place // size) for place in range(len(draw()))]
    found = [
        verdict_of(gain_of(draw(), groups, binary=binary), len(set(groups)), limit, 0.0)
        for _ in range(DRAWS)
    ]
    return {verdict: found.count(verdict) / DRAWS for verdict in (PASS, FAIL)}


@pytest.mark.parametrize("limit", [-0.02, 0.0, -0.1], ids=["non-inferior", "improve", "forgetting"])
@pytest.mark.parametrize("items", [LEAST, 100])
def test_at_the_limit_each_decision_errs_in_five_percent(limit: float, items: int) -> None:
    """A gate that passes an adapter at its margin more often than that promises too much."""
    random = np.random.default_rng(1)
    share = _share(lambda: random.normal(limit, 0.1, items), limit)
    assert max(share.values()) <= ERRS_AT_MOST + SLACK
    worse = _share(lambda: random.normal(limit - 0.3, 0.1, items), limit)
    assert worse[FAIL] > 0.95  # the control: the same rule does find what is there


def test_rows_of_one_question_are_one_item() -> None:
    """Ten copies of a question made an interval a third as wide, and errors of 30 %."""
    random = np.random.default_rng(2)

    def draw() -> Any:
        return np.repeat(random.normal(-0.02, 0.1, 20), 5)

    assert max(_share(draw, -0.02, size=5).values()) <= ERRS_AT_MOST + SLACK
    assert max(_share(draw, -0.02, size=1).values()) > 2 * ERRS_AT_MOST


@pytest.mark.parametrize("gained", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("items", [100, 330, 600])
def test_right_and_wrong_answers_at_the_limit(items: int, gained: float) -> None:
    random = np.random.default_rng(3)

    def draw() -> Any:
        chance = random.random(items)
        lost = (chance >= gained) & (chance < 2 * gained + 0.01)
        return (chance < gained).astype(float) - lost.astype(float)

    share = _share(draw, -0.01, binary=True)
    assert max(share.values()) <= ERRS_AT_MOST + SLACK


def test_a_few_unchanged_answers_are_no_proof() -> None:
    """Without a change there is no spread, and an interval without width proved anything."""
    groups = [str(place) for place in range(300)]
    few = gain_of(np.zeros(50), groups[:50], binary=True)
    assert verdict_of(few, 50, -0.01, 0.0) is NOT_ENOUGH_DATA
    assert verdict_of(few, 50, -0.1, 0.0) is PASS


def _decided(gains: Any, rule_of: dict[str, Any], again: Any = ()) -> Any:
    check = CHECKS["task"]
    recipe = GateRecipe.of({"eval": "e.jsonl", "gate": {"task": rule_of}}, {})
    from plop_lora.training.tasks import TASKS

    rule = check.rule(recipe, TASKS["sft"])
    items = Items.of([{"text": str(n)} for n in range(len(gains))], list(map(str, gains)), "rows")
    base = np.ones(len(gains))
    values = Values(tuple(base), tuple(base - gains), tuple(base + again) if len(again) else ())
    return difference_result(check, rule, items, values)


def test_worse_but_not_significant_does_not_pass() -> None:
    gains = np.random.default_rng(1).normal(-0.015, 0.1, 40)
    assert -0.02 < gains.mean() < 0
    result = _decided(gains, {})
    assert result.verdict is NOT_ENOUGH_DATA
    assert result.items_needed > 40
    assert result.bound_low < result.difference.value < result.bound_high


def test_a_difference_inside_the_noise_floor_decides_nothing() -> None:
    """In bfloat16 another batch size moves a loss by more than some differences."""
    gains = np.full(40, 0.001) + np.linspace(-1e-5, 1e-5, 40)
    improve = {"mode": "improve"}
    assert _decided(gains, improve).verdict is PASS
    noisy = _decided(gains, improve, again=np.full(40, 0.002))
    assert noisy.verdict is NOT_ENOUGH_DATA
    assert noisy.noise_floor == pytest.approx(0.002)
    assert noisy.items_needed is None
    lost = _decided(-gains, improve, again=np.full(40, -0.002))
    assert lost.verdict is NOT_ENOUGH_DATA
    assert noise_floor(Values((1.0,), (1.0,))) is None


def test_too_few_items_are_not_decided() -> None:
    assert _decided(np.ones(LEAST - 1), {}).verdict is NOT_ENOUGH_DATA
    assert _decided(np.ones(1), {}).difference.low is None
    assert mean_interval(np.array([1.0, 2.0, 3.0]), list("aab")).item_freedom == 1


# --------------------------------------------------------------------------- the whole gate


def test_an_adapter_of_zeros_changes_nothing(folder: Path, recipe: GateRecipe) -> None:
    record = plop.gate(folder / "zeros", recipe)
    assert (record.verdict, record.exit_code) == (PASS, 0)
    for check in record.checks:
        assert check.difference.value == check.difference.low == check.difference.high == 0
        assert check.noise_floor < 1e-4
    assert GateVerdict.from_dict(json.loads(record.to_json())) == record
    assert "may ship" in str(record)
    improved = plop.gate(folder / "zeros", _at(recipe, task={"mode": "improve"}))
    assert improved.exit_code == 4
    assert "no number of items would decide" in " ".join(str(improved).split())


def test_an_adapter_that_forgets_fails_forgetting_alone(folder: Path, known: GateRecipe) -> None:
    """Both sides are answered for by one model; each check looks at its own items."""
    record = gate(folder / "wild", _at(known, task={"margin": 100}))
    assert {check.check: check.verdict for check in record.checks} == {
        "task": PASS, "forgetting": FAIL,
    }  # fmt: skip
    assert record.exit_code == 3
    text = " ".join(str(record).split())
    assert "in this order: try an earlier checkpoint; train with a smaller learning rate" in text
    page = gate_markdown(record)
    assert page.startswith("# plop gate: ")
    assert len({line.count(" | ") for line in page.splitlines() if line.startswith("|")}) == 1


def test_a_rise_between_the_thresholds_warns(folder: Path, known: GateRecipe) -> None:
    limits = {"warn": 0.0, "fail": 100.0}
    record = gate(folder / "wild", _at(known, forgetting=limits, checks=["forgetting"]))
    (check,) = record.checks
    assert check.verdict is PASS
    assert check.warning == "the difference is shown to lie above 0"


def test_answers_are_judged_by_a_metric(folder: Path, recipe: GateRecipe) -> None:
    settings = {"evaluation": {"metric": "numeric", "max_new_tokens": 4, "batch_size": 8},
                "gate": {"checks": ["task"]}}  # fmt: skip
    (check,) = gate(folder / "zeros", GateRecipe.of(recipe, settings)).checks
    assert check.higher_is_better
    assert check.noise_floor == 0
    assert check.verdict is NOT_ENOUGH_DATA  # 12 answers prove no margin of 0.01
    assert check.items_needed > 300


# --------------------------------------------------------------------------- evidence


@pytest.fixture(scope="module")
def measured(folder: Path) -> tuple[GateVerdict, Path]:
    """A verdict on `near`, and its evidence."""
    path = folder / "near.evidence.jsonl"
    recipe = GateRecipe.of({"eval": str(folder / "eval.jsonl"), **SMALL}, {})
    return gate(folder / "near", recipe, evidence=path), path


def _same(first: GateVerdict, second: GateVerdict) -> bool:
    return replace(first, evidence=None) == replace(second, evidence=None)


def test_evidence_decides_again_without_a_model(folder: Path, recipe, measured) -> None:
    record, path = measured
    assert _same(gate(folder / "near", recipe, measured=path), record)
    (folder / "gate.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))
    words = ("gate", "near", "--recipe", "gate.yaml", "--from", path.name, "--format", "quiet",
             "--set", "gate.task.margin=50", "--set", "gate.forgetting.fail=50")  # fmt: skip
    code, errors = start(folder, *words)
    assert code == 0, errors
    strict = _at(recipe, task={"mode": "improve", "margin": 50})
    assert gate(folder / "near", strict, measured=path).exit_code == 3


def test_a_cut_line_is_measured_again(folder: Path, recipe, measured, tmp_path: Path) -> None:
    record, path = measured
    content = path.read_bytes()
    for share in (0.02, 0.3, 0.7, 0.999):
        cut = tmp_path / f"{share}.jsonl"
        cut.write_bytes(content[: int(share * len(content))])
        if share > 0.1:
            with pytest.raises(RecordError, match=r"has \d+ of 12 items of the suite"):
                gate(folder / "near", recipe, measured=cut)
        assert _same(gate(folder / "near", recipe, evidence=cut), record)
        assert set(cut.read_text().splitlines()) == set(content.decode().splitlines())


def test_evidence_of_something_else_is_refused(folder: Path, recipe, measured) -> None:
    _, path = measured
    with pytest.raises(UsageError, match="evidence of another adapter,"):
        gate(folder / "zeros", recipe, measured=path)
    other = GateRecipe.of(recipe, {"training": {"max_length": 40}})
    with pytest.raises(UsageError, match="evidence of other settings of the evaluation"):
        gate(folder / "near", other, evidence=path)
    fewer = GateRecipe.of(recipe, {"general": {"most": 11}})
    with pytest.raises(UsageError, match="evidence of other checks or other data"):
        gate(folder / "near", fewer, measured=path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "my notes\n", "line 1 is not JSON"),
        (lambda text: "my notes", "is no file of evidence"),
        (lambda text: '{"kind": "scores"}\n', "is no evidence of plop gate"),
        (lambda text: text.replace('"version": 2', '"version": 9'), "version 9"),
        (lambda text: text.replace('"index": 3', '"index": 99'), "is of no item of this gate"),
        (lambda text: re.sub(r'"loss": [\d.]+', '"loss": NaN', text), "no finite values"),
        (lambda text: text.replace('"item"', '"items"'), "no finite values of an item"),
    ],
)
def test_damaged_evidence_is_told(
    folder: Path, recipe, measured, tmp_path: Path, change, message: str
) -> None:
    """A file of the user's at that path is neither understood by half nor written over."""
    path = tmp_path / "damaged.jsonl"
    text = change(measured[1].read_text())
    path.write_text(text)
    with pytest.raises(RecordError, match=message):
        gate(folder / "near", recipe, evidence=path)
    assert path.read_text() == text


# --------------------------------------------------------------------------- bad inputs


def test_an_adapter_of_another_base(folder: Path, recipe: GateRecipe, tmp_path: Path) -> None:
    """Before any weight is loaded; PEFT reports sizes in a traceback, or nothing at all."""
    small = tmp_path / "small"
    small.mkdir()
    config = json.loads((MODEL / "config.json").read_text())
    config["intermediate_size"] //= 2
    (small / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=r"is an adapter of another base: it adapts .*down_proj"):
        gate(folder / "zeros", _at(recipe, base=str(small)))
    config["num_hidden_layers"] = 1
    (small / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="is an adapter of another base"):
        gate(folder / "zeros", _at(recipe, base=str(small)))


def _configured(folder: Path, target: Path, **fields: object) -> Path:
    shutil.copytree(folder / "zeros", target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return target


def test_adapters_that_cannot_be_judged(folder: Path, recipe: GateRecipe, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"holds no adapter_config\.json"):
        gate(MODEL, recipe)
    with pytest.raises(AdapterError, match="does not exist"):
        gate(tmp_path / "absent", recipe)
    with pytest.raises(UsageError, match="trained biases"):
        gate(_configured(folder, tmp_path / "biased", bias="all"), recipe)
    with pytest.raises(UsageError, match="initialised by pissa"):
        gate(_configured(folder, tmp_path / "pissa", init_lora_weights="pissa"), recipe)
    with pytest.raises(UsageError, match="names no base model"):
        gate(_configured(folder, tmp_path / "alone", base_model_name_or_path=None), recipe)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"gate": {"tsak": {}}}, UsageError, "gate.tsak: there is no such key. Did you mean"),
        ({"gate": {"task": {"mragin": 1}}}, UsageError, "gate.task.mragin: there is no such key"),
        ({"gate": {"task": {"mode": "better"}}}, UsageError, "allowed: non-inferior, improve"),
        ({"gate": {"checks": ["saftey"]}}, UsageError, "no check 'saftey'. Did you mean 'safety'"),
        ({"gate": {"checks": []}}, UsageError, "at least 1"),
        ({"gate": {"forgetting": {"warn": 0.2}}}, UsageError, "warn 0.2 is above fail 0.1"),
        ({"gate": {"task": {"margin": 2}}, "evaluation": {"metric": "exact"}}, UsageError,
         "margin is 2, which no outcome of exact"),
        ({"general": {"most": 0}}, UsageError, "general.most is 0"),
        ({"task": "classify"}, UsageError, "no head of that task"),
        ({"evaluation": {"metric": "los"}}, UsageError, "Did you mean 'loss'"),
        ({"eval": "nowhere.jsonl"}, DataError, "nowhere.jsonl"),
        ({"general": {"data": "nowhere.jsonl"}}, DataError, "general.data"),
    ],
)  # fmt: skip
def test_recipes_that_cannot_work(folder: Path, recipe, settings, error, message: str) -> None:
    with pytest.raises(error, match=message):
        plan(folder / "zeros", GateRecipe.of(recipe, settings))


def test_an_empty_file_of_rows(folder: Path, recipe: GateRecipe) -> None:
    with pytest.raises(DataError, match=r"empty\.jsonl holds no rows"):
        plan(folder / "zeros", recipe, eval=str(folder / "empty.jsonl"))


def test_a_full_disk_is_told(monkeypatch, folder: Path, recipe, measured, tmp_path: Path) -> None:
    """What is there is kept, so that the gate goes on once there is room."""
    with pytest.raises(OutputError, match="is not a plain file"):
        gate(folder / "zeros", recipe, evidence="/dev/null")
    path, content = tmp_path / "e.jsonl", measured[1].read_bytes()
    path.write_bytes(content[: len(content) // 2])

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"Cannot write the evidence .* No space left"):
            gate(folder / "near", recipe, evidence=path)
    assert _same(gate(folder / "near", recipe, evidence=path), measured[0])


# --------------------------------------------------------------------------- the command line


def test_the_plan_tells_what_cannot_be_decided(folder: Path, recipe: GateRecipe) -> None:
    (folder / "plan.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))
    code, errors = start(folder, "gate", "zeros", "--recipe", "plan.yaml", "--plan")
    assert code == 0, errors
    text = " ".join(str(plan(folder / "zeros", recipe)).split())
    assert "task: a true difference of 0 needs about 159 items." in text
    found = plan(folder / "zeros", recipe, evaluation={"metric": "numeric"})
    assert not found.checks[0].can_pass
    assert "task: no outcome on 12 items passes the limit -0.01" in " ".join(str(found).split())


def test_init_writes_a_recipe_that_reads_back(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    code, errors = start(folder, "gate", "zeros", "--init", "-o", str(path), "--eval", "e.jsonl")
    assert code == 0, errors
    assert GateRecipe.read(path) == GateRecipe.of({"eval": "e.jsonl"}, {})
    assert "warn: 0.05" in path.read_text()


def test_the_verb(folder: Path, recipe, measured, tmp_path: Path, monkeypatch) -> None:
    """The evidence stands beside the output; `-o x.md` writes Markdown, twice as well."""
    monkeypatch.chdir(folder)
    (folder / "verb.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))
    line = ["gate", "near", "--recipe", "verb.yaml", "-o"]
    shutil.copy(measured[1], tmp_path / "v.evidence.jsonl")
    for name in ("v.json", "v.md", "v.md"):
        done = CliRunner().invoke(app, [*line, str(tmp_path / name)])
        assert done.exit_code == measured[0].exit_code, done.output
    assert GateVerdict.load(tmp_path / "v.json").checks == measured[0].checks
    assert (tmp_path / "v.md").read_text().startswith("# plop gate: near on")


# --------------------------------------------------------------------------- slow


@pytest.mark.slow
def test_a_trained_adapter_that_forgets(folder: Path, tmp_path: Path) -> None:
    """It learns its task, and the gate still keeps it from shipping."""
    ready = prepared("q_proj", "v_proj", "up_proj", "down_proj")
    train_on(ready, NEW, steps=40, rows_a_step=4, rate=2e-2, length=128)
    save_for_bundled(ready, tmp_path / "trained")
    (tmp_path / "eval.jsonl").write_text(_lines(NEW[180:]))
    recipe = GateRecipe.of(
        {"eval": str(tmp_path / "eval.jsonl"), **SMALL,
         "training": {"max_length": 128, "device": "cpu"}, "general": {"most": 60},
         "gate": {"checks": ["task", "forgetting"], "task": {"mode": "improve"}}}, {},
    )  # fmt: skip
    record = gate(tmp_path / "trained", recipe)
    verdicts = {check.check: check.verdict for check in record.checks}
    assert verdicts == {"task": PASS, "forgetting": FAIL}, str(record)


KILLED = """
import os, random, signal, sys
from plop_lora.gating import gate
from plop_lora.recipe import GateRecipe

adapter, recipe, folder = sys.argv[1], GateRecipe.read(sys.argv[2]), sys.argv[3]

calls = 0

def child(path, verdict, last=None):
    "Run a gate in a process, which kills itself at a call of a function, and writes their number."
    pid = os.fork()
    if not pid:
        def count(frame, event, argument):
            global calls
            calls += 1
            if calls == last:
                os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(count)
        gate(adapter, recipe, evidence=path).save(verdict)
        sys.setprofile(None)
        with open(f"{folder}/calls", "w") as file:
            file.write(str(calls))
        os._exit(0)
    return pid

import plop_lora.gating.measure
os.waitpid(child(f"{folder}/whole.jsonl", f"{folder}/whole.json"), 0)  # fills the caches of files
os.waitpid(child(f"{folder}/counted.jsonl", f"{folder}/counted.json"), 0)
every = int(open(f"{folder}/calls").read())
moments = random.Random(0)
killed = lines = 0
for number in range(20):
    path, verdict = f"{folder}/{number}.jsonl", f"{folder}/{number}.json"
    # A moment is a call and not a second: a run that is faster than the one before ends unkilled.
    pid = child(path, verdict, last=moments.randint(1, every))
    killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    lines += os.path.exists(path) and open(path, "rb").read().count(b"\\n") > 1
    os.waitpid(child(path, verdict), 0)
print(killed, lines)
"""


@pytest.mark.slow
def test_a_killed_gate_goes_on_and_decides_the_same(folder: Path, recipe: GateRecipe,
                                                    tmp_path: Path) -> None:  # fmt: skip
    """SIGKILL at 20 random moments of a gate, each of which is then run again."""
    (tmp_path / "gate.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))
    words = [sys.executable, "-c", KILLED, folder / "near", tmp_path / "gate.yaml", tmp_path]
    found = subprocess.run(
        list(map(str, words)), check=True, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a fork copies no thread
    )  # fmt: skip
    killed, halfway = map(int, found.stdout.split()[-2:])
    assert killed >= 15
    assert halfway >= 5
    whole = GateVerdict.load(tmp_path / "whole.json")
    for number in range(20):
        assert _same(GateVerdict.load(tmp_path / f"{number}.json"), whole), number
