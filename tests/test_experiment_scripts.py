"""The data of the experiments is what it says, and the report says what the records say."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from builders import arm_result, trial_result, trial_spec, verification
from tokenizers import Tokenizer

from plop_lora.demo import MODEL
from plop_lora.records.verification import ArmVerdict

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[1] / "scripts" / "experiments"
NAMES = ("arithmetic", "docstrings", "overlap", "report")


@pytest.fixture(scope="module")
def scripts():
    before = list(sys.path)
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path[:] = before
        for name in (*NAMES, "drawing"):
            sys.modules.pop(name, None)


def test_no_script_imports_torch() -> None:
    """Data and reports are made where no trainer is installed."""
    code = "import sys\n" + "\n".join(f"import {name}" for name in NAMES)
    code += "\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=SCRIPTS)


def test_doctests(scripts) -> None:
    results = [doctest.testmod(scripts[name]) for name in ("docstrings", "overlap", "report")]
    assert all(result.attempted and not result.failed for result in results)


def test_only_the_first_line_of_an_answer_is_rewarded(scripts) -> None:
    """More lines would be a cheap way to more words that the reference has."""
    overlap = scripts["overlap"]
    right = " Return the width of a window."
    answers = [right, " window\nReturn the width of a", "", "?"]
    rewards = overlap.reward(answers, [right] * 4, prompts=["?"] * 4)
    assert rewards == pytest.approx([1.0, 2 / 7, 0.0, 0.0])
    rows = [{"prompt": "?", "completion": right}] * 4
    assert overlap.judged(["?"] * 4, answers, rows) == rewards


# --------------------------------------------------------------------------- arithmetic


@pytest.fixture(scope="module")
def files(scripts):
    return scripts["arithmetic"].build(0)


def test_arithmetic_is_seeded(scripts, files) -> None:
    assert scripts["arithmetic"].build(0) == files
    assert scripts["arithmetic"].build(1) != files


def test_arithmetic_has_no_question_twice(scripts, files) -> None:
    """A question of two files, or of the shipped data, would be trained on and judged by."""
    questions = [row["question"] for rows in files.values() for row in rows]
    shipped = scripts["arithmetic"].SHIPPED.read_text("utf-8").splitlines()
    assert len(questions) == len(set(questions))
    assert not set(questions) & {json.loads(line)["question"] for line in shipped}
    sizes = {name: len(rows) for name, rows in files.items()}
    for task, (train, evaluation) in scripts["arithmetic"].SIZES.items():
        assert sizes[f"{task}-train.jsonl"] == train
        assert sizes[f"{task}-eval.jsonl"] == evaluation


def test_arithmetic_is_right(files) -> None:
    """Each equation holds, a start and its answer make one, and the last is the result."""
    operations = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    for name, rows in files.items():
        for row in rows:
            text = row["answer"] if name.startswith("sft") else f"{row['start']} {row['answer']}"
            equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text)
            assert equations, text
            for one, operation, two, result in equations:
                assert operations[operation](int(one), int(two)) == int(result), text
            assert text.endswith(f"\n#### {equations[-1][3]}")


def test_start_does_not_hold_the_result(files) -> None:
    """What is asked for is the last equation, and a completion of 24 tokens can hold it."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    for row in files["grpo-train.jsonl"]:
        assert not re.search(r"[=#]", row["start"].splitlines()[-1])
        assert re.match(r"\d+ [-+*/] \d+ = ", row["answer"])
        assert len(tokenizer.encode(f" {row['answer']}").ids) <= 24


# --------------------------------------------------------------------------- docstrings


@pytest.fixture(scope="module")
def rows(scripts):
    return scripts["docstrings"].build(scripts["docstrings"].library(), 0)


def test_docstrings_are_seeded(scripts, rows) -> None:
    assert scripts["docstrings"].build(scripts["docstrings"].library(), 0) == rows


def test_docstrings_are_enough(rows) -> None:
    """Interpreters without tkinter or with fewer modules still give a task of many classes."""
    train, evaluation = rows
    assert 1000 <= len(train) <= 1700
    assert 330 <= len(evaluation) <= 560
    areas = {row.area for row in train}
    assert 8 <= len(areas) <= 20
    assert areas == {row.area for row in evaluation}


def test_docstrings_are_disjoint(scripts, rows) -> None:
    train, evaluation = rows
    alike = scripts["docstrings"].alike
    keys = [alike(row.text) for row in (*train, *evaluation)]
    assert len(keys) == len(set(keys))
    assert not {row.source for row in train} & {row.source for row in evaluation}


def test_docstrings_do_not_name_their_label(scripts, rows) -> None:
    """No text has the name of a module of its area, or of its own file, in any word."""
    module = scripts["docstrings"]
    for row in (row for part in rows for row in part):
        stem = Path(row.source.split(":")[0]).stem
        names = {name.strip("_").lower() for name in (*module.AREAS[row.area], stem)}
        words = set(re.findall(r"[a-z]+", row.text.replace(module.MASK, " ").lower()))
        assert not words & (names - module._ORDINARY), row
        long = [name for name in names - module._ORDINARY if len(name) >= 5]
        assert not [name for name in long if name in row.text.lower()], row


def test_docstrings_have_ten_words(scripts, rows) -> None:
    module = scripts["docstrings"]
    for row in (row for part in rows for row in part):
        words = row.text.split()
        assert len(words) <= module.MOST_WORDS
        assert sum(word != module.MASK for word in words) >= module.FEWEST_WORDS


# --------------------------------------------------------------------------- report


ARMS = (
    arm_result("rival", (1.2, 1.3), nfn=1.4, difference=0.2, low=0.1, high=0.3, p=0.01,
               verdict=ArmVerdict.NON_INFERIOR),
    arm_result("all", (1.15, 1.16), nfn=1.1, difference=0.1, low=-0.1, high=0.3, p=0.2,
               verdict=ArmVerdict.NON_INFERIOR),
    arm_result("plop", (1.0, 1.1), nfn=0.9),
)  # fmt: skip


def save_trials(folder: Path, metric: str, quantity: str, missing: str = "") -> None:
    """Write a trial folder for every value of the arms; the trials of one arm failed."""
    for row in ARMS:
        for seed, value in enumerate(row.values):
            trial = folder / f"{row.arm}-{seed}"
            trial.mkdir(parents=True)
            failed = row.arm == missing
            spec = trial_spec(row.arm, seed)
            result = trial_result(spec, None if failed else value, metric=metric)
            result.save(trial / "result.json")
            logged = [{"step": step, quantity: value + seed - step / 10} for step in (1, 2, 3)]
            lines = [json.dumps(line) for line in [*logged, {"train_runtime": 1.0}]]
            (trial / "curve.jsonl").write_text("\n".join(lines) + "\n")


def run(arguments: list[str]) -> None:
    subprocess.run([sys.executable, str(SCRIPTS / "report.py"), *arguments], check=True)


def test_report(tmp_path: Path) -> None:
    """Rows of the table, correlation and curves come from the records beside each other."""
    for task, metric, quantity in (("sft", "loss", "loss"), ("grpo", "pass@1", "reward")):
        save_trials(tmp_path / task / "trials", metric, quantity)
        verification(*ARMS, task=task, metric=metric).save(tmp_path / task / "verification.json")
    records = [str(tmp_path / task / "verification.json") for task in ("sft", "grpo")]
    run([*records, "--output", str(tmp_path / "out"), "--base", "2.0", "--base", "0.5"])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| plop | 1,000 | 0.0003 | 1.05 | 1, 1.1 | – | – | – | 0.9 |" in text
    assert "+0.2000 (+0.1000 to +0.3000)" in text
    # Low NFN goes with low loss, a gain; and with a low pass rate, a loss.
    sft, grpo = text.split("## ")[1:]
    assert "| of the report | -0.956 | 6 | 3 | 0.33 | 0.8483 |" in sft
    assert "| of the report | 0.956 | 6 | 3 | 0.33 | 0.6517 |" in grpo
    for name in ("curves-1-sft.svg", "curves-2-grpo.svg"):
        assert name in text
        drawn = ET.parse(tmp_path / "out" / name).getroot()
        assert len(drawn.findall(".//{http://www.w3.org/2000/svg}polyline")) == 6 + 3


def test_report_leaves_out_failed_trials(scripts, tmp_path: Path) -> None:
    """A trial without a number is neither a gain of nothing nor a curve."""
    save_trials(tmp_path, "loss", "loss", missing="rival")
    report = scripts["report"]
    trials = report.read_trials(tmp_path)
    assert {trial.result.arm for trial in trials} == {"plop", "all"}
    pairs = report.gains_of(verification(*ARMS), trials, None)
    assert len(pairs) == 4
    assert report.correlate(pairs) is None
    labels = {
        line.label
        for panel in report.panels_of(verification(*ARMS), trials)
        for line in panel.lines
    }
    assert labels == {"plop", "all"}


def test_correlation_permutes_arms(scripts) -> None:
    """Many seeds of few arms do not make a small p: three arms have six orders."""
    pairs = [(name, nfn, -nfn) for name, nfn in (("a", 1.0), ("b", 2.0), ("c", 3.0))] * 50
    found = scripts["report"].correlate(pairs)
    assert found.rho == pytest.approx(-1)
    assert found.p == pytest.approx(2 / 6)
    unrelated = [
        (name, float(order), float(gain)) for order, name in enumerate("abc") for gain in (1, 2)
    ]
    assert scripts["report"].correlate(unrelated).p == 1


def test_drawing_refuses_what_it_cannot_show(scripts) -> None:
    drawing = sys.modules["drawing"]
    with pytest.raises(ValueError, match="without points"):
        drawing.draw([drawing.Panel("t", "x", "y", [])])
    line = drawing.Line("a", [(1, 0.0)])
    with pytest.raises(ValueError, match="logarithmic"):
        drawing.draw([drawing.Panel("t", "x", "y", [line], log_up=True)])
